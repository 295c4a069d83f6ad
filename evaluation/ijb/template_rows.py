"""Maps template ids, which are sparse, to rows of the ascending list of known ids, millions at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MAX_TABLE_ID = 1 << 25  # smaller ids are looked up in a table, larger ones by bisection
IDS_CHUNK = 1 << 16  # ids that fit the processor's cache


def distinct_ids(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the ids that occur in any of the columns, ascending: int64."""
    largest = max(int(column.max()) for column in columns)
    if min(int(column.min()) for column in columns) < 0 or largest >= MAX_TABLE_ID:
        return np.unique(np.concatenate([np.unique(column) for column in columns]).astype(np.int64))
    seen = np.zeros(largest + 1, bool)
    for column in columns:
        for start in range(0, len(column), IDS_CHUNK):
            seen[column[start : start + IDS_CHUNK].astype(np.intp, copy=False)] = True
    return np.flatnonzero(seen)


class TemplateRows:
    """Looks up the rows of ids, given all ids (T,) in ascending order; rows are uint16 if they fit, else int32."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._dtype = np.uint16 if len(ids) <= 1 << 16 else np.int32
        self._table: np.ndarray | None = None
        if ids[0] >= 0 and ids[-1] < MAX_TABLE_ID:
            self._table = np.zeros(int(ids[-1]) + 1, self._dtype)
            self._table[ids] = np.arange(len(ids), dtype=self._dtype)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Returns the row of each of some ids (n,), which must all be known."""
        rows = np.empty(len(ids), self._dtype)

        def look_up(start: int) -> None:
            some = ids[start : start + IDS_CHUNK]
            at = np.searchsorted(self.ids, some) if self._table is None else self._table[some.astype(np.intp)]
            rows[start : start + IDS_CHUNK] = at

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(look_up, range(0, len(ids), IDS_CHUNK)))
        return rows
