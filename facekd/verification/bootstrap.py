"""Bootstrap intervals of TAR@FAR and EER, over subjects where they are known. Pure numpy.

Comparisons that share a subject are not independent: one person with a difficult face spoils all of theirs. An
interval that resamples comparisons (or a binomial one) takes them for independent and comes out too narrow. Here
subjects are drawn with replacement, a comparison of subjects a and b counting w_a w_b times (w_a for a genuine one):
the vertex bootstrap. Each draw chooses its own threshold, so the uncertainty of the FAR is in the interval as well.

Where each subject occurs in one or two comparisons only, as in LFW's impostor pairs, this is conservative: the
weights of single comparisons then vary up to three times as much as they need to (Owen 2007).

Sources: R. Fogliato, P. Patil, P. Perona, "Confidence intervals for error rates in 1:1 matching tasks", IJCV 2024,
arXiv:2306.01198; A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.verification import equal_error_rate, num_allowed_false_accepts, tar_at_far, wilson_interval
from facekd.verification.operating_points import first_refused_position
from facekd.verification.scores import checked_is_same, checked_scores

MIN_SUBJECTS = 10  # with genuine comparisons; of fewer, no resampling makes an interval
CELLS_AT_ONCE = 4_000_000  # of (replicate, comparison): bounds the memory, not the result
Interval = tuple[float, float]


@dataclass(frozen=True)
class BootstrapIntervals:
    """95 % intervals. `kind` says what was resampled; `tar` has None where the FAR is not measurable."""

    kind: Literal["subject bootstrap", "pair bootstrap"]
    tar: tuple[Interval | None, ...]  # one a FAR, in the order asked
    eer: Interval
    num_subjects: int | None
    replicates: int


def bootstrap_intervals(
    scores: ArrayLike,
    is_same: ArrayLike,
    fars: Sequence[float],
    subjects: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> BootstrapIntervals:
    """95 % percentile intervals of TAR at each FAR (rule "exact") and of the EER.

    A draw repeats only errors that were seen: without any, the percentiles alone would claim certainty. So the interval
    of a TAR is never narrower than Wilson's at the threshold taken, and that of an EER of 0 is Wilson's for no error
    among the comparisons of the rarer kind.

    Args:
        scores: (N,) of all comparisons.
        is_same: (N,) true for genuine comparisons.
        fars: targets in (0, 1].
        subjects: (N, 2) the two subjects of each comparison, names or numbers. None resamples comparisons, genuine
            and impostor apart.
        replicates: how many draws.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        InputError: as `tar_at_far`; subjects of another shape or at odds with `is_same`; fewer than 10
            subjects with genuine comparisons; fewer than 100 replicates.
    """
    scores = checked_scores(scores, "scores")
    is_same = checked_is_same(is_same, scores.size)
    if replicates < 100:
        raise InputError(f"replicates must be at least 100 for a 95 % interval; found {replicates}")
    genuine, impostor = scores[is_same], scores[~is_same]
    points = tar_at_far(genuine, impostor, fars)

    # Comparisons by descending score; equal scores end in one operating point.
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    codes = None if subjects is None else _subject_codes(subjects, is_same)[order]
    tars, eers = [], []
    for weights in _draws(is_same[order], codes, replicates, seed):
        false_accepts, true_accepts = _weighted_roc(weights, is_same[order], ends)
        usable = (false_accepts[:, -1] > 0) & (true_accepts[:, -1] > 0)
        false_accepts, true_accepts = false_accepts[usable], true_accepts[usable]
        tars.append(np.stack([_weighted_tar(false_accepts, true_accepts, point.far) for point in points]))
        eers.append(_weighted_eer(false_accepts, true_accepts))
    tar = np.concatenate(tars, axis=1)
    eer = np.concatenate(eers)

    tar_intervals = [
        None if point.ci95 is None else outer_interval(percentile_interval(draws), point.ci95)
        for point, draws in zip(points, tar, strict=True)
    ]
    if equal_error_rate(genuine, impostor) > 0:
        eer_interval = percentile_interval(eer)
    else:
        eer_interval = wilson_interval(0, min(genuine.size, impostor.size))
    return BootstrapIntervals(
        kind="pair bootstrap" if codes is None else "subject bootstrap",
        tar=tuple(tar_intervals),
        eer=eer_interval,
        num_subjects=None if codes is None else int(codes.max()) + 1,
        replicates=eer.size,
    )


def _subject_codes(subjects: ArrayLike, is_same: np.ndarray) -> np.ndarray:
    names = np.asarray(subjects)
    if names.shape != (is_same.size, 2):
        raise InputError(f"subjects have shape {names.shape}; expected ({is_same.size}, 2), two a comparison")
    odd = np.flatnonzero((names[:, 0] == names[:, 1]) != is_same)
    if odd.size:
        first = int(odd[0])
        kind = "genuine" if is_same[first] else "impostor"
        raise InputError(
            f"{odd.size:,} comparisons contradict their subjects; the first, {first}, is labelled {kind} and compares "
            f"{names[first, 0]} with {names[first, 1]}"
        )
    known, codes = np.unique(names, return_inverse=True)
    codes = codes.reshape(names.shape)
    with_genuine = np.unique(codes[is_same, 0]).size
    if with_genuine < MIN_SUBJECTS:
        raise InputError(
            f"{with_genuine} of {known.size} subjects have genuine comparisons; an interval over subjects needs at "
            f"least {MIN_SUBJECTS}"
        )
    return codes


def _draws(is_same: np.ndarray, codes: np.ndarray | None, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield weights (R, N) of the comparisons, R replicates at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(CELLS_AT_ONCE // is_same.size, 1)
    for start in range(0, replicates, at_once):
        count = min(at_once, replicates - start)
        if codes is None:
            weights = np.empty((count, is_same.size))
            for row in weights:  # row by row, so that the draws do not depend on `at_once`
                for kind in (is_same, ~is_same):
                    size = int(kind.sum())
                    row[kind] = np.bincount(generator.integers(size, size=size), minlength=size)
        else:
            size = int(codes.max()) + 1
            drawn = np.stack(
                [np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(count)]
            ).astype(np.float64)
            weights = drawn[:, codes[:, 0]] * np.where(is_same, 1.0, drawn[:, codes[:, 1]])
        yield weights


def _weighted_roc(weights: np.ndarray, is_same: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false accepts, true accepts), each (R, P), strictest first; sums of whole numbers, hence exact in float64."""
    origin = np.zeros((len(weights), 1))
    false_accepts = np.cumsum(weights * ~is_same, axis=1)[:, ends]
    true_accepts = np.cumsum(weights * is_same, axis=1)[:, ends]
    return np.hstack([origin, false_accepts]), np.hstack([origin, true_accepts])


def _weighted_tar(false_accepts: np.ndarray, true_accepts: np.ndarray, far: float) -> np.ndarray:
    allowed = num_allowed_false_accepts(far, false_accepts[:, -1])
    last = first_refused_position(false_accepts, allowed) - 1
    return true_accepts[np.arange(len(last)), last] / true_accepts[:, -1]


def _weighted_eer(false_accepts: np.ndarray, true_accepts: np.ndarray) -> np.ndarray:
    """As `facekd.verification.equal_error_point`, a row at a time."""
    impostors, genuine = false_accepts[:, -1:], true_accepts[:, -1:]
    excess = false_accepts * genuine - (genuine - true_accepts) * impostors
    rows, after = np.arange(len(excess)), np.argmax(excess >= 0, axis=1)
    below, above = excess[rows, after - 1], excess[rows, after]
    start, stop = false_accepts[rows, after - 1], false_accepts[rows, after]
    return (start - below / (above - below) * (stop - start)) / impostors[:, 0]


def percentile_interval(draws: np.ndarray) -> Interval:
    """The middle 95 % of the draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def outer_interval(first: Interval, second: Interval) -> Interval:
    """The smallest interval that holds both."""
    return min(first[0], second[0]), max(first[1], second[1])
