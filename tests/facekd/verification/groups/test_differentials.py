"""Measures of how far groups differ, against their formulas written as loops and closed forms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.verification.groups.differentials import (
    geometric_mean_ratio,
    gini,
    measure_differentials,
    ratios_to_others,
    worst_ratio,
)

RATES = st.lists(st.floats(1e-6, 1), min_size=2, max_size=6)


@given(RATES)
def test_measures_are_their_formulas(rates: list[float]) -> None:
    values, count = np.array(rates), len(rates)
    assert worst_ratio(values) == pytest.approx(max(rates) / min(rates))
    assert geometric_mean_ratio(values) == pytest.approx(max(rates) / math.prod(rates) ** (1 / count))
    differences = sum(abs(one - other) for one, other in product(rates, rates))
    plain = differences / (2 * count**2 * (sum(rates) / count))
    assert gini(values) == pytest.approx(count / (count - 1) * plain)
    # Multiplying all rates changes no measure, and draws are measured row by row.
    for measure in (worst_ratio, geometric_mean_ratio, gini):
        np.testing.assert_allclose(measure(np.stack([values, values / 2])), [measure(values)] * 2)


def test_equal_rates_and_one_group_with_all_errors_are_the_ends_of_the_scale() -> None:
    same, worst = np.full(5, 0.01), np.array([0, 0, 0, 0, 0.3])
    assert (worst_ratio(same), gini(same)) == (1, 0) and geometric_mean_ratio(same) == pytest.approx(1)
    assert gini(worst) == pytest.approx(1) and np.isnan(worst_ratio(worst)) and np.isnan(geometric_mean_ratio(worst))
    assert np.isnan(gini(np.zeros(3)))


def test_what_is_not_defined_says_why() -> None:
    draws = np.full((100, 2), 0.1)
    found = measure_differentials(np.array([0.0, 0.2]), draws)
    assert found["worst_ratio"]["value"] is None and "no error" in found["worst_ratio"]["reason"]
    assert found["gini"]["value"] == 1 and found["gini"]["ci95"] is None
    assert "no comparisons" in measure_differentials(np.array([np.nan, 0.2]), draws)["gini"]["reason"]
    assert "single group" in measure_differentials(np.array([0.2]), draws[:, :1])["gini"]["reason"]
    # More than one draw in twenty without errors in a group: no interval of a ratio.
    draws[:6, 0] = 0
    assert measure_differentials(np.array([0.1, 0.2]), draws)["worst_ratio"] == {
        "value": pytest.approx(2),
        "ci95": None,
        "reason": None,
    }


def test_a_rate_over_the_mean_of_the_others() -> None:
    np.testing.assert_allclose(ratios_to_others(np.array([0.2, 0.1, 0.3])), [1.0, 0.4, 2.0])
    assert np.isnan(ratios_to_others(np.array([0.2, 0.0]))).tolist() == [True, False]
