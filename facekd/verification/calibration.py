"""Calibrates scores to log-likelihood ratios by logistic regression and measures their cost, Cllr.

A log-likelihood ratio says how much more probable a score is for a genuine than for an impostor comparison, so that a
threshold can be chosen for any prior and any costs. Cllr is its cost in bits: 0 is perfect, 1 is no information. The
minimum Cllr of the same scores, with the best monotone map instead of a line, is the cost of imperfect discrimination;
the difference is the cost of imperfect calibration (N. Brummer, J. du Preez, "Application-independent evaluation of
speaker detection", Computer Speech and Language 20, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from facekd.verification.scores import checked_score_pair

MAX_IMPOSTORS = 500_000  # used for the fit; more are thinned evenly over their ranks
NATURAL_PER_BIT = float(np.log(2))


@dataclass(frozen=True)
class Calibration:
    """Holds a line: log-likelihood ratio (natural logarithm) = slope x score + intercept; costs are in bits."""

    slope: float
    intercept: float
    cllr: float
    min_cllr: float
    num_impostor_fitted: int


def calibrate(genuine: ArrayLike, impostor: ArrayLike) -> Calibration:
    """Fits a line to scores by logistic regression, both classes weighted equally, and evaluates it on the same scores.

    With two numbers fitted to thousands of scores, evaluating on the same scores makes no visible difference.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores; more than half a million are thinned evenly over their ranks.

    Raises:
        InputError: no scores of a kind, or non-finite ones.
    """
    from sklearn.isotonic import IsotonicRegression  # not at the top: it takes a second to import
    from sklearn.linear_model import LogisticRegression

    genuine, impostor = checked_score_pair(genuine, impostor)
    genuine, impostor = genuine.astype(np.float64), np.sort(impostor.astype(np.float64))
    if impostor.size > MAX_IMPOSTORS:
        impostor = impostor[np.linspace(0, impostor.size - 1, MAX_IMPOSTORS).round().astype(np.int64)]
    # Both classes together, so weighted that each has half of the total weight.
    scores = np.concatenate([genuine, impostor])
    labels = np.arange(scores.size) < genuine.size
    weights = np.where(labels, 0.5 / genuine.size, 0.5 / impostor.size) * scores.size
    # Fit in units of the spread, so that scikit-learn's slight shrinkage of the slope (C) is independent of the scale.
    center, spread = float(scores.mean()), float(scores.std()) or 1.0
    model = LogisticRegression(C=1e6, max_iter=1000).fit((scores[:, None] - center) / spread, labels, weights)
    slope = float(model.coef_[0, 0]) / spread
    intercept = float(model.intercept_[0]) - slope * center
    # The best monotone map gives the minimum cost.
    monotone = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels, sample_weight=weights)
    with np.errstate(divide="ignore"):
        best = np.log(monotone) - np.log1p(-monotone)
    return Calibration(
        slope=slope,
        intercept=intercept,
        cllr=log_likelihood_ratio_cost(slope * genuine + intercept, slope * impostor + intercept),
        min_cllr=log_likelihood_ratio_cost(best[labels], best[~labels]),
        num_impostor_fitted=int(impostor.size),
    )


def log_likelihood_ratio_cost(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Computes Cllr in bits from natural log-likelihood ratios, infinite ones too: (G,) genuine and (n,) impostor."""
    costs = np.mean(np.logaddexp(0, -genuine)) + np.mean(np.logaddexp(0, impostor))
    return float(costs / (2 * NATURAL_PER_BIT))
