"""Tests the plain values that are reported of a pair set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import equal_error_rate, kfold_accuracy, tar_at_far, wilson_interval
from facekd.verification.intervals.subject_bootstrap import Tail
from facekd.verification.measures import (
    add_intervals,
    add_intervals_of_all_pairs,
    measure_pairs,
    measure_verification,
    notes_on_ties,
    verification_curves,
)
from facekd.verification.ranked_scores import RankedScores


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


@pytest.mark.parametrize("is_known", [True, False])
def test_how_the_intervals_were_made_is_said(comparisons, is_known):
    scores, is_same, subjects = comparisons
    result = measure_pairs(scores, is_same, subjects=subjects if is_known else None, replicates=120, seed=3)
    about = ("subjects", 50) if is_known else ("pairs", None)
    expected = {"resampled": about[0], "num_subjects": about[1], "replicates": 120, "seed": 3, "note": None}
    assert result["bootstrap"] == expected


@pytest.mark.parametrize(
    ("known", "note"),
    [
        (1, "only 1 subject has genuine pairs, 10 are needed: intervals are Wilson's"),
        (9, "only 9 subjects have genuine pairs, 10 are needed: intervals are Wilson's"),
        (50, "the labels of the pairs contradict each other's subjects: no interval over subjects can be made"),
    ],
)
def test_wilsons_intervals_remain_where_subjects_cannot_be_resampled(comparisons, known, note):
    scores, is_same, _ = comparisons
    first = np.arange(400) // 2 % known
    second = np.where(is_same, first, first + 1)
    second[7] = first[7] if known == 50 else second[7]
    ranked = RankedScores(scores[is_same], scores[~is_same])
    measured = measure_verification(ranked, [0.1], "exact")
    about = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": 4, "note": note}
    expected = {**measure_verification(ranked, [0.1], "exact"), "bootstrap": about}
    add_intervals(measured, ranked, scores, is_same, (first, second), 100, 4)
    assert measured == expected
    if known == 50:
        with pytest.raises(InputError, match="1 comparison contradicts its subjects"):
            measure_pairs(scores, is_same, subjects=np.stack([first, second], 1), replicates=100)


class AllPairsOfPeople:
    """All pairs of images of people who have two each, their impostors listed in a loop."""

    def __init__(self, scores: np.ndarray) -> None:
        pairs = [(a, b) for b in range(len(scores)) for a in range(b)]
        self.scores = np.array([scores[pair] for pair in pairs])
        self.subjects = np.array(pairs) // 2
        self.is_same = self.subjects[:, 0] == self.subjects[:, 1]
        order = np.argsort(-self.scores[self.is_same])
        self.genuine: np.ndarray = self.scores[self.is_same][order]
        self.genuine_units: np.ndarray = self.subjects[self.is_same, 0][order]
        self.num_impostor, self.num_units = int((~self.is_same).sum()), len(scores) // 2

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        drawn = generator.integers(self.num_units, size=self.num_units).tolist()
        return np.array([float(drawn.count(person)) for person in range(self.num_units)])

    def totals(self, drawn: np.ndarray) -> np.ndarray:
        return np.array([sum(row[a] * row[b] for a, b in self.subjects[~self.is_same]) for row in drawn])

    def highest(self, count: int) -> Tail:
        return Tail.sorted(self.scores[~self.is_same], *self.subjects[~self.is_same].T, is_all=True)


@pytest.mark.parametrize(("num_people", "replicates"), [(12, 100), (12, 0), (9, 100)])
def test_all_pairs_of_people_get_the_intervals_of_the_same_pairs_listed(num_people, replicates):
    own = np.arange(2 * num_people) // 2
    pairs = AllPairsOfPeople(
        np.random.default_rng(0).normal(own[:, None] == own, 0.6, (2 * num_people, 2 * num_people))
    )
    ranked, fars = RankedScores(pairs.scores[pairs.is_same], pairs.scores[~pairs.is_same]), [0.1, 1e-4, 0.02]
    found, listed = (measure_verification(ranked, fars, "exact") for _ in range(2))
    draws = add_intervals_of_all_pairs(found, ranked, pairs, num_people, replicates, 5)
    if replicates:
        add_intervals(listed, ranked, pairs.scores, pairs.is_same, tuple(pairs.subjects.T), replicates, 5)
    assert found == listed
    if not replicates or num_people < 10:
        assert draws == {} and found["eer_ci95"] is None
        return
    # The draws by which the intervals can be made again, without the FAR that is not measurable.
    assert list(draws) == ["eer", "fars", "tar"] and draws["fars"].tolist() == [0.1, 0.02]
    assert found["eer_ci95"] == pytest.approx(np.quantile(draws["eer"], (0.025, 0.975)))
    assert draws["eer"].shape == (100,) and draws["tar"].shape == (2, 100)
    for point, tars in zip(found["tar_at_far"][::2], draws["tar"], strict=True):
        low, high = np.quantile(tars, (0.025, 0.975))
        wilson = point["ci95_at_threshold"]
        assert point["ci95"] == pytest.approx([min(low, wilson[0]), max(high, wilson[1])])


def test_ties_that_move_a_threshold_are_noted():
    impostor = np.concatenate([[0.9], np.full(40, 0.8), np.linspace(0, 0.7, 959)])
    ranked = RankedScores(np.linspace(0.5, 1, 50), impostor)
    notes = notes_on_ties(ranked, measure_verification(ranked, [1e-4, 0.1, 0.02, 0.001], "exact"))
    tied = "40 impostor pairs share the score just below the threshold, so it accepts only 1 impostor; look for equal"
    remedy = "images in different templates, or embeddings of too few digits"
    assert notes == [f"FAR {far}: {tied} {remedy}" for far in ("0.02", "0.001")]


def test_curves_are_those_of_counting(comparisons):
    scores, is_same, _ = comparisons
    genuine, impostor = scores[is_same], scores[~is_same]
    curves = verification_curves(RankedScores(genuine, impostor))
    threshold, edges = curves["roc_threshold"], np.linspace(scores.min(), scores.max(), 201)
    expected = {
        "roc_far": (impostor >= threshold[:, None]).mean(axis=1),
        "roc_tar": (genuine >= threshold[:, None]).mean(axis=1),
        "roc_threshold": np.sort(threshold)[::-1],
        "histogram_edges": edges,
        "histogram_genuine": np.histogram(genuine, edges)[0],
        "histogram_impostor": np.histogram(impostor, edges)[0],
    }
    assert list(curves) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(curves[name], values, rtol=0, atol=1e-12, err_msg=name)
