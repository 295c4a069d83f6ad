"""Holds hundreds of millions of sorted scores as distinct values with counts, for `RankedScores`.

The scores of all pairs of 20,000 images would take 1.6 GB as float64. Of most of them only the side of a threshold on
which they lie matters, so equal or nearly equal ones may stand in one entry: a value, and how many scores have it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.utils.wording import counted


class CountedScores:
    """Stands for an ascending array in which each value occurs as often as its count says.

    It answers what `RankedScores` asks of an array: its size, the score of a rank, and ranks by bisection.

    Args:
        values: floating (K,), finite, ascending, none twice.
        counts: integer (K,), from 1.

    Raises:
        InputError: no values, or values and counts that are not as described.
    """

    ndim = 1

    def __init__(self, values: np.ndarray, counts: np.ndarray) -> None:
        if not values.size or values.shape != counts.shape or counts.min() < 1:
            raise InputError(f"expected one count from 1 for each value, found {values.shape} and {counts.shape}")
        if not np.isfinite(values).all() or (values[1:] <= values[:-1]).any():
            raise InputError("expected finite values in ascending order, none twice")
        self._values = values
        self._ends = np.cumsum(counts, dtype=np.int64)  # how many scores are up to each value
        self._starts = np.append(0, self._ends)
        self.size: int = int(self._ends[-1])
        self.dtype: np.dtype[Any] = values.dtype

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, ranks: Any) -> Any:
        """Returns the score of a rank, or of an array of ranks; ranks count from 0, negative ones from the end."""
        wanted = np.asarray(ranks)
        if (wanted >= self.size).any() or (wanted < -self.size).any():
            raise IndexError(f"rank {ranks} of {counted(self.size, 'score')}")
        found = self._values[np.searchsorted(self._ends, np.where(wanted < 0, wanted + self.size, wanted), "right")]
        return found if wanted.ndim else found[()]

    def searchsorted(self, scores: ArrayLike, side: Literal["left", "right"] = "left", sorter: None = None) -> Any:
        """Returns how many scores lie below each of `scores` ("left"), or not above it ("right"), as numpy does."""
        return self._starts[np.searchsorted(self._values, scores, side, sorter=sorter)]
