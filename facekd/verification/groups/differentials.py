"""Summarises how unequal the error rates of groups are: worst over best, worst over geometric mean, and Gini.

The measures are those that are quoted from P. Grother, "Face Recognition Vendor Test Part 8: Summarizing Demographic
Differentials", NIST IR 8429 (2022), and from ISO/IEC 19795-10:2024; the Gini coefficient with the correction for few
groups is that of J. J. Howard et al., arXiv:2203.05051 (2022). None of these texts was at hand when this was written:
each formula stands in its function, and whether it is theirs to the letter was not checked.

Shapes: G groups; leading dimensions (draws of a bootstrap, say) are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from facekd.verification.intervals.bootstrap import percentile_interval

MIN_USABLE = 0.95  # share of the draws in which a measure must be defined for an interval of it


def worst_ratio(rates: np.ndarray) -> np.ndarray:
    """Returns the largest rate over the smallest: max_g r_g / min_g r_g, from 1 (equal) on.

    Args:
        rates: (..., G), not negative.

    Returns:
        (...), NaN where a rate is 0 or NaN: the ratio is then not defined.
    """
    return _ratio(rates.max(axis=-1), rates.min(axis=-1))


def geometric_mean_ratio(rates: np.ndarray) -> np.ndarray:
    """Returns the largest rate over the geometric mean of all: max_g r_g / (r_1 r_2 ... r_G)^(1/G), from 1 (equal) on.

    One group with a very small rate moves it less than it moves `worst_ratio`.

    Args:
        rates: (..., G), not negative.

    Returns:
        (...), NaN where a rate is 0 or NaN.
    """
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(rates).mean(axis=-1))
    return _ratio(rates.max(axis=-1), mean)


def gini(rates: np.ndarray) -> np.ndarray:
    """Returns the Gini coefficient: G / (G - 1) times the sum of |r_g - r_h| over all g, h, over 2 G^2 times the mean.

    The factor G / (G - 1) makes 1 the largest value whatever the number of groups: one group has all the errors. 0 says
    that all rates are equal. It is defined where some rate is 0.

    Args:
        rates: (..., G), not negative, G >= 2.

    Returns:
        (...), NaN where all rates are 0 or one is NaN.
    """
    count = rates.shape[-1]
    differences = np.abs(rates[..., :, None] - rates[..., None, :]).sum(axis=(-1, -2))
    return _ratio(differences, 2 * count * (count - 1) * rates.mean(axis=-1))


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "worst_ratio": worst_ratio,
    "geometric_mean_ratio": geometric_mean_ratio,
    "gini": gini,
}


def ratios_to_others(rates: np.ndarray) -> np.ndarray:
    """Returns each rate over the mean rate of the other groups (..., G); NaN where that mean is 0 or a rate is NaN."""
    count = rates.shape[-1]
    return _ratio(rates, (rates.sum(axis=-1, keepdims=True) - rates) / max(count - 1, 1))


def differences_to_others(rates: np.ndarray) -> np.ndarray:
    """Returns each rate minus the mean rate of the other groups (..., G); NaN where a rate is NaN."""
    count = rates.shape[-1]
    return rates - (rates.sum(axis=-1, keepdims=True) - rates) / max(count - 1, 1)


def measure_differentials(rates: np.ndarray, draws: np.ndarray) -> dict[str, dict[str, Any]]:
    """Computes every measure of `MEASURES` with its interval, as plain values for JSON.

    Args:
        rates: (G,) the rate of each group; NaN for a group without comparisons.
        draws: (R, G) the same in each draw of a bootstrap over subjects; R may be 0.

    Returns:
        By the name of the measure: `value` (None with a `reason`), and `ci95`: None without draws, if more than one
        draw in twenty leaves the measure undefined, and if a group has no error, because draws repeat only errors that
        were seen and would claim certainty.
    """
    found = {}
    for name, measure in MEASURES.items():
        value = float(measure(rates)) if len(rates) > 1 else np.nan
        reason = None if np.isfinite(value) else _why_undefined(rates, name)
        found[name] = {
            "value": None if reason else value,
            "ci95": None if reason or (rates == 0).any() else usable_interval(measure(draws)),
            "reason": reason,
        }
    return found


def usable_interval(draws: np.ndarray) -> list[float] | None:
    """Returns the middle 95 % of the draws that are defined; None if there are none, or many are not."""
    usable = draws[np.isfinite(draws)]
    if not usable.size or usable.size < MIN_USABLE * draws.size:
        return None
    return list(percentile_interval(usable))


def _why_undefined(rates: np.ndarray, name: str) -> str:
    if len(rates) < 2:
        return "a single group has nothing to differ from"
    if np.isnan(rates).any():
        return "a group has no comparisons"
    if name == "gini":
        return "no group has an error"
    return "a group has no error, so that a ratio to its rate is not defined"


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
