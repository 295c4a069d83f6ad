"""Measures TAR@FAR and EER in every draw of a bootstrap, for millions of comparisons, in seconds.

A draw gives each comparison a weight. A TAR@FAR needs to know where, from the highest score down, the summed weights of
the impostors first exceed what the FAR allows. That place is found for all draws together: the high scores are cut into
segments, the weight of a segment in every draw is one sparse product (comparisons of units a and b, times the weights
of b, times those of a), and only the segment in which a draw ends is examined comparison by comparison. All sums are of
whole numbers, hence exact.

`facekd.verification.intervals.bootstrap` says what the draws mean and makes intervals of them.

Shapes: N comparisons, S units, R draws, G genuine comparisons, K impostor comparisons examined, F targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy import sparse

from facekd.verification.operating_points import (
    crossing_rate,
    first_refused_position,
    num_accepted_above,
    num_allowed_false_accepts,
)
from facekd.verification.ranked_scores import RankedScores

GROWTH, FIRST_SEGMENT = 1.04, 64  # each segment adds 4 % to what lies above it
# Impostors examined beyond those of the largest FAR; doubled if a draw needs more.
SLACK, EXTRA = 1.6, 1000
# (draw, comparison) cells examined together, and (draw, unit or comparison) cells drawn together: both bound the
# memory and leave the result as it is.
CELLS_CHUNK, DRAWN_CHUNK = 4_000_000, 40_000_000
# Comparisons are counted in a dense S x S table up to this S, and if the table is not much larger than what it counts.
MAX_DENSE_SUBJECTS, MAX_CELLS_PER_COMPARISON = 5000, 16
EXACT_COUNT = 1 << 20  # as many comparisons, each counting less than 16 times, add up exactly in float32
DENSE_CELLS = 40  # a cell of a dense product costs this much less than a comparison of a sparse one


@dataclass(frozen=True)
class Units:
    """Says what is resampled: subjects, or comparisons.

    In a draw a genuine comparison i counts `weights[first[i]]` times, an impostor one
    `weights[first[i]] * weights[second[i]]` times.

    Attributes:
        first, second: integer (N,), units from 0; for genuine comparisons they are equal.
        groups: numbers of units drawn with replacement among themselves. Units are numbered group by group; one more
            unit, the last, counts once in every draw.
    """

    first: np.ndarray
    second: np.ndarray
    groups: tuple[int, ...]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draws the weights of the units: whole numbers as float64 (S,)."""
        counts = [np.bincount(generator.integers(size, size=size), minlength=size) for size in self.groups]
        return np.concatenate([*counts, [1.0]])


