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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facekd.verification.operating_points import (
    RULES,
    EqualErrorPoint,
    RocCurve,
    Rule,
    TarAtFar,
    just_above,
    midway_threshold,
    num_allowed_false_accepts,
    wilson_interval,
)
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import VerificationError, checked_is_same, checked_scores, fold_indices

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
    the threshold as known; where subjects are known, `facekd.verification.bootstrap` gives the honest, wider one.

    Args:
        genuine: (G,) scores of genuine comparisons.
        impostor: (n,) scores of impostor comparisons.
        fars: targets in (0, 1], in any order; results come in that order.
        rule: "exact" or "insightface".

    Raises:
        VerificationError: no scores of a kind, non-finite scores, a FAR outside (0, 1], an unknown rule.
    """
    return RankedScores(genuine, impostor).tar_at_far(fars, rule)


def roc_curve(genuine: ArrayLike, impostor: ArrayLike) -> RocCurve:
    """The receiver operating characteristic: one point a distinct score, none dropped, none interpolated.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    ranked = RankedScores(genuine, impostor)
    values = np.unique(np.concatenate([ranked.genuine, ranked.impostor]))[::-1]
    threshold = np.concatenate([just_above(values[:1]), values])
    false_accepts = ranked.impostor.size - ranked.impostor.rank(threshold, side="left")
    true_accepts = ranked.genuine.size - ranked.genuine.rank(threshold, side="left")
    return RocCurve(false_accepts / ranked.impostor.size, true_accepts / ranked.genuine.size, threshold)


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
    return RankedScores(genuine, impostor).equal_error_point()


def area_under_roc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """The chance that a genuine score exceeds an impostor score, ties counting half (Mann-Whitney).

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        VerificationError: as `tar_at_far`.
    """
    return RankedScores(genuine, impostor).area_under_roc()


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
        return just_above(scores[-1])
    return midway_threshold(scores[cut - 1], scores[cut])
