"""Tests calibration against the closed form for two Gaussians, and the costs against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import calibration
from facekd.verification.calibration import calibrate, log_likelihood_ratio_cost


def test_two_gaussians_of_one_width_have_a_known_line(monkeypatch):
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(2, 1, 20_000), generator.normal(0, 1, 60_000)
    found = calibrate(genuine, impostor)
    # log N(s; 2, 1) - log N(s; 0, 1) = 2 s - 2
    assert found.slope == pytest.approx(2, rel=0.03) and found.intercept == pytest.approx(-2, rel=0.03)
    assert 0 < found.min_cllr <= found.cllr < found.min_cllr + 0.01
    monkeypatch.setattr(calibration, "MAX_IMPOSTORS", 5_000)
    thinned = calibrate(genuine, impostor)
    assert thinned.num_impostor_fitted == 5_000 and thinned.cllr == pytest.approx(found.cllr, abs=0.01)


def test_impostors_are_thinned_from_the_lowest_to_the_highest(monkeypatch):
    genuine, impostor = np.array([1.0, 2.0, 4.0]), np.array([3.0, 0.0, 1.0, 5.0, 2.0])
    expected = calibrate(genuine, [0.0, 2.0, 5.0])
    monkeypatch.setattr(calibration, "MAX_IMPOSTORS", 3)
    assert calibrate(genuine, impostor) == expected


def test_scale_and_shift_of_scores_change_the_line_alone():
    generator = np.random.default_rng(1)
    genuine, impostor = generator.normal(1, 1, 500), generator.normal(0, 1, 900)
    found, moved = calibrate(genuine, impostor), calibrate(0.01 * genuine + 5, 0.01 * impostor + 5)
    assert moved.slope == pytest.approx(100 * found.slope, rel=1e-3)
    assert (moved.cllr, moved.min_cllr) == (pytest.approx(found.cllr, abs=1e-5), pytest.approx(found.min_cllr))
    tiny = calibrate(1e-6 * genuine, 1e-6 * impostor)
    assert tiny.cllr == pytest.approx(found.cllr, abs=1e-5)


def test_cost_is_its_definition():
    assert log_likelihood_ratio_cost(np.zeros(3), np.zeros(5)) == pytest.approx(1)
    genuine, impostor = np.array([1.0, np.inf]), np.array([-2.0, -np.inf])
    expected = (np.log2(1 + np.exp(-1)) / 2 + np.log2(1 + np.exp(-2)) / 2) / 2
    assert log_likelihood_ratio_cost(genuine, impostor) == pytest.approx(expected)


def test_perfectly_separated_scores_cost_nothing_at_best():
    found = calibrate([0.8, 0.9], [0.1, 0.2, 0.3])
    assert found.min_cllr == 0 and np.isfinite(found.cllr)


def test_scores_of_one_kind_are_refused():
    with pytest.raises(InputError, match="impostor: no scores"):
        calibrate([0.5], [])