class Comparisons(Protocol):
    """Provides the comparisons that draws weigh, without listing all impostors: only the highest decide a threshold.

    Attributes:
        genuine: (G,) scores of genuine comparisons, descending.
        genuine_units: integer (G,) the unit of each.
        num_impostor: number of impostor comparisons.
        num_units: S; weights of a draw are (S,).
    """

    genuine: np.ndarray
    genuine_units: np.ndarray
    num_impostor: int
    num_units: int

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draws the weights of the units: whole numbers as float64 (S,)."""
        ...

    def totals(self, drawn: np.ndarray) -> np.ndarray:
        """Returns the total weight (R,) of all impostors in draws (R, S)."""
        ...

    def highest(self, count: int) -> Tail:
        """Returns at least the `count` highest impostors, ties included."""
        ...


@dataclass(frozen=True)
class Draws:
    """Holds what was measured in each draw: TAR (F, R) by the rule "exact", and EER (R,)."""

    tar: np.ndarray
    eer: np.ndarray


def resample(
    ranked: RankedScores,
    scores: np.ndarray,
    is_same: np.ndarray,
    units: Units,
    fars: Sequence[float],
    replicates: int,
    seed: int,
) -> Draws:
    """Measures draws over comparisons that are all listed; see `measure_draws`.

    Args:
        ranked: the scores, ranked.
        scores: (N,).
        is_same: bool (N,).
        units: what is resampled.
        fars: targets in (0, 1].
        replicates: number of draws.
        seed: random seed of the draws.
    """
    comparisons = ListedComparisons(ranked, scores, is_same, units)
    return measure_draws(comparisons, ranked.equal_error_point().far, fars, replicates, seed)


def measure_draws(
    comparisons: Comparisons, equal_error_far: float, fars: Sequence[float], replicates: int, seed: int
) -> Draws:
    """Measures the draws; those without genuine or without impostor comparisons are left out.

    Equal seeds give equal weights to equally many units: draws of several models on one set are paired.

    Args:
        comparisons: what is weighed.
        equal_error_far: the FAR at which all comparisons, each counted once, have equal error rates.
        fars: targets in (0, 1].
        replicates: number of draws.
        seed: random seed of the draws.
    """
    # What is the same for every draw: the comparisons in falling order.
    generator = np.random.default_rng(seed)
    reach = max([*fars, equal_error_far]) * SLACK * comparisons.num_impostor + EXTRA
    tail = comparisons.highest(int(reach))

    # The draws, as many at a time as the memory allows.
    tars, eers = [], []
    chunk = max(DRAWN_CHUNK // (comparisons.num_units + comparisons.genuine.size), 1)
    for start in range(0, replicates, chunk):
        drawn = np.stack([comparisons.draw(generator) for _ in range(min(chunk, replicates - start))])
        draws = _Draws(drawn, comparisons.totals(drawn), comparisons.genuine, comparisons.genuine_units)
        # Look further down the impostors until every draw has found its thresholds.
        while (found := draws.measure(tail, fars)) is None:
            reach = 2 * reach + 1
            tail = comparisons.highest(int(reach))
        usable = (draws.totals > 0) & (draws.genuine_totals > 0)
        tars.append(found[0][:, usable])
        eers.append(found[1][usable])
    return Draws(np.concatenate(tars, axis=1), np.concatenate(eers))


class ListedComparisons:
    """Provides comparisons that are listed one by one; see `Comparisons`.

    Args:
        ranked: the scores, ranked.
        scores: (N,).
        is_same: bool (N,).
        units: what is resampled.
    """

    def __init__(self, ranked: RankedScores, scores: np.ndarray, is_same: np.ndarray, units: Units) -> None:
        genuine = np.flatnonzero(is_same)
        genuine = genuine[np.argsort(-scores[genuine], kind="stable")]
        self.genuine: np.ndarray = scores[genuine]
        self.genuine_units: np.ndarray = units.first[genuine]
        self.num_impostor: int = ranked.impostor.size
        self.num_units: int = sum(units.groups) + 1
        self.totals: ImpostorTotals = ImpostorTotals(units.first, units.second, is_same, self.num_units)
        self._ranked, self._scores, self._is_same, self._units = ranked, scores, is_same, units

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draws the weights of the units: whole numbers as float64 (S,)."""
        return self._units.draw(generator)

    def highest(self, count: int) -> Tail:
        """Returns at least the `count` highest impostors, ties included."""
        ranked, is_all = self._ranked, count >= self.num_impostor
        chosen = ~self._is_same
        if not is_all:
            chosen &= self._scores >= ranked.impostor[self.num_impostor - count]
        pairs = np.flatnonzero(chosen)
        return Tail.sorted(self._scores[pairs], self._units.first[pairs], self._units.second[pairs], is_all)


