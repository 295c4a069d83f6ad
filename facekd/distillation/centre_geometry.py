"""Measures which classes resemble which in a set of class centres, and spreads centres that lie close. Pure numpy.

A classifier that is shared carries one thing: who resembles whom, the cosines between its centres. After a short
training its learned rows hold little of that, while the means of each class's embeddings do ("It's All in the Head",
arXiv:2201.06945, shares the rows; docs/method.md has figures). Means of a weak network share few directions;
`spread_centres` gives the weak directions more weight.

All sums are in float64, and over D x D products: no array is (C, C). Shapes: C classes, D and E embedding sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facekd.errors import InputError

CLASSES_CHUNK = 8192  # rows in float64 at once: 32 MiB at 512 numbers
SMALLEST_CLASSES = 3  # two classes have one cosine, which correlates with nothing
SMALLEST_SPREAD = 1e-9  # in cosine: cosines that vary less than this are the same but for rounding
SHORTEST = 1e-12


def cosine_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Computes how far two sets of centres agree on who resembles whom.

    This is Pearson's correlation, over all pairs of classes, between the cosine of their centres in one set and that in
    the other. It is 1 where one set is a rotation of the other; D may differ from E. The sums over pairs of classes
    follow from products of D x D, such as sum_ij (a_i . a_j)(b_i . b_j) = || A'B ||^2.

    Args:
        first: (C, D).
        second: (C, E), row by row the same classes.

    Returns:
        -1 to 1; None with fewer than 3 classes, or where all cosines of one set are the same.

    Raises:
        InputError: sets with different numbers of classes.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise InputError(f"centres of shapes {first.shape} and {second.shape}: expected (C, D) and (C, E)")
    count = len(first)
    if count < SMALLEST_CLASSES:
        return None

    # Sums over all ordered pairs, a class with itself included, whose cosine is 1.
    products = {name: np.zeros((a.shape[1], b.shape[1])) for name, a, b in _pairs_of(first, second)}
    totals = [np.zeros(first.shape[1]), np.zeros(second.shape[1])]
    for one, other in zip(_unit_chunks(first), _unit_chunks(second), strict=True):
        for name, a, b in _pairs_of(one, other):
            products[name] += a.T @ b
        totals[0] += one.sum(axis=0)
        totals[1] += other.sum(axis=0)

    # Without those, the moments over pairs of two classes.
    pairs = count * (count - 1)
    means = [(float(total @ total) - count) / pairs for total in totals]
    squares = {name: (float(np.square(product).sum()) - count) / pairs for name, product in products.items()}
    variances = [squares["first"] - means[0] ** 2, squares["second"] - means[1] ** 2]
    if min(variances) <= SMALLEST_SPREAD**2:
        return None
    correlation = (squares["both"] - means[0] * means[1]) / float(np.sqrt(variances[0] * variances[1]))
    return min(max(correlation, -1.0), 1.0)


def effective_dimension(centres: NDArray[np.floating]) -> float:
    """Computes in how many directions centres differ: the participation ratio of their covariance.

    With the eigenvalues l of the covariance of the centres at length 1, it is (sum l)^2 / sum l^2: D where the centres
    lie in all directions alike, 1 where they lie on a line. C centres in random directions have about C D / (C + D).

    Args:
        centres: (C, D).

    Returns:
        1 to D; 0 where all centres are the same.
    """
    covariance = _second_moment(centres, _mean_of_units(centres))
    trace = float(np.trace(covariance))
    return trace**2 / float(np.square(covariance).sum()) if trace > SHORTEST * len(centres) else 0.0


def spread_centres(centres: NDArray[np.floating], power: float) -> NDArray[np.float64]:
    """Spreads class centres over more directions: their singular values are raised to a power.

    The centres at length 1, minus their mean, at length 1 again, are M = U S V'. The result is U S^power V' with rows
    of length 1: at 1 that is M itself, towards 0 every direction in which the centres differ counts alike. It is
    computed as M (M'M)^((power - 1) / 2) from the eigenvectors of the D x D product, whose signs cancel out. The
    directions stay those of the network that the centres come from, so the result is a classifier of its embeddings.

    Args:
        centres: (C, D).
        power: 0 to 1.

    Returns:
        (C, D) float64, unit rows.

    Raises:
        InputError: a power outside 0 to 1, or a class whose centre is the mean of all, which has no direction.
    """
    if not 0 <= power <= 1:
        raise InputError(f"power is {power}: expected a number from 0 (all directions alike) to 1 (as they are)")
    # Subtract the mean of all classes: what they have in common distinguishes none of them.
    mean = _mean_of_units(centres)
    centred = np.concatenate([_unit_rows(chunk - mean) for chunk in _unit_chunks(centres)])
    if power < 1:
        # A direction that is only rounding must not be raised to the size of the others.
        values, vectors = np.linalg.eigh(centred.T @ centred)
        is_real = values > values[-1] * max(centred.shape) * np.finfo(np.float64).eps
        factors = np.where(is_real, np.where(is_real, values, 1.0) ** ((power - 1) / 2), 0.0)
        centred = _unit_rows(centred @ ((vectors * factors) @ vectors.T))
    return centred


def _pairs_of(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[tuple[str, NDArray[np.floating], NDArray[np.floating]], ...]:
    return (("first", first, first), ("second", second, second), ("both", first, second))


def _unit_chunks(centres: NDArray[np.floating]) -> Iterator[NDArray[np.float64]]:
    """Yields the centres at length 1, some classes at a time."""
    for start in range(0, len(centres), CLASSES_CHUNK):
        yield _unit_rows(centres[start : start + CLASSES_CHUNK].astype(np.float64))


def _mean_of_units(centres: NDArray[np.floating]) -> NDArray[np.float64]:
    return sum((chunk.sum(axis=0) for chunk in _unit_chunks(centres)), np.zeros(centres.shape[1])) / len(centres)


def _second_moment(centres: NDArray[np.floating], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    chunks = (chunk - mean for chunk in _unit_chunks(centres))
    return sum((chunk.T @ chunk for chunk in chunks), np.zeros((centres.shape[1],) * 2))


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales rows to length 1.

    Raises:
        InputError: a row without a direction.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths <= SHORTEST).any():
        number = int(np.flatnonzero(lengths[:, 0] <= SHORTEST)[0])
        raise InputError(f"the centre in row {number} has no direction: it is zero, or the mean of all centres")
    return rows / lengths
