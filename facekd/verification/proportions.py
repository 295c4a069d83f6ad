"""Intervals of proportions: Wilson's score interval."""

from __future__ import annotations

import math

from facekd.errors import InputError

Z_95 = 1.959963984540054  # the 97.5th percentile of the standard normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (E. B. Wilson, 1927); sound at 0 and at `trials` successes too.

    Raises:
        InputError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"a proportion needs 0 <= successes <= trials, trials >= 1; got {successes}, {trials}")
    share, shrink = successes / trials, 1 + Z_95**2 / trials
    centre = (share + Z_95**2 / (2 * trials)) / shrink
    half = Z_95 / shrink * math.sqrt(share * (1 - share) / trials + (Z_95 / (2 * trials)) ** 2)
    # At the ends the exact bounds are 0 and 1; rounding would leave them a hair away.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == trials else min(centre + half, 1.0)
    return low, high