class ImpostorTotals:
    """Computes the total weight of all impostor comparisons in draws, by counting the comparisons of each two units.

    Args:
        first, second: integer (N,), the units of each comparison; equal for genuine ones.
        is_same: bool (N,).
        num_units: S.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, is_same: np.ndarray, num_units: int) -> None:
        self.num_units = num_units
        is_dense = num_units <= MAX_DENSE_SUBJECTS and num_units**2 <= MAX_CELLS_PER_COMPARISON * len(first)
        if is_dense:  # a product of dense matrices is hundreds of times faster
            counts, step = np.zeros(num_units**2), 1 << 22
            for start in range(0, len(first), step):
                cells = first[start : start + step].astype(np.int64) * num_units + second[start : start + step]
                counts += np.bincount(cells, minlength=num_units**2)
            self._table = counts.reshape(num_units, num_units)
            np.fill_diagonal(self._table, 0)  # genuine comparisons are those of one unit
            return
        # Many units with few comparisons each: a sparse matrix, in which repeated entries add up.
        impostor = np.flatnonzero(~is_same)
        ones, cells = np.ones(len(impostor)), (second[impostor], first[impostor])
        self._table = sparse.csr_array((ones, cells), shape=(num_units, num_units))

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        """Returns the total weights (R,) of draws (R, S)."""
        if isinstance(self._table, np.ndarray):
            return np.einsum("rs,rs->r", drawn @ self._table, drawn)
        # In blocks, because each product is as large as its draws.
        blocks = np.array_split(drawn, max(len(drawn) // 50, 1))
        return np.concatenate([np.einsum("sr,sr->r", self._table @ block.T, block.T) for block in blocks])


@dataclass(frozen=True)
class Tail:
    """Holds the highest impostor scores, descending (K,), and their units; `is_all` if there are no others."""

    scores: np.ndarray
    first: np.ndarray
    second: np.ndarray
    is_all: bool

    @classmethod
    def sorted(cls, scores: np.ndarray, first: np.ndarray, second: np.ndarray, is_all: bool) -> Tail:
        """Returns the tail of impostors in any order (K,)."""
        order = np.argsort(-scores, kind="stable")
        return cls(scores[order], first[order], second[order], is_all)


class _Draws:
    """Holds draws of the units, and the weights of the genuine comparisons in each.

    Args:
        drawn: (R, S) weights of the units.
        totals: (R,) weight of all impostors.
        genuine: (G,) scores, descending.
        genuine_units: (G,) the unit of each.
    """

    def __init__(self, drawn: np.ndarray, totals: np.ndarray, genuine: np.ndarray, genuine_units: np.ndarray) -> None:
        self.drawn, self.totals, self.genuine = drawn, totals, genuine
        self.across = np.ascontiguousarray(drawn.T.astype(np.float32))  # (S, R); small whole numbers
        # (R, G + 1): the weight of the highest 0, 1, ... G genuine comparisons.
        self.genuine_weights = np.zeros((len(drawn), len(genuine) + 1))
        for row, weights in zip(self.genuine_weights, drawn, strict=True):
            np.cumsum(weights[genuine_units], out=row[1:])
        self.genuine_totals = self.genuine_weights[:, -1]

    def measure(self, tail: Tail, fars: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns (TAR (F, R), EER (R,)), or None if the tail is too short for some draw."""
        # A draw without an answer yet is NaN; a FAR of 1 accepts everything.
        edges = _segment_edges(tail.scores)
        num_draws = len(self.drawn)
        allowed = np.stack([num_allowed_false_accepts(far, self.totals) for far in fars])
        tar = np.full((len(fars), num_draws), np.nan)
        tar[allowed >= self.totals] = 1.0
        eer = np.full(num_draws, np.nan)
        above = np.zeros(num_draws)  # weight of the impostors above this segment
        for start, stop in pairwise(edges):
            # The segment as a whole: the weight of its impostors in every draw.
            below = above + self._segment_weights(tail, start, stop)
            # Draws whose threshold lies in this segment: the weight of its impostors exceeds what is left of the limit.
            for row, limit in enumerate(allowed):
                ending = np.flatnonzero(np.isnan(tar[row]) & (below > limit))
                tar[row, ending] = self._tars(tail, start, stop, ending, limit[ending] - above[ending])
            # Draws whose error rates meet in this segment.
            ending = np.flatnonzero(np.isnan(eer) & (self._excess(below, self._num_genuine(tail, stop)) >= 0))
            eer[ending] = self._eers(tail, start, stop, ending, above[ending])
            above = below
            if not (np.isnan(eer).any() or np.isnan(tar).any()):
                break
        # The caller leaves out draws without impostor or without genuine comparisons: they need no answer.
        useless = (self.totals == 0) | (self.genuine_totals == 0)
        if not tail.is_all and (np.isnan(tar[:, ~useless]).any() or np.isnan(eer[~useless]).any()):
            return None
        return tar, eer

    def _segment_weights(self, tail: Tail, start: int, stop: int) -> np.ndarray:
        """Returns the weight (R,) of impostors `start` to `stop` in every draw."""
        # How many comparisons each two units have in the segment, as a matrix between the weights of both.
        first, second = tail.first[start:stop].astype(np.int64), tail.second[start:stop].astype(np.int64)
        num_units, ones = self.drawn.shape[1], np.ones(stop - start, np.float32)
        # Many comparisons of few units: a product of dense matrices is faster.
        is_dense = num_units <= MAX_DENSE_SUBJECTS and num_units**2 < DENSE_CELLS * (stop - start)
        if is_dense and stop - start < EXACT_COUNT:
            counts = np.bincount(first * num_units + second, minlength=num_units**2).astype(np.float32)
            sums = counts.reshape(num_units, num_units) @ self.across
            return np.einsum("ar,ar->r", sums, self.across, dtype=np.float64)
        rows, row = np.unique(first, return_inverse=True)
        matrix = sparse.csr_array((ones, (row, second)), shape=(len(rows), num_units))
        return np.einsum("ar,ar->r", matrix @ self.across, self.across[rows], dtype=np.float64)

    def _num_genuine(self, tail: Tail, stop: int) -> int:
        """Returns how many genuine comparisons are accepted at the score of impostor `stop - 1`."""
        if tail.is_all and stop == len(tail.scores):
            return len(self.genuine)
        return int(np.searchsorted(-self.genuine, -tail.scores[stop - 1], side="right"))

    def _excess(self, false_accepts: np.ndarray, num_genuine: int) -> np.ndarray:
        """Returns FAR - FRR of every draw, times both totals, so that it is exact."""
        rejected = self.genuine_totals - self.genuine_weights[:, num_genuine]
        return false_accepts * self.genuine_totals - rejected * self.totals

    def _tars(self, tail: Tail, start: int, stop: int, draws: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Returns the TAR of draws whose impostor weights exceed what is `left` to them within a segment."""
        found = np.empty(len(draws))
        chunk = max(CELLS_CHUNK // (stop - start), 1)
        for begin in range(0, len(draws), chunk):
            some = slice(begin, begin + chunk)
            # The first impostor that exceeds what is left is refused, and the genuine comparisons above it accepted.
            weights = self.drawn[draws[some]]
            sums = np.cumsum(weights[:, tail.first[start:stop]] * weights[:, tail.second[start:stop]], axis=1)
            refused = tail.scores[start + first_refused_position(sums, left[some])]
            accepted = num_accepted_above(self.genuine, refused)
            found[some] = self.genuine_weights[draws[some], accepted]
        totals = self.genuine_totals[draws]
        return np.divide(found, totals, out=np.full(len(draws), 0.0), where=totals > 0)

    def _eers(self, tail: Tail, start: int, stop: int, draws: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Returns the EER of draws whose error rates meet within a segment."""
        if not len(draws):
            return np.zeros(0)
        # The operating points of the segment: one for each distinct score of either kind, highest first.
        first_genuine = 0 if start == 0 else self._num_genuine(tail, start)
        some_genuine = slice(first_genuine, self._num_genuine(tail, stop))
        scores = np.concatenate([tail.scores[start:stop], self.genuine[some_genuine]])
        # Where each distinct score ends, and how many comparisons of either kind are accepted there.
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
        num_impostors = np.cumsum(order < stop - start)[ends]
        num_genuine = first_genuine + (ends + 1) - num_impostors
        # In each draw, the two points between which FAR - FRR changes sign, and the straight line between them.
        found = np.empty(len(draws))
        for position, (draw, base) in enumerate(zip(draws.tolist(), above.tolist(), strict=True)):
            weights = self.drawn[draw]
            inside = weights[tail.first[start:stop]] * weights[tail.second[start:stop]]
            false_accepts = base + np.concatenate([[0.0], np.cumsum(inside)])[np.concatenate([[0], num_impostors])]
            true_accepts = self.genuine_weights[draw, np.concatenate([[first_genuine], num_genuine])]
            impostors, total = float(self.totals[draw]), float(self.genuine_totals[draw])
            is_usable = impostors > 0 and total > 0
            found[position] = crossing_rate(false_accepts, true_accepts, impostors, total) if is_usable else 0.0
        return found


def _segment_edges(falling: np.ndarray) -> list[int]:
    """Cuts between different scores, each segment about 4 % of what lies above it; the first cut is at 0."""
    edges = [0]
    while edges[-1] < len(falling):
        stop = min(max(int(edges[-1] * GROWTH), edges[-1] + FIRST_SEGMENT), len(falling))
        stop = int(np.searchsorted(-falling, -falling[stop - 1], side="right"))  # equal scores stay together
        edges.append(stop)
    return edges
