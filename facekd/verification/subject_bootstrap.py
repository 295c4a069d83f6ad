"""The subject bootstrap of `facekd.verification.bootstrap`, for millions of comparisons: the same draws, in seconds.

A draw of subjects weighs each comparison; a TAR@FAR needs to know where, from the highest score down, the weights of
the impostors first exceed what the FAR allows. That place is found for all draws together: the high scores are cut
into segments, the weight of a segment in every draw is one sparse product (comparisons of subjects a and b, times the
weights of b, times those of a), and only the segment where a draw ends is looked at comparison by comparison. All sums
are of whole numbers, hence exact.

Shapes: N comparisons, S subjects, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from facekd.errors import InputError
from facekd.verification import num_allowed_false_accepts, wilson_interval
from facekd.verification.bootstrap import (
    MIN_SUBJECTS,
    BootstrapIntervals,
    outer_interval,
    percentile_interval,
)
from facekd.verification.operating_points import first_refused_position, num_accepted_above
from facekd.verification.ranked_scores import RankedScores

GROWTH, FIRST_SEGMENT = 1.04, 64  # each segment adds 4 % to what lies above it
SLACK, EXTRA = 1.6, 1000  # impostors looked at beyond those of the largest FAR; doubled where a draw needs more
CELLS_AT_ONCE = 4_000_000
DENSE_SUBJECTS = 5000  # up to which comparisons are counted in a table of S x S


def subject_bootstrap_intervals(
    ranked: RankedScores,
    scores: np.ndarray,
    is_same: np.ndarray,
    first_subjects: np.ndarray,
    second_subjects: np.ndarray,
    fars: Sequence[float],
    replicates: int = 1000,
    seed: int = 0,
) -> BootstrapIntervals:
    """95 % percentile intervals of TAR at each FAR (rule "exact") and of the EER, over subjects.

    Equal to `facekd.verification.bootstrap.bootstrap_intervals` with subjects, which says what they mean.

    Args:
        ranked: the scores, ranked.
        scores: (N,).
        is_same: bool (N,).
        first_subjects, second_subjects: integer (N,), subjects from 0; equal where, and only where, `is_same`.
        fars: targets in (0, 1].
        replicates: how many draws.
        seed: of the draws.

    Raises:
        InputError: subjects at odds with `is_same`; fewer than 10 subjects with genuine comparisons; fewer
            than 100 draws.
    """
    if replicates < 100:
        raise InputError(f"replicates must be at least 100 for a 95 % interval; found {replicates}")
    if ((first_subjects == second_subjects) != is_same).any():
        raise InputError("some comparisons contradict their subjects: genuine of two, or impostor of one")
    first, second, num_subjects = _renumber(first_subjects, second_subjects)
    genuine = np.flatnonzero(is_same)
    if (known := np.unique(first[genuine]).size) < MIN_SUBJECTS:
        raise InputError(
            f"{known} of {num_subjects} subjects have genuine comparisons; an interval over subjects needs at least "
            f"{MIN_SUBJECTS}"
        )
    generator = np.random.default_rng(seed)
    drawn = np.stack(
        [
            np.bincount(generator.integers(num_subjects, size=num_subjects), minlength=num_subjects)
            for _ in range(replicates)
        ]
    ).astype(np.float64)
    totals = _impostor_totals(drawn, first, second, is_same)
    genuine_order = genuine[np.argsort(-scores[genuine], kind="stable")]
    draws = _Draws(drawn, totals, scores[genuine_order], first[genuine_order])
    usable = (totals > 0) & (draws.genuine_totals > 0)

    points = ranked.tar_at_far(fars)
    equal_error = ranked.equal_error_point()
    reach = max(max(fars), equal_error.far) * SLACK * ranked.impostor.size + EXTRA
    while True:
        tail = _tail(ranked, scores, is_same, first, second, int(reach))
        found = draws.measure(tail, fars)
        if found is not None:
            break
        reach = 2 * reach + 1
    tar, eer = found
    intervals = [
        None if point.ci95 is None else outer_interval(percentile_interval(values[usable]), point.ci95)
        for point, values in zip(points, tar, strict=True)
    ]
    if equal_error.eer > 0:
        eer_interval = percentile_interval(eer[usable])
    else:
        eer_interval = wilson_interval(0, min(ranked.genuine.size, ranked.impostor.size))
    return BootstrapIntervals("subject bootstrap", tuple(intervals), eer_interval, num_subjects, int(usable.sum()))


@dataclass(frozen=True)
class _Tail:
    """The highest impostor scores, descending (K,), and their subjects."""

    scores: np.ndarray
    first: np.ndarray
    second: np.ndarray
    is_all: bool


class _Draws:
    """Draws of subjects, and what the genuine comparisons weigh in each."""

    def __init__(self, drawn: np.ndarray, totals: np.ndarray, genuine: np.ndarray, subjects: np.ndarray) -> None:
        self.drawn = drawn  # (R, S)
        self.across = np.ascontiguousarray(drawn.T.astype(np.float32))  # (S, R); small whole numbers
        self.totals = totals  # (R,) weight of all impostors
        self.genuine = genuine  # (G,) descending
        self.genuine_subjects = subjects
        self.genuine_weights = np.zeros(
            (len(drawn), len(genuine) + 1), np.float64
        )  # (R, G + 1): of the first 0, 1, ...
        for row, weights in zip(self.genuine_weights, drawn, strict=True):
            np.cumsum(weights[subjects], out=row[1:])
        self.genuine_totals = self.genuine_weights[:, -1]

    def measure(self, tail: _Tail, fars: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
        """(TAR (fars, R), EER (R,)); None where the tail is too short for some draw."""
        edges = _segment_edges(tail.scores)
        num_draws = len(self.drawn)
        allowed = np.stack([num_allowed_false_accepts(far, self.totals) for far in fars])
        tar = np.full((len(fars), num_draws), np.nan)
        tar[allowed >= self.totals] = 1.0  # everything may be accepted
        eer = np.full(num_draws, np.nan)
        above = np.zeros(num_draws)  # weight of the impostors above this segment
        for start, stop in pairwise(edges):
            below = above + self._segment_weights(tail, start, stop)
            for row, limit in enumerate(allowed):
                ending = np.flatnonzero(np.isnan(tar[row]) & (below > limit))
                tar[row, ending] = self._tars(tail, start, stop, ending, limit[ending] - above[ending])
            ending = np.flatnonzero(np.isnan(eer) & (self._excess(below, self._num_genuine(tail, stop)) >= 0))
            eer[ending] = self._eers(tail, start, stop, ending, above[ending])
            above = below
            if not (np.isnan(eer).any() or np.isnan(tar).any()):
                break
        # Draws without impostors or without genuine comparisons are left out by the caller.
        useless = (self.totals == 0) | (self.genuine_totals == 0)
        if not tail.is_all and (np.isnan(tar[:, ~useless]).any() or np.isnan(eer[~useless]).any()):
            return None
        return tar, eer

    def _segment_weights(self, tail: _Tail, start: int, stop: int) -> np.ndarray:
        rows, row = np.unique(tail.first[start:stop], return_inverse=True)
        ones = np.ones(stop - start, np.float32)
        shape = (len(rows), self.drawn.shape[1])
        matrix = sparse.csr_array((ones, (row, tail.second[start:stop])), shape=shape)
        return np.einsum("ar,ar->r", matrix @ self.across, self.across[rows], dtype=np.float64)

    def _num_genuine(self, tail: _Tail, stop: int) -> int:
        """Genuine comparisons that are accepted at the score of impostor `stop - 1`."""
        if tail.is_all and stop == len(tail.scores):
            return len(self.genuine)
        return int(np.searchsorted(-self.genuine, -tail.scores[stop - 1], side="right"))

    def _excess(self, false_accepts: np.ndarray, num_genuine: int) -> np.ndarray:
        rejected = self.genuine_totals - self.genuine_weights[:, num_genuine]
        return false_accepts * self.genuine_totals - rejected * self.totals

    def _tars(self, tail: _Tail, start: int, stop: int, draws: np.ndarray, left: np.ndarray) -> np.ndarray:
        """TAR of draws whose impostor weights exceed what is `left` to them within a segment."""
        found = np.empty(len(draws))
        at_once = max(CELLS_AT_ONCE // (stop - start), 1)
        for begin in range(0, len(draws), at_once):
            some = slice(begin, begin + at_once)
            weights = self.drawn[draws[some]]
            sums = np.cumsum(weights[:, tail.first[start:stop]] * weights[:, tail.second[start:stop]], axis=1)
            refused = tail.scores[start + first_refused_position(sums, left[some])]
            accepted = num_accepted_above(self.genuine, refused)
            found[some] = self.genuine_weights[draws[some], accepted]
        totals = self.genuine_totals[draws]
        return np.divide(found, totals, out=np.full(len(draws), 0.0), where=totals > 0)

    def _eers(self, tail: _Tail, start: int, stop: int, draws: np.ndarray, above: np.ndarray) -> np.ndarray:
        """EER of draws whose error rates meet within a segment."""
        if not len(draws):
            return np.zeros(0)
        first_genuine = 0 if start == 0 else self._num_genuine(tail, start)
        some_genuine = slice(first_genuine, self._num_genuine(tail, stop))
        scores = np.concatenate([tail.scores[start:stop], self.genuine[some_genuine]])
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
        num_impostors = np.cumsum(order < stop - start)[ends]
        num_genuine = first_genuine + (ends + 1) - num_impostors
        found = np.empty(len(draws))
        for position, (draw, base) in enumerate(zip(draws.tolist(), above.tolist(), strict=True)):
            weights = self.drawn[draw]
            inside = weights[tail.first[start:stop]] * weights[tail.second[start:stop]]
            false_accepts = base + np.concatenate([[0.0], np.cumsum(inside)])[np.concatenate([[0], num_impostors])]
            true_accepts = self.genuine_weights[draw, np.concatenate([[first_genuine], num_genuine])]
            impostors, total = self.totals[draw], self.genuine_totals[draw]
            if impostors == 0 or total == 0:
                found[position] = 0.0
                continue
            excess = false_accepts * total - (total - true_accepts) * impostors
            after = max(int(np.argmax(excess >= 0)), 1)
            low, high = excess[after - 1], excess[after]
            step = false_accepts[after] - false_accepts[after - 1]
            found[position] = (false_accepts[after - 1] - low / (high - low) * step) / impostors
        return found


def _renumber(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The subjects that occur, numbered from 0 without gaps, in their order."""
    largest = int(max(first.max(), second.max()))
    seen = np.zeros(largest + 1, bool)
    seen[first] = True
    seen[second] = True
    if seen.all():
        return first, second, len(seen)
    number = (np.cumsum(seen) - 1).astype(np.int32)
    return number[first], number[second], int(seen.sum())


