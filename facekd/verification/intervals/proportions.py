"""Computes intervals of proportions."""

from __future__ import annotations

from facekd.errors import InputError


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Computes Wilson's 95 % score interval of a proportion (E. B. Wilson, 1927).

    It holds at 0 and at `trials` successes too. It treats the trials as independent.

    Raises:
        InputError: no trials, or more successes than trials.
    """
    from scipy.stats import binomtest  # not at the top: it takes a second to import

    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"a proportion needs 0 <= successes <= trials, trials >= 1; got {successes}, {trials}")
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
