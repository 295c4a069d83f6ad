"""Sorts millions of scores lazily: only the stretches that are asked about.

A few thresholds and rates need only a few stretches of the sorted scores. So the scores lie in pieces, each entirely
above the one before. A question splits the piece that holds its answer until that piece is short, and sorts it: a
bucket sort on demand. Once every stretch has been asked about, everything is sorted. Pure numpy.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

MAX_SORTED = 1 << 16  # pieces of up to this many scores are sorted, longer ones split
CUT_CHUNK = 1 << 16  # scores grouped together: they fit the processor's cache
NUM_PARTS = 256  # parts of a split: numbers of one byte sort fastest
Side = Literal["left", "right"]


class AscendingScores:
    """Returns scores (n,) by rank, and ranks by score, as the sorted array would.

    Args:
        scores: finite float32 or float64 (n,), n >= 1; this object owns the array and may reorder it.
        dtype: type of the answers; None for that of the scores. float64 with float32 scores allows for `replace`.

    Attributes:
        size: number of scores n.
        dtype: type of the answers.
    """

    def __init__(self, scores: np.ndarray, dtype: Any = None) -> None:
        self.size = scores.size
        self.dtype = scores.dtype if dtype is None else np.dtype(dtype)
        self._pieces = [scores]
        self._is_sorted = [scores.size < 2]
        # For each piece, the rank of its first score and a lower bound of its scores; for the first piece -inf.
        self._starts = np.zeros(1, np.int64)
        self._lows = np.array([-np.inf])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, ranks: Any) -> Any:
        """Returns the scores of these ranks, a whole number or an array; negative ranks count from the end."""
        given = np.asarray(ranks)
        wanted = np.atleast_1d(given).astype(np.int64)
        wanted = np.where(wanted < 0, wanted + self.size, wanted)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.size):
            raise IndexError(f"ranks run from 0 to {self.size - 1:,}")
        # Sort the pieces that hold these ranks, then read the scores piece by piece.
        self._sort_pieces_of(lambda: np.searchsorted(self._starts, wanted, side="right") - 1)
        piece = np.searchsorted(self._starts, wanted, side="right") - 1
        found = np.empty(wanted.shape, self.dtype)
        for at in np.unique(piece):
            inside = piece == at
            found[inside] = self._pieces[at][wanted[inside] - self._starts[at]]
        return found[0] if given.ndim == 0 else found

    def rank(self, thresholds: Any, side: Side = "left") -> Any:
        """Counts the scores below (left), or not above (right), each threshold, as `numpy.searchsorted` does."""
        given = np.asarray(thresholds)
        wanted = np.atleast_1d(given).astype(np.float64)
        self._sort_pieces_of(lambda: self._piece_of(wanted, side))
        piece = self._piece_of(wanted, side)
        found = np.zeros(wanted.shape, np.int64)
        for at in np.unique(piece[piece >= 0]):
            inside = np.flatnonzero(piece == at)
            scores, some = self._pieces[at], wanted[inside]
            # Thresholds in the precision of the piece: otherwise numpy would convert the whole piece.
            if scores.dtype == np.float32:
                some = _rounded_away(some, side)
            found[inside] = self._starts[at] + np.searchsorted(scores, some, side=side)
        return int(found[0]) if given.ndim == 0 else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._sort_pieces_of(lambda: np.arange(len(self._pieces)))
        return np.concatenate(self._pieces).astype(dtype or self.dtype, copy=False)

    def between(self, low: Any, high: Any) -> np.ndarray:
        """Returns the scores from `low` to `high`, both included, ascending."""
        return self[np.arange(self.rank(low, "left"), self.rank(high, "right"))]

    def replace(self, low: float, high: float, scores: np.ndarray) -> None:
        """Replaces the scores from `low` to `high` by as many others within the same limits.

        Args:
            low, high: the limits, both included.
            scores: float64, in any order.
        """
        # Both limits are found by sorting the pieces at them.
        begin, end = self.rank(low, "left"), self.rank(high, "right")
        if end - begin != len(scores):
            raise ValueError(f"{len(scores):,} scores for the {end - begin:,} from {low} to {high}")
        if begin == end:
            return
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        last = int(np.searchsorted(self._starts, end, side="left")) - 1
        # The remainders of the first and the last piece are sorted, because those pieces have just been asked about.
        before = self._pieces[first][: begin - self._starts[first]]
        after = self._pieces[last][end - self._starts[last] :]
        pieces = [piece for piece in (before, np.sort(scores), after) if len(piece)]
        lows = [float(low) if begin else -math.inf, *after[:1].tolist()]
        starts = begin + np.cumsum([0, len(scores)])[: len(lows)]
        gone = slice(first + (len(before) > 0), last + 1)
        # The new scores may lie above the lower bound of the next piece; `high` is a valid bound for it.
        following = np.maximum(self._lows[gone.stop :], float(high))
        self._lows = np.concatenate([self._lows[: gone.start], lows, following])
        self._starts = np.concatenate([self._starts[: gone.start], starts, self._starts[gone.stop :]])
        self._pieces[first : last + 1] = pieces
        self._is_sorted[first : last + 1] = [True] * len(pieces)

    def _piece_of(self, thresholds: np.ndarray, side: Side) -> np.ndarray:
        """Returns the piece that holds the rank of each threshold: all scores before it are below, none after it."""
        return np.maximum(np.searchsorted(self._lows, thresholds, side=side) - 1, 0)

    def _sort_pieces_of(self, find: Any) -> None:
        """Splits and sorts until every piece that `find` returns is sorted."""
        while True:
            rough = [at for at in np.unique(find()).tolist() if at >= 0 and not self._is_sorted[at]]
            if not rough:
                return
            for at in reversed(rough):  # from the last on: a split moves the pieces behind it
                if len(self._pieces[at]) <= MAX_SORTED:
                    self._pieces[at].sort()
                    self._is_sorted[at] = True
                else:
                    self._cut(at)

    def _cut(self, at: int) -> None:
        """Splits one piece into parts."""
        parts = _cut_by_value(self._pieces[at])
        ends = np.cumsum([len(part) for part in parts])
        self._pieces[at : at + 1] = parts
        self._is_sorted[at : at + 1] = [False] * len(parts)
        self._starts = np.insert(self._starts, at + 1, self._starts[at] + ends[:-1])
        self._lows = np.insert(self._lows, at + 1, [float(part.min()) for part in parts[1:]])


def _cut_by_value(scores: np.ndarray) -> list[np.ndarray]:
    """Splits scores into two or more parts, each above the one before: by equal widths, else at the median."""
    low, high = scores.min(), scores.max()
    with np.errstate(all="ignore"):  # equal scores, or a width beyond the largest number: then infinite, and not used
        scale = (NUM_PARTS - 1) / (high - low)
    if 0 < scale < np.inf:
        starts = np.arange(0, len(scores), CUT_CHUNK)

        def group(start: int) -> np.ndarray:
            some = scores[start : start + CUT_CHUNK]
            # The number of the part of each score. Rounding keeps the order: a higher score never gets a lower number.
            number = ((some - low) * scale).astype(np.uint8)
            some[:] = some[number.argsort(kind="stable")]
            return np.bincount(number, minlength=NUM_PARTS)

        with ThreadPoolExecutor(2) as pool:
            counts = np.array(list(pool.map(group, starts.tolist())))
        # Each chunk is now grouped by part: gather the groups of a part from all chunks.
        sizes = counts.sum(axis=0)
        if sizes.max() <= len(scores) // 2:
            ends = starts[:, None] + np.cumsum(counts, axis=1)
            bounds = zip((ends - counts).T.tolist(), ends.T.tolist(), strict=True)
            parts = [[scores[begin:end] for begin, end in zip(*both, strict=True)] for both in bounds]
            return [np.concatenate(part) for part, size in zip(parts, sizes, strict=True) if size]
    # Most scores fall into one part: equal widths do not split them.
    middle = len(scores) // 2
    scores.partition(middle)
    return [scores[:middle], scores[middle:]]


def _rounded_away(thresholds: np.ndarray, side: Side) -> np.ndarray:
    """Rounds thresholds to float32 so that no float32 score changes its side: up for `left`, down for `right`."""
    with np.errstate(over="ignore"):
        rounded = thresholds.astype(np.float32)
    wrong, towards = (rounded < thresholds, np.inf) if side == "left" else (rounded > thresholds, -np.inf)
    return np.where(wrong, np.nextafter(rounded, np.float32(towards)), rounded)