def _impostor_totals(drawn: np.ndarray, first: np.ndarray, second: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    """Weight of all impostor comparisons in each draw (R,)."""
    size = drawn.shape[1]
    if size <= DENSE_SUBJECTS:
        counts = np.zeros(size * size)
        step = 1 << 22
        for start in range(0, len(first), step):
            cells = first[start : start + step].astype(np.int64) * size + second[start : start + step]
            counts += np.bincount(cells, minlength=size * size)
        table = counts.reshape(size, size)
        np.fill_diagonal(table, 0)  # a genuine comparison is of one subject
        return np.einsum("rs,rs->r", drawn @ table, drawn)
    impostor = np.flatnonzero(~is_same)
    matrix = sparse.csr_array((np.ones(len(impostor)), (second[impostor], first[impostor])), shape=(size, size))
    return np.concatenate(
        [np.einsum("sr,sr->r", matrix @ some.T, some.T) for some in np.array_split(drawn, max(len(drawn) // 50, 1))]
    )


def _tail(
    ranked: RankedScores, scores: np.ndarray, is_same: np.ndarray, first: np.ndarray, second: np.ndarray, count: int
) -> _Tail:
    """At least the `count` highest impostors."""
    is_all = count >= ranked.impostor.size
    chosen = ~is_same
    if not is_all:
        chosen &= scores >= ranked.impostor[ranked.impostor.size - count]
    pairs = np.flatnonzero(chosen)
    pairs = pairs[np.argsort(-scores[pairs], kind="stable")]
    return _Tail(scores[pairs], first[pairs].astype(np.int64), second[pairs].astype(np.int64), is_all)


def _segment_edges(falling: np.ndarray) -> list[int]:
    """Cuts between different scores, each segment about 4 % of what lies above it, the first cut at 0."""
    edges = [0]
    while edges[-1] < len(falling):
        stop = min(max(int(edges[-1] * GROWTH), edges[-1] + FIRST_SEGMENT), len(falling))
        stop = int(np.searchsorted(-falling, -falling[stop - 1], side="right"))  # equal scores stay together
        edges.append(stop)
    return edges
