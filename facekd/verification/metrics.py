"""Computes TAR@FAR, ROC, EER and AUC from comparison scores. Pure numpy.

A higher score means more alike, and a comparison is accepted when `score >= threshold`. Thresholds are in the units of
the scores (for example cosines) and exact in the scores' own precision: applying a reported threshold to the same
scores gives the reported numbers, for float32 scores too. If one kind is float32 and the other float64, both are
converted to float64.

Glossary: genuine comparisons are two images of one subject (ISO/IEC 19795-1: mated), impostor comparisons images of
two subjects (non-mated). FAR is the share of impostor comparisons accepted (per comparison: ISO's FMR); TAR is the
share of genuine comparisons accepted (1 - FNMR).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from facekd.verification.operating_points import (
    EqualErrorPoint,
    RocCurve,
    Rule,
    TarAtFar,
    checked_far,
    first_refused_score,
    just_above,
    num_accepted_above,
    num_allowed_false_accepts,
)
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import as_array, checked_score_pair


def tar_at_far(
    genuine: ArrayLike, impostor: ArrayLike, fars: float | Sequence[float] | np.ndarray, rule: Rule = "exact"
) -> list[TarAtFar]:
    """Computes the true accept rate at given false accept rates.

    With n impostor comparisons a FAR of f allows k = floor(f n) false accepts. Rule "exact" puts the threshold just
    above the (k+1)-th highest impostor score (`far_threshold`): the largest TAR whose FAR does not exceed f. If k is 0
    the FAR is not measurable, by either rule; nothing is interpolated. Rule "insightface" takes the ROC corner whose
    FAR is *nearest* to f, which may exceed it (on small sets by points of TAR): use it only beside published tables
    that were made in the same way (IJB evaluation scripts of deepinsight/insightface).

    `ci95` is Wilson's interval of the TAR at the threshold taken. It treats genuine comparisons as independent and
    the threshold as known; if subjects are known, `facekd.verification.intervals.bootstrap` gives the honest, wider
    interval.

    Args:
        genuine: (G,) scores of genuine comparisons.
        impostor: (n,) scores of impostor comparisons.
        fars: targets in (0, 1], in any order; results have the same order.
        rule: "exact" or "insightface".

    Raises:
        InputError: no scores of a kind, non-finite scores, a FAR outside (0, 1], an unknown rule.
    """
    return RankedScores(genuine, impostor).tar_at_far(fars, rule)


def tar_curve(genuine: np.ndarray, impostor: np.ndarray, fars: np.ndarray) -> np.ndarray:
    """Computes the true accept rate at many false accept rates at once, to draw a curve; no intervals.

    The values are those of `tar_at_far` by rule "exact", except where a FAR allows no false accept and so cannot be
    measured: there the curve has the TAR above the highest impostor score.

    Args:
        genuine: (G,) floating scores of genuine comparisons, in any order.
        impostor: (n,) floating scores of impostor comparisons, in any order.
        fars: (F,) false accept rates in (0, 1].

    Returns:
        (F,) true accept rates.

    Raises:
        InputError: as `tar_at_far`.
    """
    genuine, impostor = checked_score_pair(genuine, impostor)
    fars = np.array([checked_far(far) for far in np.atleast_1d(as_array(fars, "fars")).tolist()])
    # A lowest impostor of minus infinity is the first refused one where a FAR allows all the others.
    rising = np.append(-np.inf, np.sort(impostor))
    refused = first_refused_score(rising, num_allowed_false_accepts(fars, len(impostor)))
    return num_accepted_above(np.sort(genuine)[::-1], refused) / len(genuine)


def roc_curve(genuine: ArrayLike, impostor: ArrayLike) -> RocCurve:
    """Computes the receiver operating characteristic: a point for each distinct score, none dropped or interpolated.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        InputError: as `tar_at_far`.
    """
    ranked = RankedScores(genuine, impostor)
    values = np.unique(np.concatenate([ranked.genuine, ranked.impostor]))[::-1]
    threshold = np.concatenate([just_above(values[:1]), values])
    false_accepts = ranked.impostor.size - np.searchsorted(ranked.impostor, threshold, side="left")
    true_accepts = ranked.genuine.size - np.searchsorted(ranked.genuine, threshold, side="left")
    return RocCurve(false_accepts / ranked.impostor.size, true_accepts / ranked.genuine.size, threshold)


def equal_error_rate(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Computes the rate at which false accepts and false rejects are equally frequent; see `equal_error_point`.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        InputError: as `tar_at_far`.
    """
    return equal_error_point(genuine, impostor).eer


def equal_error_point(genuine: ArrayLike, impostor: ArrayLike) -> EqualErrorPoint:
    """Computes the equal error rate and its threshold.

    FAR and FRR change in steps and seldom meet exactly: the EER lies where the straight line between the two
    neighbouring operating points crosses FAR = FRR (what the usual brentq over an interpolated ROC finds). The
    threshold is that of the point where FAR and FRR are nearer to each other, moved midway to the next lower score.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        InputError: as `tar_at_far`.
    """
    return RankedScores(genuine, impostor).equal_error_point()


def area_under_roc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Computes the chance that a genuine score exceeds an impostor score, ties counting half (Mann-Whitney).

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores.

    Raises:
        InputError: as `tar_at_far`.
    """
    return RankedScores(genuine, impostor).area_under_roc()
