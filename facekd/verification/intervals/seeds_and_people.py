r"""Computes intervals of the difference between two training methods that cover new seeds and new people together.

Both methods are trained with the same n seeds and evaluated on the same S people. With weights of the people as in a
bootstrap, each seed has a difference d_s (the measure of one method minus that of the other) and its draws. The model
is that of two crossed random effects,

    d_s = mu + a_s + b(people) + c_s(people),    Var(mean of d_s) = var_a / n + var_b / S + var_c / (n S).

The spread of d_s over seeds has the expectation var_a + var_c / S, and the covariance between the draws of two seeds,
which are of the same people, var_b / S. So

    V = (sample variance of d_s) / n + max(mean covariance between seeds, 0)

has the right expectation; the naive two-way ("pigeonhole") bootstrap counts the last term three times, and with six
seeds its percentiles are too narrow all the same. The interval is Student's, with Satterthwaite's degrees of freedom

    V^2 / (A^2 / (n - 1) + C^2 / (S - 1)),  A and C the two terms of V.

This is the analysis of many readers and many cases in radiology, with seeds for readers and people for cases.

Sources: N. A. Obuchowski, H. E. Rockette, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple
tests", Communications in Statistics - Simulation and Computation 24, 1995; S. L. Hillis, "A comparison of denominator
degrees of freedom methods for multiple observer ROC analysis", Statistics in Medicine 26, 2007 (its degrees of freedom
leave out the second term, which is small with many people); F. E. Satterthwaite, Biometrics Bulletin 2, 1946; A. B.
Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007; S. Holm, "A simple sequentially rejective
multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

Shapes: n seeds, S people, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError

MIN_SEEDS = 2  # one seed says nothing about the next
QUANTILES = 2000  # of a standard error: powers are exact to three digits


@dataclass(frozen=True)
class Components:
    """Holds the variances of a difference: of seeds, of people, and of how the two interact; see the module.

    Attributes:
        seeds: var_a, of one training with infinitely many people.
        people: var_b, of one person; its share of the variance of a difference is var_b / S.
        both: var_c, of one training on one person.
    """

    seeds: float
    people: float
    both: float

    def terms(self, num_seeds: int, num_people: int) -> tuple[float, float]:
        """Returns the two terms A and C of the variance of a mean difference."""
        return (self.seeds + self.both / num_people) / num_seeds, self.people / num_people


@dataclass(frozen=True)
class CrossedDifference:
    """Holds a mean difference with its 95 % interval over seeds and people.

    Attributes:
        mean: of the differences, in the units of the measure.
        standard_error: of the mean.
        degrees_of_freedom: Satterthwaite's.
        ci95: the interval.
        p_value: two-sided, of no difference; 1 if the differences are all 0.
        components: the variances behind it.
    """

    mean: float
    standard_error: float
    degrees_of_freedom: float
    ci95: tuple[float, float]
    p_value: float
    components: Components


def crossed_difference(differences: ArrayLike, draws: np.ndarray, num_people: int) -> CrossedDifference:
    """Computes the mean difference of two methods and its interval over seeds and people.

    Args:
        differences: (n,) one measure of a method minus that of another, seed by seed.
        draws: (n, R) the same in each draw of people; draw r weighs the same people for all seeds and both methods.
        num_people: S.

    Raises:
        InputError: fewer than two seeds or people, or draws of another number of seeds.
    """
    from scipy import stats  # here: importing it takes half a second

    values = np.asarray(differences, np.float64)
    if len(values) < MIN_SEEDS or num_people < 2:
        raise InputError(f"an interval over seeds and people needs two of each, found {len(values)} and {num_people}")
    if draws.ndim != 2 or draws.shape[0] != len(values) or draws.shape[1] < 2 or not np.isfinite(draws).all():
        raise InputError(f"expected finite draws ({len(values)}, R) of the differences, found {draws.shape}")
    # A bootstrap underestimates a variance by 1 / S.
    between = np.atleast_2d(np.cov(draws)) * num_people / (num_people - 1)
    n = len(values)
    own = float(np.trace(between)) / n
    shared = (float(between.sum()) - n * own) / (n * (n - 1))
    spread = float(values.var(ddof=1))
    of_seeds, of_people = spread / n, max(shared, 0.0)
    # The interval.
    variance, mean = of_seeds + of_people, float(values.mean())
    error, df = math.sqrt(variance), degrees_of_freedom(of_seeds, of_people, n, num_people)
    half = float(stats.t.ppf(0.975, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df)) if error > 0 else float(mean == 0)
    both = max(own - of_people, 0.0)
    components = Components(max(spread - both, 0.0), of_people * num_people, both * num_people)
    return CrossedDifference(mean, error, df, (mean - half, mean + half), p_value, components)


def degrees_of_freedom(of_seeds: float, of_people: float, num_seeds: int, num_people: int) -> float:
    """Computes Satterthwaite's degrees of freedom of A + C, terms of n seeds and S people; n - 1 if both are 0."""
    below = of_seeds**2 / (num_seeds - 1) + of_people**2 / (num_people - 1)
    return (of_seeds + of_people) ** 2 / below if below > 0 else num_seeds - 1.0


def power(difference: float, components: Components, num_seeds: int, num_people: int) -> float:
    """Computes the chance that a true difference is shown: that its 95 % interval leaves out 0, on either side.

    Args:
        difference: the true difference, in the units of the measure.
        components: the variances of such differences.
        num_seeds: number of seeds, from 2.
        num_people: number of people, from 2.
    """
    from scipy import stats

    terms = components.terms(num_seeds, num_people)
    if sum(terms) <= 0:
        return float(difference != 0)
    df = degrees_of_freedom(*terms, num_seeds, num_people)
    limit, shift = float(stats.t.ppf(0.975, df)), abs(difference) / math.sqrt(sum(terms))
    # A normal deviate against the limit times an estimated standard error, over the quantiles of that estimate: scipy's
    # noncentral t gives NaN for some shifts.
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    limits = limit * np.sqrt(stats.chi2.ppf(shares, df) / df)
    return float(np.mean(stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number: with all below 0.05 called differences, none is wrong 95 times in 100.

    The smallest is multiplied by their number k, the next by k - 1, and so on; none may be below one before it.
    """
    adjusted, reached = [0.0] * len(p_values), 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min((len(p_values) - place) * p_values[number], 1.0))
        adjusted[number] = reached
    return adjusted
