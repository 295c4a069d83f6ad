"""From comparison scores to verification metrics: TAR@FAR, ROC, EER, AUC and k-fold accuracy. Pure numpy.

Everywhere: a higher score means more alike, and a comparison is accepted when `score >= threshold`. Thresholds are in
the units of the scores (cosine, where the scores are cosines) and are exact in the scores' own precision, so that
applying a reported threshold to the same scores gives the reported numbers, for float32 scores too. (Where one kind is
float32 and the other float64, both are taken as float64.)

Glossary: genuine comparisons are two images of one subject (ISO/IEC 19795-1: mated), impostor comparisons images of
two subjects (non-mated). FAR is the share of impostor comparisons accepted (per comparison: ISO's FMR); TAR is the
share of genuine comparisons accepted (1 - FNMR).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from facekd.verification_scores import (
    VerificationError,
    checked_is_same,
    checked_score_pair,
    checked_scores,
    fold_indices,
)

__all__ = [
    "RULES",
    "EqualErrorPoint",
    "KFoldAccuracy",
    "RocCurve",
    "Rule",
    "TarAtFar",
    "VerificationError",
    "area_under_roc",
    "equal_error_point",
    "equal_error_rate",
    "fold_indices",
    "kfold_accuracy",
    "num_allowed_false_accepts",
    "roc_curve",
    "tar_at_far",
    "wilson_interval",
]

Rule = Literal["exact", "insightface"]
RULES: tuple[Rule, ...] = ("exact", "insightface")
Z_95 = 1.959963984540054  # the 97.5th percentile of the standard normal distribution


@dataclass(frozen=True)
class TarAtFar:
    """One operating point; `tar` is None, with a `reason`, where the FAR cannot be measured with these comparisons."""

    far: float  # the target
    tar: float | None
    threshold: float | None  # accept when score >= threshold
    false_accepts: int | None
    achieved_far: float | None  # false_accepts / num_impostor
    num_impostor: int
    num_genuine: int
    ci95: tuple[float, float] | None  # of the TAR
    interval: str | None  # how ci95 was made: "wilson", "subject bootstrap"
    rule: Rule
    reason: str | None = None


@dataclass(frozen=True)
class RocCurve:
    """Every distinct operating point, from accepting nothing (0, 0) to accepting everything (1, 1): arrays of (P,)."""

    far: np.ndarray
    tar: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class EqualErrorPoint:
    """Where the false accept rate meets the false reject rate; see `equal_error_point`."""

    eer: float
    threshold: float  # the achievable threshold at which the two rates are nearest
    far: float  # at that threshold
    frr: float


@dataclass(frozen=True)
class KFoldAccuracy:
    """Accuracy of each fold at the threshold that suits the other folds best; see `kfold_accuracy`."""

    mean: float
    std: float  # population standard deviation over the folds, as the face-verification tables give it
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def tar_at_far(
    genuine: ArrayLike, impostor: ArrayLike, fars: float | Sequence[float] | np.ndarray, rule: Rule = "exact"
) -> list[TarAtFar]:
    """True accept rate at given false accept rates.

    With n impostor comparisons a FAR of f allows k = floor(f n) false accepts. Rule "exact" puts the threshold just
    above the (k+1)-th highest impostor score: the largest TAR whose FAR does not exceed f. Where k is 0 the FAR is
    not measurable, by either rule; nothing is interpolated. Rule "insightface" takes the ROC corner whose FAR is
    *nearest* to f, which may exceed it (on small sets by points of TAR): use it only beside published tables that
    were made so (IJB evaluation scripts of deepinsight/insightface).

    `ci95` is Wilson's interval of the TAR at the threshold taken. It treats genuine comparisons as independent and
    the threshold as known; where subjects are known, `facekd.verification_intervals` gives the honest, wider one.

    Args:
        genuine: (G,) scores of genuine comparisons.
        impostor: (n,) scores of impostor comparisons.
        fars: targets in (0, 1], in any order; results come in that order.
        rule: "exact" or "insightface".

    Raises:
        VerificationError: no scores of a kind, non-finite scores, a FAR outside (0, 1], an unknown rule.
    """
    genuine, impostor = checked_score_pair(genuine, impostor)
    if rule not in RULES:
        raise VerificationError(f"rule must be one of {', '.join(RULES)}; found {rule!r}")
    targets = [_checked_far(far) for far in np.atleast_1d(np.asarray(fars, dtype=np.float64))]
    points = []
    genuine, impostor = np.sort(genuine), np.sort(impostor)
    corners = _roc_corners(genuine, impostor) if rule == "insightface" else None
    for far in targets:
        allowed = num_allowed_false_accepts(far, impostor.size)
        if allowed < 1:
            points.append(_not_measurable(far, genuine.size, impostor.size, rule))
            continue
        if corners is not None:
            threshold = _nearest_corner(*corners, far, impostor.size)
        elif allowed >= impostor.size:
            threshold = min(genuine[0], impostor[0])  # everything may be accepted
        else:
            threshold = _just_above(impostor[impostor.size - 1 - allowed])
        accepted = genuine.size - int(np.searchsorted(genuine, threshold, side="left"))
        false_accepts = impostor.size - int(np.searchsorted(impostor, threshold, side="left"))
        points.append(
            TarAtFar(
                far=far,
                tar=accepted / genuine.size,
                threshold=float(threshold),
                false_accepts=false_accepts,
                achieved_far=false_accepts / impostor.size,
                num_impostor=impostor.size,
                num_genuine=genuine.size,
                ci95=wilson_interval(accepted, genuine.size),
                interval="wilson",
                rule=rule,
            )
        )
    return points


def num_allowed_false_accepts(far: float, num_impostor: int) -> int:
    """floor(far * num_impostor), forgiving the rounding of a decimal FAR: 1e-3 of 3,000 is 3 and never 2."""
    return min(math.floor(far * num_impostor * (1 + 1e-12) + 1e-9), num_impostor)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (E. B. Wilson, 1927); sound at 0 and at `trials` successes too.

    Raises:
        VerificationError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise VerificationError(f"a proportion needs 0 <= successes <= trials, trials >= 1; got {successes}, {trials}")
    share, shrink = successes / trials, 1 + Z_95**2 / trials
    centre = (share + Z_95**2 / (2 * trials)) / shrink
    half = Z_95 / shrink * math.sqrt(share * (1 - share) / trials + (Z_95 / (2 * trials)) ** 2)
    # At the ends the exact bounds are 0 and 1; rounding would leave them a hair away.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == trials else min(centre + half, 1.0)
    return low, high


def roc_curve(genuine: ArrayLike, impostor: ArrayLike) -> RocCurve:
    """The receiver operating characteristic: one point a distinct score, none dropped, none interpolated.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    genuine, impostor = checked_score_pair(genuine, impostor)
    false_accepts, true_accepts, threshold = _roc_counts(np.sort(genuine), np.sort(impostor))
    return RocCurve(false_accepts / impostor.size, true_accepts / genuine.size, threshold)


