"""Counts the errors of all pairs of images at a threshold, cell by cell, without listing the pairs that do not err."""

from __future__ import annotations

import numpy as np

from evaluation.sets.all_pairs import AllPairs
from facekd.verification.groups.cell_rates import Kind, WeightSums
from facekd.verification.groups.group_rates import cell_of_pairs, cells_of_groups


class AllPairsErrors:
    """Provides the errors of all pairs of images; see `facekd.verification.groups.cell_rates.CellErrors`.

    Cells are the pairs of groups of `cell_of_pairs`; units are people, as in `AllPairs`.

    Args:
        pairs: the pairs, N images of S people.
        groups: integer (N,) the group of each image, -1 for none; None puts all into one.
        num_groups: G.
    """

    def __init__(self, pairs: AllPairs, groups: np.ndarray | None = None, num_groups: int = 1) -> None:
        self._pairs = pairs
        self._units = pairs.units
        self._groups = np.zeros(len(self._units), np.int64) if groups is None else groups
        self._num_groups = num_groups
        self._cells = cells_of_groups(num_groups)
        self.num_units: int = pairs.num_units
        self.num_cells: int = len(self._cells)
        # How many images of each group every person has, (S, G).
        known = self._groups >= 0
        keys = self._units[known] * num_groups + self._groups[known]
        counts = np.bincount(keys, minlength=self.num_units * num_groups)
        self._images: np.ndarray = counts.reshape(self.num_units, num_groups).astype(np.float64)
        first, second, self._genuine = pairs.genuine_pairs()
        self._genuine_pairs = first, second
        self._genuine_sums = self._sums("genuine", first, second)

    def people(self, kind: Kind) -> np.ndarray:
        """See `CellErrors.people`."""
        if kind == "genuine":
            first, second = self._genuine_pairs
            cells = cell_of_pairs(self._groups[first], self._groups[second], self._num_groups)
            known = cells >= 0
            found = np.unique(self._units[first[known]] * self.num_cells + cells[known]) % self.num_cells
            return np.bincount(found, minlength=self.num_cells)
        members = self._images > 0
        sizes = [int((members[:, one] | members[:, other]).sum()) for one, other in self._cells]
        has_pairs = self.totals("impostor", np.ones((1, self.num_units)))[0] > 0
        return np.array(sizes) * has_pairs

    def totals(self, kind: Kind, drawn: np.ndarray) -> np.ndarray:
        """See `CellErrors.totals`: all images of two people are compared."""
        if kind == "genuine":
            return self._genuine_sums(drawn)
        weights, squares = drawn @ self._images, drawn**2
        sums = []
        for one, other in self._cells:
            # Every image with every image, less those of one person; within a group each pair counts once.
            own = squares @ (self._images[:, one] * self._images[:, other])
            sums.append((weights[:, one] * weights[:, other] - own) / (2 if one == other else 1))
        return np.stack(sums, axis=1)

    def errors(self, kind: Kind, threshold: float, drawn: np.ndarray) -> np.ndarray:
        """See `CellErrors.errors`."""
        if kind == "impostor":
            return self._sums(kind, *self._pairs.accepted_impostors(threshold))(drawn)
        is_wrong = self._genuine < threshold
        first, second = self._genuine_pairs
        return self._sums(kind, first[is_wrong], second[is_wrong])(drawn)

    def _sums(self, kind: Kind, first: np.ndarray, second: np.ndarray) -> WeightSums:
        cells = cell_of_pairs(self._groups[first], self._groups[second], self._num_groups)
        known = np.flatnonzero(cells >= 0)
        one, other = self._units[first[known]], self._units[second[known]]
        return WeightSums(kind, one, other, cells[known], self.num_units, self.num_cells)
