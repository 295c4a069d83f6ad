"""From scores to log-likelihood ratios, and how good they are: logistic calibration and Cllr.

A log-likelihood ratio says how much more probable a score is of a genuine than of an impostor comparison, so that a
threshold can be chosen for any prior and any costs. Cllr is its cost in bits: 0 is perfect, 1 says nothing. The least
Cllr of the same scores, with the best monotone map in place of a line, is what discrimination alone costs; the
difference is the cost of calibration (N. Brummer, J. du Preez, "Application-independent evaluation of speaker
detection", Computer Speech and Language 20, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from facekd.verification.scores import checked_score_pair

MOST_IMPOSTORS = 500_000  # that a line of two numbers is fitted to; drawn evenly over the ranks
NATURAL_PER_BIT = float(np.log(2))


@dataclass(frozen=True)
class Calibration:
    """log-likelihood ratio (natural logarithm) = slope x score + intercept; costs in bits."""

    slope: float
    intercept: float
    cllr: float
    min_cllr: float
    num_impostor_fitted: int


def calibrate(genuine: ArrayLike, impostor: ArrayLike) -> Calibration:
    """Fit a line to scores by logistic regression, both classes of equal weight, and judge it on the same scores.

    With two numbers fitted to thousands of scores, judging on the same ones flatters by nothing that shows.

    Args:
        genuine: (G,) scores.
        impostor: (n,) scores; more than half a million are thinned evenly over their ranks.

    Raises:
        InputError: no scores of a kind, or non-finite ones.
    """
    from sklearn.isotonic import IsotonicRegression  # here, for it takes a second to import
    from sklearn.linear_model import LogisticRegression

    genuine, impostor = checked_score_pair(genuine, impostor)
    genuine, impostor = genuine.astype(np.float64), np.sort(impostor.astype(np.float64))
    if impostor.size > MOST_IMPOSTORS:
        impostor = impostor[np.linspace(0, impostor.size - 1, MOST_IMPOSTORS).round().astype(np.int64)]
    scores = np.concatenate([genuine, impostor])
    labels = np.arange(scores.size) < genuine.size
    weights = np.where(labels, 0.5 / genuine.size, 0.5 / impostor.size) * scores.size
    # In units of their spread, so that what little scikit-learn shrinks the slope by (C) does not depend on the scale.
    center, spread = float(scores.mean()), float(scores.std()) or 1.0
    model = LogisticRegression(C=1e6, max_iter=1000).fit((scores[:, None] - center) / spread, labels, weights)
    slope = float(model.coef_[0, 0]) / spread
    intercept = float(model.intercept_[0]) - slope * center
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
    """Cllr in bits, of log-likelihood ratios (natural logarithm): (G,) genuine and (n,) impostor; infinite ones too."""
    costs = np.mean(np.logaddexp(0, -genuine)) + np.mean(np.logaddexp(0, impostor))
    return float(costs / (2 * NATURAL_PER_BIT))
