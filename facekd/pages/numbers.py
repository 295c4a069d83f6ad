"""Writes numbers alike on every page and terminal: shares as percents, intervals, differences, thresholds.

Percents have two decimals and thresholds four; results.json has every digit.
"""

from __future__ import annotations

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"


def percent(share: float | None) -> str:
    """Writes `0.98765` as `98.77`, and an unknown value as `-`."""
    return "-" if share is None else f"{100 * share:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Writes `(0.98, 0.99)` as `98.00 to 99.00`, and an unknown interval as `-`."""
    return "-" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def points(difference: float) -> str:
    """Writes a difference of two shares in points of percent, with its sign: `+1.25`."""
    return f"{100 * difference:+.2f}".replace("-", MINUS)


def interval_of_points(bounds: Sequence[float]) -> str:
    """Writes the interval of a difference: `(-0.01, 0.02)` as a minus, `1.00 to +2.00`."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def decimal(value: float, digits: int) -> str:
    """Writes a number with so many digits behind the point; what rounds to nothing has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def p_value(value: float) -> str:
    """Writes a p-value with three decimals, and the smallest as `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def threshold(value: float | None) -> str:
    """Writes a threshold of a score with four decimals, and an unknown one as `-`."""
    return "-" if value is None else f"{value:.4f}"
