"""Measures false match and false non-match rates at a given threshold, cell by cell, with intervals over subjects.

A cell is any part of the comparisons: all of them, or those of one group of people, or of two groups. The threshold is
taken as it is, as a deployed system takes it, and not found anew in each draw: the intervals are those of the rates at
this threshold. Each draw weighs subjects as `facekd.verification.intervals.bootstrap` describes (the vertex bootstrap):
a non-mated comparison of a and b counts w_a w_b times, a mated one of a counts w_a times.

Shapes: N comparisons, S units (subjects), R draws, C cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from facekd.errors import InputError
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS, outer_interval, percentile_interval
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.intervals.subject_bootstrap import ImpostorTotals

Kind = Literal["impostor", "genuine"]
RULE_OF_30, RULE_OF_3 = 30, 3


class CellErrors(Protocol):
    """Provides how much the comparisons of each cell weigh, and how much of them errs at a threshold.

    Attributes:
        num_units: S, the number of subjects; 0 if they are not known.
        num_cells: C.
    """

    num_units: int
    num_cells: int

    def people(self, kind: Kind) -> np.ndarray:
        """Returns the number of subjects in the comparisons of each cell (C,)."""
        ...

    def totals(self, kind: Kind, drawn: np.ndarray) -> np.ndarray:
        """Returns the weight (R, C) of the comparisons in draws (R, S)."""
        ...

    def errors(self, kind: Kind, threshold: float, drawn: np.ndarray) -> np.ndarray:
        """Returns the weight (R, C) of those that err: non-mated ones that reach the threshold, or mated ones below."""
        ...


@dataclass(frozen=True)
class CellRates:
    """Holds the error rates of one kind of comparison at a threshold.

    Attributes:
        num: (C,) comparisons.
        errors: (C,) how many of them err.
        people: (C,) subjects in them.
        draws: (R, C) the rate in each draw; NaN in a draw without comparisons of the cell.
    """

    num: np.ndarray
    errors: np.ndarray
    people: np.ndarray
    draws: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Returns the share that errs (C,), NaN in cells without comparisons."""
        return np.divide(self.errors, self.num, out=np.full(len(self.num), np.nan), where=self.num > 0)

    def entry(self, cell: int) -> dict[str, Any]:
        """Returns the numbers of a cell in plain values: `num`, `errors`, `rate`, `ci95`, `interval`, `support`.

        The interval is over subjects if at least ten are in the comparisons, and never narrower than Wilson's: a draw
        repeats only errors that were seen.
        """
        num, errors = int(self.num[cell]), int(self.errors[cell])
        found: dict[str, Any] = {"num": num, "errors": errors, "people": int(self.people[cell])}
        if not num:
            return {**found, "rate": None, "ci95": None, "interval": None, "support": support_of(errors, num)}
        bounds, kind = wilson_interval(errors, num), "wilson"
        drawn = self.draws[:, cell]
        drawn = drawn[~np.isnan(drawn)]
        if drawn.size and self.people[cell] >= MIN_SUBJECTS:
            bounds, kind = outer_interval(percentile_interval(drawn), bounds), "subject bootstrap"
        return {
            **found,
            "rate": errors / num,
            "ci95": list(bounds),
            "interval": kind,
            "support": support_of(errors, num),
        }


def support_of(errors: int, num: int) -> str:
    """Says how far errors and comparisons carry a rate, by the rule of 30 and the rule of 3.

    Rule of 30 (G. R. Doddington et al., Speech Communication 31, 2000): with 30 errors or more, the true rate lies with
    90 % confidence within 30 % of the one observed, if comparisons are independent. Rule of 3: with no error among n
    independent comparisons, the true rate is below 3 / n with 95 % confidence.

    Returns:
        "enough" from 30 errors on, "few errors" from one on, "no error", or "no comparisons".
    """
    if not num:
        return "no comparisons"
    return "enough" if errors >= RULE_OF_30 else "few errors" if errors else "no error"


def resolves(rate: float, num: int) -> str:
    """Says whether so many comparisons can show an error rate: "well", "barely" or "not".

    Args:
        rate: the error rate.
        num: number of comparisons.

    Returns:
        "well" if 30 errors are expected among them (the rule of 30), "barely" if 3 are (fewer comparisons without any
        error could not show that the rate is below this one: the rule of 3), else "not".
    """
    expected = rate * num
    return "well" if expected >= RULE_OF_30 else "barely" if expected >= RULE_OF_3 else "not"


