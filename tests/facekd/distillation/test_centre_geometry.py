"""Compares what is measured of class centres with naive computations over all pairs, and the spreading with an SVD."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.distillation import centre_geometry
from facekd.distillation.centre_geometry import cosine_correlation, effective_dimension, spread_centres
from facekd.errors import InputError


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_correlation(first: np.ndarray, second: np.ndarray) -> float:
    upper = np.triu_indices(len(first), 1)
    cosines = [(unit(rows) @ unit(rows).T)[upper] for rows in (first, second)]
    return float(np.corrcoef(*cosines)[0, 1])


@given(st.integers(0, 999), st.integers(3, 40), st.integers(2, 9), st.integers(2, 9), st.floats(0, 30), st.floats(0, 2))
def test_the_correlation_is_that_of_all_pairs(
    seed: int, classes: int, size: int, other: int, common: float, alike: float
) -> None:
    first = draw(seed, classes, size) + common  # with a large part in common, all cosines are near 1
    second = alike * first @ draw(seed + 1, size, other) + draw(seed + 2, classes, other)
    assert cosine_correlation(first, second) == pytest.approx(naive_correlation(first, second), abs=1e-6)


def test_many_classes_are_taken_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = draw(0, 50, 8), draw(1, 50, 5)
    results = []
    for chunk in (8192, 7):
        monkeypatch.setattr(centre_geometry, "CLASSES_CHUNK", chunk)
        results.append(
            [cosine_correlation(first, second), effective_dimension(first), *spread_centres(first, 0.5).flat]
        )
    np.testing.assert_allclose(results[0], results[1], atol=1e-12)


def test_a_rotation_and_other_lengths_change_nothing_about_who_resembles_whom() -> None:
    centres = draw(2, 30, 6)
    rotation, _ = np.linalg.qr(draw(3, 6, 6))
    rotated = (centres @ rotation) * np.linspace(1, 9, 30)[:, None]
    assert cosine_correlation(centres, rotated) == pytest.approx(1)
    assert cosine_correlation(centres, np.concatenate([centres, np.zeros((30, 4))], axis=1)) == pytest.approx(1)


def test_without_differences_there_is_no_correlation() -> None:
    assert cosine_correlation(np.eye(5), draw(0, 5, 3)) is None  # all cosines are 0
    assert cosine_correlation(draw(0, 2, 4), draw(1, 2, 4)) is None
    with pytest.raises(InputError, match="expected"):
        cosine_correlation(draw(0, 5, 3), draw(0, 6, 3))


def test_the_effective_dimension_is_the_participation_ratio_of_the_eigenvalues() -> None:
    centres = draw(4, 60, 7) * [5, 4, 3, 2, 1, 0.5, 0.1] + 1
    values = np.linalg.eigvalsh(np.cov(unit(centres).T))
    assert effective_dimension(centres) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert effective_dimension(np.concatenate([np.eye(6), -np.eye(6)])) == pytest.approx(6)
    assert effective_dimension(np.ones((4, 3))) == 0


@given(st.integers(0, 999), st.integers(3, 60), st.integers(2, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_spreading_raises_the_singular_values_to_a_power(seed: int, classes: int, size: int, power: float) -> None:
    centres = draw(seed, classes, size) + 1
    centred = unit(unit(centres) - unit(centres).mean(axis=0))
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    raised = np.where(values > 1e-7 * values[0], values**power, 0)
    expected = unit((left * raised) @ right)
    np.testing.assert_allclose(spread_centres(centres, power), expected, atol=1e-7)


def test_spreading_gives_centres_more_directions() -> None:
    weak = draw(5, 200, 32) * 0.7 ** np.arange(32) + 2
    dimensions = [effective_dimension(spread_centres(weak, power)) for power in (1, 0.5, 0.25, 0)]
    assert dimensions == sorted(dimensions)
    assert dimensions[0] < 4 and dimensions[2] > 9


def test_directions_that_are_rounding_alone_stay_out() -> None:
    flat = np.concatenate([draw(6, 40, 3), np.zeros((40, 5))], axis=1)
    rotation, _ = np.linalg.qr(draw(7, 8, 8))
    rotated = (flat @ rotation).astype(np.float64)
    spread = spread_centres(rotated, 0.0)
    assert np.linalg.matrix_rank(spread, tol=1e-12) == 3


@pytest.mark.parametrize(
    ("centres", "power", "message"),
    [
        (np.eye(3), 1.5, "power is 1.5: expected a number from 0"),
        (np.ones((3, 4)), 0.5, "no direction"),
        (np.zeros((3, 4)), 0.5, "the centre in row 0 has no direction"),
        (np.diag([1.0, 2, 0, 3]), 0.5, "the centre in row 2 has no direction"),
    ],
)
def test_centres_that_cannot_be_spread(centres: np.ndarray, power: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spread_centres(centres, power)