def equal_error_rate(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """The rate at which false accepts and false rejects are equally frequent; `equal_error_point` says where.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    return equal_error_point(genuine, impostor).eer


def equal_error_point(genuine: ArrayLike, impostor: ArrayLike) -> EqualErrorPoint:
    """Equal error rate and its threshold.

    FAR and FRR change in steps and seldom meet exactly: the EER is read where the straight line between the two
    neighbouring operating points crosses FAR = FRR (what the usual brentq over an interpolated ROC finds). The
    threshold is the achievable one of the two, FAR and FRR nearest to each other, midway to the next lower score.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    genuine, impostor = checked_score_pair(genuine, impostor)
    false_accepts, true_accepts, threshold = _roc_counts(np.sort(genuine), np.sort(impostor))
    # FAR - FRR in integers (times G n), so that "equal" is exact. It rises strictly from -1 to 1.
    excess = false_accepts * genuine.size - (genuine.size - true_accepts) * impostor.size
    after = int(np.argmax(excess >= 0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    eer = (false_accepts[before] + share * (false_accepts[after] - false_accepts[before])) / impostor.size
    nearest = before if abs(excess[before]) <= abs(excess[after]) else after
    if 0 < nearest < threshold.size - 1:
        midway = _between(threshold[nearest + 1], threshold[nearest])
    else:
        midway = threshold[nearest]
    far, frr = false_accepts[nearest] / impostor.size, 1 - true_accepts[nearest] / genuine.size
    return EqualErrorPoint(float(eer), float(midway), float(far), float(frr))


def area_under_roc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """The chance that a genuine score exceeds an impostor score, ties counting half (Mann-Whitney).

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    genuine, impostor = checked_score_pair(genuine, impostor)
    impostor = np.sort(impostor)
    below = np.searchsorted(impostor, genuine, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(impostor, genuine, side="right").sum(dtype=np.int64)
    return float((int(below) + int(not_above)) / (2 * genuine.size * impostor.size))


def kfold_accuracy(scores: ArrayLike, is_same: ArrayLike, folds: int | ArrayLike = 10) -> KFoldAccuracy:
    """Verification accuracy: each fold judged at the threshold that is most accurate on the other folds (LFW protocol).

    The threshold is exact: every midpoint between neighbouring scores of the other folds is looked at, and both
    ends. Of several equally accurate ones the middle one is taken.

    Args:
        scores: (N,) in the order of the protocol.
        is_same: (N,) bool or 0 / 1.
        folds: how many folds (contiguous, the first N mod folds of them one larger), or (N,) the fold of each pair.

    Raises:
        VerificationError: shapes disagree, non-finite scores, one fold, fewer pairs than folds, or folds whose
            complement lacks genuine or impostor pairs (no threshold can be learnt there).
    """
    scores = checked_scores(scores, "scores")
    is_same = checked_is_same(is_same, scores.size)
    fold_of = fold_indices(scores.size, folds)
    order = np.argsort(scores, kind="stable")
    accuracies, thresholds = [], []
    for fold in range(int(fold_of.max()) + 1):
        others = order[fold_of[order] != fold]
        genuine_share = is_same[others].mean()
        if genuine_share in (0.0, 1.0):
            kind = "genuine" if genuine_share == 0 else "impostor"
            raise VerificationError(
                f"without fold {fold + 1} of {int(fold_of.max()) + 1} no {kind} pairs remain to choose a threshold "
                "from: folds are contiguous, so each must hold both kinds; check the order of the pairs or use "
                "another number of folds"
            )
        threshold = _most_accurate_threshold(scores[others], is_same[others])
        inside = fold_of == fold
        accuracies.append(float(np.mean((scores[inside] >= threshold) == is_same[inside])))
        thresholds.append(float(threshold))
    return KFoldAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds))


def _checked_far(far: float) -> float:
    if not 0 < far <= 1:
        raise VerificationError(f"a FAR must lie in (0, 1]; found {far}")
    return float(far)


def _not_measurable(far: float, num_genuine: int, num_impostor: int, rule: Rule) -> TarAtFar:
    needed = f"{math.ceil(1 / far - 1e-6):,}" if far > 1e-15 else f"{1 / far:.0e}"
    reason = (
        f"not measurable: {num_impostor:,} impostor comparisons allow {far * num_impostor:.2g} false accepts at "
        f"FAR {far:g}; at least {needed} comparisons are needed"
    )
    return TarAtFar(far, None, None, None, None, num_impostor, num_genuine, None, None, rule, reason)


def _just_above(score: Any) -> Any:
    return np.nextafter(score, score.dtype.type(np.inf))


def _between(lower: Any, upper: Any) -> Any:
    """A threshold that accepts `upper` and rejects `lower`: midway, or `upper` where no number lies between them."""
    midway = lower / 2 + upper / 2  # the sum itself could overflow
    return midway if lower < midway <= upper else upper


def _most_accurate_threshold(scores: np.ndarray, is_same: np.ndarray) -> Any:
    """`scores` ascending (n,). Cut j rejects the first j; only cuts between different scores can be made."""
    rejected_impostors = np.concatenate([[0], np.cumsum(~is_same)])
    rejected_genuine = np.arange(scores.size + 1) - rejected_impostors
    correct = rejected_impostors - rejected_genuine  # plus the number of genuine pairs, the same for every cut
    cuts = np.concatenate([[0], np.flatnonzero(scores[1:] > scores[:-1]) + 1, [scores.size]])
    best = cuts[correct[cuts] == correct[cuts].max()]
    cut = best[(best.size - 1) // 2]
    if cut == 0:
        return scores[0]
    if cut == scores.size:
        return _just_above(scores[-1])
    return _between(scores[cut - 1], scores[cut])


def _roc_counts(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(false accepts, true accepts, threshold), each (P,), strictest first, of ascending scores."""
    values = np.unique(np.concatenate([genuine, impostor]))[::-1]
    threshold = np.concatenate([_just_above(values[0])[None], values])
    false_accepts = impostor.size - np.searchsorted(impostor, threshold, side="left")
    true_accepts = genuine.size - np.searchsorted(genuine, threshold, side="left")
    return false_accepts.astype(np.int64), true_accepts.astype(np.int64), threshold


def _roc_corners(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false accepts, threshold) of the ROC's corners, most lenient first.

    scikit-learn's `roc_curve` drops points inside straight stretches, and the tables of the field were made from
    what is left: the nearest point is another one without this step.
    """
    false_accepts, true_accepts, threshold = _roc_counts(genuine, impostor)
    # The point at (0, 0) is added after the thinning there, so it takes no part in it.
    bends = (np.diff(false_accepts[1:], 2) != 0) | (np.diff(true_accepts[1:], 2) != 0)
    inner = np.concatenate([[True], bends, [True]]) if false_accepts.size > 3 else np.ones(false_accepts.size - 1, bool)
    keep = np.concatenate([[True], inner])
    return false_accepts[keep][::-1], threshold[keep][::-1]


def _nearest_corner(false_accepts: np.ndarray, threshold: np.ndarray, far: float, num_impostor: int) -> Any:
    # argmin takes the first of equals: the most lenient corner, which is what the published scripts do.
    return threshold[np.argmin(np.abs(false_accepts / num_impostor - far))]
