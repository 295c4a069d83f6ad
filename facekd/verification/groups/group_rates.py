"""Measures error rates of groups of people and of pairs of groups, and how far they differ, as plain values for JSON.

Shapes: G groups, C = G (G + 1) / 2 cells, one for each unordered pair of groups; R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.verification.groups.cell_rates import CellErrors, CellRates, Kind, cell_rates, draw_weights
from facekd.verification.groups.differentials import (
    differences_to_others,
    measure_differentials,
    ratios_to_others,
    usable_interval,
)

RATES: dict[Kind, str] = {"impostor": "fmr", "genuine": "fnmr"}
# What the comparisons within one group alone give: the entries of `tar_at_far`, or a sentence that says why not.
MeasureGroup = Callable[[int], "list[dict[str, Any]] | str"]


def cell_of_pairs(first: np.ndarray, second: np.ndarray, num_groups: int) -> np.ndarray:
    """Numbers the unordered pairs of groups: int64 (N,), -1 where a group is unknown.

    Args:
        first, second: integer (N,) groups from 0, -1 for none.
        num_groups: G.
    """
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
    cells = low * num_groups - low * (low - 1) // 2 + high - low
    return np.where(low < 0, -1, cells)


def cells_of_groups(num_groups: int) -> list[tuple[int, int]]:
    """Lists the two groups of each cell, in the order of `cell_of_pairs`."""
    return [(first, second) for first in range(num_groups) for second in range(first, num_groups)]


@dataclass(frozen=True)
class GroupRates:
    """Measures the cells of one attribute at thresholds.

    Attributes:
        names: (G,) the names of the groups.
        source: the comparisons, in the cells of `cell_of_pairs`.
        drawn: (R, S) draws of the subjects.
    """

    names: Sequence[str]
    source: CellErrors
    drawn: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], source: CellErrors, replicates: int, seed: int) -> GroupRates:
        """Draws the subjects; 0 replicates leave Wilson's intervals."""
        return cls(names, source, draw_weights(source.num_units, replicates, seed))

    def at(self, point: dict[str, Any], own: Sequence[list[dict[str, Any]] | str]) -> dict[str, Any]:
        """Returns what results.json says of the groups at one operating point (docs/results.md).

        Args:
            point: the entry of `tar_at_far`, measured on all comparisons.
            own: for each group the entries of `tar_at_far` within it, or why there are none.
        """
        rates = {RATES[kind]: cell_rates(self.source, kind, point["threshold"], self.drawn) for kind in RATES}
        pairs = [
            {
                "first": self.names[first],
                "second": self.names[second],
                **{name: found.entry(cell) for name, found in rates.items()},
            }
            for cell, (first, second) in enumerate(cells_of_groups(len(self.names)))
        ]
        within = {name: self._within(found) for name, found in rates.items()}
        return {
            "far": point["far"],
            "threshold": point["threshold"],
            "pairs": pairs,
            "groups": self._groups(point["far"], within, own),
            "differentials": {name: measure_differentials(*found) for name, found in within.items()},
        }

    def _within(self, found: CellRates) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rates within each group (G,), and in each draw (R, G)."""
        cells = [cell for cell, (first, second) in enumerate(cells_of_groups(len(self.names))) if first == second]
        return found.rates[cells], found.draws[:, cells]

    def _groups(
        self,
        far: float,
        within: dict[str, tuple[np.ndarray, np.ndarray]],
        own: Sequence[list[dict[str, Any]] | str],
    ) -> list[dict[str, Any]]:
        return [
            {
                "group": name,
                **{rate: _to_others(*found, number) for rate, found in within.items()},
                "own": _own_point(own[number], far),
            }
            for number, name in enumerate(self.names)
        ]


def _to_others(rates: np.ndarray, draws: np.ndarray, group: int) -> dict[str, Any]:
    """Compares the rate of a group with the mean of the other groups' rates: as a ratio, and as a difference."""
    found = {}
    for name, compare in (("ratio_to_others", ratios_to_others), ("minus_others", differences_to_others)):
        value = float(compare(rates)[group])
        is_defined = bool(np.isfinite(value))
        # Draws repeat only errors that were seen: of none, they would make an interval without width.
        has_interval = is_defined and (rates[group] > 0 or name != "ratio_to_others")
        found[name] = {
            "value": value if is_defined else None,
            "ci95": usable_interval(compare(draws)[:, group]) if has_interval else None,
        }
    return found


def _own_point(measured: list[dict[str, Any]] | str, far: float) -> dict[str, Any]:
    """Returns the threshold at which a group alone has a FAR, and its FNMR there; or the reason why there is none."""
    empty = dict.fromkeys(("threshold", "fmr", "fnmr", "ci95", "interval", "reason"))
    if isinstance(measured, str):
        return {**empty, "reason": measured}
    point = next(point for point in measured if point["far"] == far)
    if point["tar"] is None:
        return {**empty, "reason": point["reason"]}
    bounds = point["ci95"]
    return {
        "threshold": point["threshold"],
        "fmr": point["achieved_far"],
        "fnmr": 1 - point["tar"],
        "ci95": bounds and [1 - bounds[1], 1 - bounds[0]],
        "interval": point["interval"],
        "reason": None,
    }


def measure_groups(
    names: Sequence[str],
    source: CellErrors,
    points: Sequence[dict[str, Any]],
    measure_group: MeasureGroup,
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Measures the groups of one attribute at every operating point that was measured on all comparisons.

    Args:
        names: (G,) the names of the groups.
        source: the comparisons, in the cells of `cell_of_pairs`.
        points: the entries of `tar_at_far`.
        measure_group: measures the comparisons within a group, given by its number.
        replicates: number of draws; 0 leaves Wilson's intervals.
        seed: random seed of the draws.
    """
    usable = [point for point in points if point["tar"] is not None and np.isfinite(point["threshold"])]
    if not usable:
        return []
    rates = GroupRates.of(names, source, replicates, seed)
    own = [measure_group(number) for number in range(len(names))]
    return [rates.at(point, own) for point in usable]


def thin_cells(points: Sequence[dict[str, Any]]) -> list[str]:
    """Names the cells whose rates rest on too little, a sentence for each operating point and rate that has some."""
    sentences = []
    for point in points:
        for rate, what in (("fmr", "false match"), ("fnmr", "false non-match")):
            by_support: dict[str, list[str]] = {}
            for pair in point["pairs"]:
                is_within = pair["first"] == pair["second"]
                if pair[rate]["support"] == "enough" or (rate == "fnmr" and not pair[rate]["num"] and not is_within):
                    continue
                name = pair["first"] if is_within else f"{pair['first']} x {pair['second']}"
                by_support.setdefault(pair[rate]["support"], []).append(name)
            for support, cells in by_support.items():
                sentences.append(f"FAR {point['far']:g}, {what} rate, {support}: {', '.join(cells)}")
    return sentences
