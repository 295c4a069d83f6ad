"""Tests the plain values that are reported of a pair set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facekd.verification import equal_error_rate, kfold_accuracy, tar_at_far, wilson_interval
from facekd.verification.measures import measure_pairs


@pytest.fixture
def comparisons() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (400,), labels, subjects (400, 2); every second pair genuine."""
    generator = np.random.default_rng(0)
    is_same = np.arange(400) % 2 == 0
    own = generator.integers(0, 50, 400)
    subjects = np.stack([own, np.where(is_same, own, (own + generator.integers(1, 50, 400)) % 50)], 1)
    return generator.normal(is_same * 2.0, 1), is_same, subjects


def test_the_values_are_those_of_the_metrics(comparisons):
    scores, is_same, _ = comparisons
    result = measure_pairs(scores, is_same, 5, [0.1, 0.01, 1e-4])
    accuracy = kfold_accuracy(scores, is_same, 5)
    assert result["accuracy"]["mean"] == accuracy.mean and result["accuracy"]["folds"] == list(accuracy.folds)
    assert result["eer"] == equal_error_rate(scores[is_same], scores[~is_same])
    points = tar_at_far(scores[is_same], scores[~is_same], [0.1, 0.01, 1e-4])
    assert [point["tar"] for point in result["tar_at_far"]] == [point.tar for point in points]
    assert result["tar_at_far"][2]["tar"] is None and "not measurable" in result["tar_at_far"][2]["reason"]
    assert (result["num_pairs"], result["num_genuine"], result["num_impostor"]) == (400, 200, 200)


def test_the_result_is_strict_json_that_reads_back_equal(comparisons):
    result = measure_pairs(*comparisons[:2], subjects=comparisons[2], replicates=100)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_intervals_resample_subjects_where_they_are_known_and_pairs_where_not(comparisons):
    scores, is_same, subjects = comparisons
    known = measure_pairs(scores, is_same, subjects=subjects, replicates=200)
    unknown = measure_pairs(scores, is_same, replicates=200)
    assert known["tar_at_far"][0]["interval"] == "subject bootstrap"
    assert unknown["tar_at_far"][0]["interval"] == "pair bootstrap"
    assert known["bootstrap"]["num_subjects"] == 50 and unknown["bootstrap"]["num_subjects"] is None
    for result in (known, unknown):
        point = result["tar_at_far"][1]
        wilson = wilson_interval(round(point["tar"] * 200), 200)
        assert point["ci95_at_threshold"] == pytest.approx(wilson)
        assert point["ci95"][0] <= wilson[0] <= point["tar"] <= wilson[1] <= point["ci95"][1]
        assert result["eer_ci95"][0] <= result["eer"] <= result["eer_ci95"][1]


def test_without_draws_wilsons_intervals_remain(comparisons):
    result = measure_pairs(*comparisons[:2], replicates=0)
    assert result["bootstrap"] is result["eer_ci95"] is None
    assert result["tar_at_far"][0]["interval"] == "wilson"


def test_the_other_rule_keeps_wilsons_intervals_for_the_draws_follow_the_exact_one(comparisons):
    point = measure_pairs(*comparisons[:2], rule="insightface", replicates=100)["tar_at_far"][0]
    assert (point["rule"], point["interval"]) == ("insightface", "wilson")


def test_too_few_subjects_are_said_and_pairs_resampled_instead(comparisons):
    scores, is_same, _ = comparisons
    few = np.where(is_same[:, None], [0, 0], [0, 1])
    result = measure_pairs(scores, is_same, subjects=few, replicates=100)
    assert result["tar_at_far"][0]["interval"] == "pair bootstrap"
    assert "only 1 subject has genuine pairs" in result["bootstrap"]["note"]
