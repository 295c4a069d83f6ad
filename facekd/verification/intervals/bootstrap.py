"""Computes bootstrap intervals of TAR@FAR and EER, over subjects if they are known, else over comparisons.

Comparisons that share a subject are not independent: one person with a difficult face spoils all of theirs. An interval
that resamples comparisons (or a binomial one) treats them as independent and comes out too narrow. Here subjects are
drawn with replacement, and a comparison of subjects a and b counts w_a w_b times (w_a for a genuine one): the vertex
bootstrap. Each draw finds its own threshold, so the interval includes the uncertainty of the FAR as well.

If each subject occurs in one or two comparisons only, as in LFW's impostor pairs, the interval is conservative: the
weights of single comparisons then vary up to three times as much as they need to (Owen 2007).

Sources: R. Fogliato, P. Patil, P. Perona, "Confidence intervals for error rates in 1:1 matching tasks", IJCV 2024,
arXiv:2306.01198; A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.intervals.subject_bootstrap import Draws, Units, resample
from facekd.verification.operating_points import checked_far
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import checked_is_same, checked_scores

MIN_SUBJECTS = 10  # with genuine comparisons; with fewer, resampling gives no usable interval
MIN_DRAWS = 100  # for a 95 % interval
Interval = tuple[float, float]


@dataclass(frozen=True)
class BootstrapIntervals:
    """Holds 95 % intervals. `kind` says what was resampled; `tar` has None for a FAR that is not measurable."""

    kind: Literal["subject bootstrap", "pair bootstrap"]
    tar: tuple[Interval | None, ...]  # one for each FAR, in the order given
    eer: Interval
    num_subjects: int | None
    replicates: int
    draws: Draws = field(repr=False, compare=False)


def bootstrap_intervals(
    scores: ArrayLike,
    is_same: ArrayLike,
    fars: Sequence[float],
    subjects: tuple[ArrayLike, ArrayLike] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    ranked: RankedScores | None = None,
) -> BootstrapIntervals:
    """Computes 95 % percentile intervals of the TAR at each FAR (rule "exact") and of the EER.

    A draw repeats only errors that were seen: if there are none, the percentiles alone would claim certainty. So the
    interval of a TAR is never narrower than Wilson's at the threshold taken, and that of an EER of 0 is Wilson's for
    no error among the comparisons of the rarer kind.

    Args:
        scores: (N,) of all comparisons.
        is_same: (N,) true for genuine comparisons.
        fars: targets in (0, 1].
        subjects: the first and the second subject of each comparison, (N,) each, names or whole numbers from 0. None
            resamples comparisons, genuine and impostor ones separately.
        replicates: number of draws.
        seed: random seed of the draws; equal seeds give equal intervals.
        ranked: the same scores, already ranked, to avoid ranking millions twice.

    Raises:
        InputError: as `tar_at_far`; subjects of another shape or that contradict `is_same`; fewer than 10 subjects
            with genuine comparisons; fewer than 100 replicates.
    """
    scores = checked_scores(scores, "scores")
    is_same = checked_is_same(is_same, scores.size)
    if replicates < MIN_DRAWS:
        raise InputError(f"replicates must be at least {MIN_DRAWS} for a 95 % interval; found {replicates}")
    ranked = ranked or RankedScores(scores[is_same], scores[~is_same])
    for far in fars:
        checked_far(far)

    # Measure every draw.
    units = _pairs_as_units(scores, is_same) if subjects is None else _subjects_as_units(subjects, is_same)
    draws = resample(ranked, scores, is_same, units, fars, replicates, seed)
    return intervals_of_draws(ranked, fars, draws, None if subjects is None else units.groups[0])


def intervals_of_draws(
    ranked: RankedScores, fars: Sequence[float], draws: Draws, num_subjects: int | None
) -> BootstrapIntervals:
    """Makes intervals of what was measured in each draw: percentiles, widened as `bootstrap_intervals` says.

    Args:
        ranked: the scores, ranked.
        fars: targets in (0, 1].
        draws: TAR and EER in each draw.
        num_subjects: number of subjects that were resampled; None if comparisons were.
    """
    points, equal_error = ranked.tar_at_far(fars), ranked.equal_error_point()
    tar_intervals = [
        None if point.ci95 is None else outer_interval(percentile_interval(drawn), point.ci95)
        for point, drawn in zip(points, draws.tar, strict=True)
    ]
    if equal_error.eer > 0:
        eer_interval = percentile_interval(draws.eer)
    else:
        eer_interval = wilson_interval(0, min(ranked.genuine.size, ranked.impostor.size))
    return BootstrapIntervals(
        kind="pair bootstrap" if num_subjects is None else "subject bootstrap",
        tar=tuple(tar_intervals),
        eer=eer_interval,
        num_subjects=num_subjects,
        replicates=draws.eer.size,
        draws=draws,
    )


def _subjects_as_units(subjects: tuple[ArrayLike, ArrayLike], is_same: np.ndarray) -> Units:
    """Checks the subjects against the labels and numbers them from 0 without gaps, in their order."""
    first, second = (np.asarray(column) for column in subjects)
    for column in (first, second):
        if column.shape != is_same.shape:
            raise InputError(f"subjects have shape {column.shape}; expected ({is_same.size},), two a comparison")
    odd = np.flatnonzero((first == second) != is_same)
    if odd.size:
        position = int(odd[0])
        kind = "genuine" if is_same[position] else "impostor"
        raise InputError(
            f"{counted(odd.size, 'comparison contradicts its', 'comparisons contradict their')} subjects; the first, "
            f"{position}, is labelled {kind} and compares {first[position]} with {second[position]}"
        )
    first, second, num_subjects = _renumber(first, second)
    if (with_genuine := np.unique(first[is_same]).size) < MIN_SUBJECTS:
        raise InputError(
            f"{with_genuine} of {counted(num_subjects, 'subject')} {agreeing(with_genuine, 'has', 'have')} genuine "
            f"comparisons; an interval over subjects needs at least {MIN_SUBJECTS}"
        )
    return Units(first, second, (num_subjects,))


def _pairs_as_units(scores: np.ndarray, is_same: np.ndarray) -> Units:
    """Makes each comparison a unit of its own, numbered by descending score, so that their order does not matter."""
    order = np.argsort(-scores, kind="stable")
    genuine, impostor = order[is_same[order]], order[~is_same[order]]
    first = np.empty(scores.size, np.int64)
    first[np.concatenate([genuine, impostor])] = np.arange(scores.size)
    # An impostor comparison weighs the product of two units: the second is the one that always counts once.
    second = np.where(is_same, first, scores.size)
    return Units(first, second, (genuine.size, impostor.size))


def _renumber(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers the subjects that occur from 0 without gaps, in their order."""
    is_numbered = first.dtype.kind in "iu" and second.dtype.kind in "iu" and min(first.min(), second.min()) >= 0
    # Numbers far beyond how many there are would take memory for all in between.
    if not is_numbered or max(first.max(), second.max()) > (1 << 20) + 4 * first.size:
        known, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
        return codes[: first.size], codes[first.size :], known.size
    # Millions of numbers: marking those that occur is much faster than sorting them.
    seen = np.zeros(int(max(first.max(), second.max())) + 1, bool)
    seen[first] = True
    seen[second] = True
    if seen.all():
        return first, second, len(seen)
    number = (np.cumsum(seen) - 1).astype(np.int32)
    return number[first], number[second], int(seen.sum())


def percentile_interval(draws: np.ndarray) -> Interval:
    """Returns the middle 95 % of the draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def outer_interval(first: Interval, second: Interval) -> Interval:
    """Returns the smallest interval that contains both."""
    return min(first[0], second[0]), max(first[1], second[1])