class ListedErrors:
    """Provides the errors of comparisons that are listed one by one; see `CellErrors`.

    Args:
        scores: (N,).
        is_same: bool (N,).
        subjects: the first and the second subject of each comparison, (N,) each, names or numbers; None if not known,
            and then there are no draws.
        cells: integer (N,), the cell of each comparison; -1 for none. None puts all into one cell.
        num_cells: C.

    Raises:
        InputError: arrays of different lengths.
    """

    def __init__(
        self,
        scores: np.ndarray,
        is_same: np.ndarray,
        subjects: tuple[np.ndarray, np.ndarray] | None,
        cells: np.ndarray | None = None,
        num_cells: int = 1,
    ) -> None:
        cells = np.zeros(len(scores), np.int64) if cells is None else cells
        if len({len(scores), len(is_same), len(cells), *(map(len, subjects or ()))}) > 1:
            raise InputError("scores, labels, cells and subjects must be equally many")
        self.num_cells = num_cells
        self.num_units = 0
        first = second = np.zeros(len(scores), np.int64)
        if subjects is not None:
            names, codes = np.unique(np.concatenate(subjects), return_inverse=True)
            self.num_units, first, second = len(names), codes[: len(scores)], codes[len(scores) :]
        self._units, self._scores, self._is_same, self._cells = (first, second), scores, is_same, cells
        self._sums: dict[Kind, WeightSums] = {
            kind: self._weights(kind, self._of_kind(kind)) for kind in ("impostor", "genuine")
        }

    def people(self, kind: Kind) -> np.ndarray:
        """See `CellErrors.people`."""
        if not self.num_units:
            return np.zeros(self.num_cells, np.int64)
        chosen = self._of_kind(kind)
        cells = self._cells[chosen]
        keys = np.concatenate([cells * self.num_units + units[chosen] for units in self._units])
        return np.bincount(np.unique(keys) // self.num_units, minlength=self.num_cells)

    def totals(self, kind: Kind, drawn: np.ndarray) -> np.ndarray:
        """See `CellErrors.totals`."""
        return self._sums[kind](drawn)

    def errors(self, kind: Kind, threshold: float, drawn: np.ndarray) -> np.ndarray:
        """See `CellErrors.errors`."""
        chosen = self._of_kind(kind)
        is_accepted = self._scores[chosen] >= threshold
        return self._weights(kind, chosen[is_accepted if kind == "impostor" else ~is_accepted])(drawn)

    def _of_kind(self, kind: Kind) -> np.ndarray:
        return np.flatnonzero((self._is_same == (kind == "genuine")) & (self._cells >= 0))

    def _weights(self, kind: Kind, chosen: np.ndarray) -> WeightSums:
        first, second = (units[chosen] for units in self._units)
        return WeightSums(kind, first, second, self._cells[chosen], max(self.num_units, 1), self.num_cells)


class WeightSums:
    """Adds up the weights of comparisons in each cell.

    Args:
        kind: mated comparisons count the weight of their subject, non-mated ones the product of two weights.
        first, second: (n,) the units of each comparison.
        cells: (n,) the cell of each.
        num_units, num_cells: S and C.
    """

    def __init__(
        self, kind: Kind, first: np.ndarray, second: np.ndarray, cells: np.ndarray, num_units: int, num_cells: int
    ) -> None:
        self._kind = kind
        self._counts = np.bincount(cells, minlength=num_cells).astype(np.float64)
        if kind == "genuine":
            keys = first.astype(np.int64) * num_cells + cells
            counted = np.bincount(keys, minlength=num_units * num_cells)
            self._of_unit = counted.reshape(num_units, num_cells).astype(np.float64)
            return
        self._of_cell = []
        order = np.argsort(cells, kind="stable")
        ends = np.cumsum(self._counts).astype(np.int64)
        for some in np.split(order, ends[:-1]):
            is_same = np.zeros(len(some), bool)
            self._of_cell.append(ImpostorTotals(first[some], second[some], is_same, num_units))

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        """Returns the sums (R, C) in draws (R, S); with no units, the counts for each draw."""
        if not drawn.shape[1]:
            return np.tile(self._counts, (len(drawn), 1))
        if self._kind == "genuine":
            return drawn @ self._of_unit
        sums = [
            totals(drawn) if count else np.zeros(len(drawn))
            for totals, count in zip(self._of_cell, self._counts, strict=True)
        ]
        return np.stack(sums, axis=1)


def draw_weights(num_units: int, replicates: int, seed: int) -> np.ndarray:
    """Draws how often each subject counts: (R, S) whole numbers as float64; no rows if subjects are not known."""
    if not num_units:
        return np.zeros((0, 0))
    generator = np.random.default_rng(seed)
    drawn = [np.bincount(generator.integers(num_units, size=num_units), minlength=num_units) for _ in range(replicates)]
    return np.array(drawn, np.float64).reshape(replicates, num_units)


def cell_rates(source: CellErrors, kind: Kind, threshold: float, drawn: np.ndarray) -> CellRates:
    """Measures the error rate of every cell at a threshold, and in every draw.

    Args:
        source: the comparisons.
        kind: "impostor" for false match rates, "genuine" for false non-match rates.
        threshold: a comparison is accepted from this score on.
        drawn: (R, S) draws of the subjects, of `draw_weights`; R may be 0.
    """
    ones = np.ones((1, source.num_units))
    num = source.totals(kind, ones)[0]
    errors = source.errors(kind, threshold, ones)[0]
    draws = np.zeros((0, source.num_cells))
    if len(drawn):
        totals, wrong = source.totals(kind, drawn), source.errors(kind, threshold, drawn)
        draws = np.divide(wrong, totals, out=np.full(totals.shape, np.nan), where=totals > 0)
    return CellRates(np.rint(num).astype(np.int64), np.rint(errors).astype(np.int64), source.people(kind), draws)
