"""Tests bootstrap intervals against a naive restatement, and against the truth on simulated subjects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import equal_error_rate, tar_at_far, wilson_interval
from facekd.verification.intervals import bootstrap, subject_bootstrap
from facekd.verification.intervals.bootstrap import bootstrap_intervals

Comparisons = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, is_same, subjects (2, N)


def simulate(seed: int, num_subjects: int = 60, genuine_each: int = 10, impostors_a_pair: float = 1.0) -> Comparisons:
    """Returns scores to which each subject adds an effect of its own: comparisons of one subject move together."""
    generator = np.random.default_rng(seed)
    effect = generator.normal(0, 1, num_subjects)
    own = np.repeat(np.arange(num_subjects), genuine_each)
    genuine = 3.0 + effect[own] + generator.normal(0, 0.7, own.size)
    first, second = np.triu_indices(num_subjects, 1)
    kept = generator.random(first.size) < impostors_a_pair
    first, second = first[kept], second[kept]
    impostor = 0.5 * (effect[first] + effect[second]) + generator.normal(0, 0.7, first.size)
    scores = np.concatenate([genuine, impostor])
    subjects = np.concatenate([np.stack([own, own]), np.stack([first, second])], axis=1)
    return scores, np.arange(scores.size) < own.size, subjects


def naive_draw(scores, is_same, subjects, weight_of, fars) -> tuple[list[float], float]:
    """One draw with every comparison repeated as often as its subjects were drawn, given to the plain metrics."""
    repeats = [
        weight_of[a] if same else weight_of[a] * weight_of[b]
        for (a, b), same in zip(subjects.T.tolist(), is_same.tolist(), strict=True)
    ]
    drawn, labels = np.repeat(scores, repeats), np.repeat(is_same, repeats)
    genuine, impostor = drawn[labels], drawn[~labels]
    return [point.tar for point in tar_at_far(genuine, impostor, fars)], equal_error_rate(genuine, impostor)


@pytest.mark.parametrize("decimals", [1, 9])
def test_equals_plain_metrics_on_repeated_comparisons(decimals, monkeypatch):
    scores, is_same, subjects = simulate(0, num_subjects=15, genuine_each=4)
    scores, fars, replicates = np.round(scores, decimals), [0.05, 0.3], 120
    # The same draws, by the documented generator; Wilson's floor is taken away to see the percentiles themselves.
    generator = np.random.default_rng(7)
    draws = [np.bincount(generator.integers(15, size=15), minlength=15) for _ in range(replicates)]
    naive = [naive_draw(scores, is_same, subjects, weights, fars) for weights in draws]
    monkeypatch.setattr(bootstrap, "outer_interval", lambda percentiles, wilson: percentiles)
    found = bootstrap_intervals(scores, is_same, fars, subjects, replicates, seed=7)
    for position in range(len(fars)):
        expected = np.quantile([tars[position] for tars, _ in naive], (0.025, 0.975))
        assert found.tar[position] == pytest.approx(expected, abs=1e-12)
    assert found.eer == pytest.approx(np.quantile([eer for _, eer in naive], (0.025, 0.975)), abs=1e-9)


@pytest.mark.parametrize("with_subjects", [True, False])
def test_draws_depend_on_the_seed_and_not_on_how_many_are_made_at_once(with_subjects, monkeypatch):
    scores, is_same, subjects = simulate(1, num_subjects=20)
    known = subjects if with_subjects else None
    whole = bootstrap_intervals(scores, is_same, [0.02], known, replicates=150)
    monkeypatch.setattr(subject_bootstrap, "DRAWN_CHUNK", 7 * scores.size)
    assert bootstrap_intervals(scores, is_same, [0.02], known, replicates=150) == whole
    assert bootstrap_intervals(scores, is_same, [0.02], known, replicates=150, seed=1) != whole


def test_subjects_that_move_together_make_the_interval_wider_than_pairs_do():
    scores, is_same, subjects = simulate(2)
    by_subject = bootstrap_intervals(scores, is_same, [0.01], subjects, replicates=300)
    by_pair = bootstrap_intervals(scores, is_same, [0.01], replicates=300)
    assert (by_subject.kind, by_subject.num_subjects) == ("subject bootstrap", 60)
    assert (by_pair.kind, by_pair.num_subjects) == ("pair bootstrap", None)
    assert np.diff(by_subject.tar[0]) > 1.5 * np.diff(by_pair.tar[0])
    assert np.diff(by_subject.eer) > 1.2 * np.diff(by_pair.eer)


def test_subject_names_and_order_of_comparisons_do_not_matter():
    scores, is_same, subjects = simulate(3, num_subjects=12)
    names = np.array([f"person {number:02d}" for number in range(12)])[subjects]
    order = np.random.default_rng(0).permutation(scores.size)
    found = bootstrap_intervals(scores[order], is_same[order], [0.1], names[::-1, order], replicates=100)
    assert found == bootstrap_intervals(scores, is_same, [0.1], subjects, replicates=100)
    numbers_with_gaps = (3 * subjects + 5).astype(np.uint16)
    assert found == bootstrap_intervals(scores, is_same, [0.1], numbers_with_gaps, replicates=100)
    by_pair = bootstrap_intervals(scores, is_same, [0.1], replicates=100)
    assert by_pair == bootstrap_intervals(scores[order], is_same[order], [0.1], replicates=100)


def test_without_an_error_the_interval_still_admits_some():
    scores = np.concatenate([np.linspace(0.8, 0.9, 50), np.linspace(0, 0.1, 50)])
    found = bootstrap_intervals(scores, np.arange(100) < 50, [0.1], replicates=100)
    assert found.tar[0] == pytest.approx(wilson_interval(50, 50))
    assert found.eer == pytest.approx(wilson_interval(0, 50))


def test_an_unmeasurable_far_has_no_interval():
    scores, is_same, subjects = simulate(4, num_subjects=12)
    found = bootstrap_intervals(scores, is_same, [1e-6, 0.1], subjects, replicates=100)
    assert found.tar[0] is None and found.tar[1] is not None


def test_the_interval_holds_the_estimate():
    for seed in range(5):
        scores, is_same, subjects = simulate(seed, num_subjects=15)
        [point] = tar_at_far(scores[is_same], scores[~is_same], [0.05])
        low, high = bootstrap_intervals(scores, is_same, [0.05], subjects, replicates=100).tar[0]
        assert low <= point.tar <= high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda subjects, is_same: subjects[:, :-1], "two a comparison"),
        (lambda subjects, is_same: np.where(is_same, subjects, 0), "labelled impostor and compares 0 with 0"),
        (lambda subjects, is_same: np.where(is_same, [[1], [2]], subjects), "labelled genuine and compares 1"),
        (lambda subjects, is_same: np.where(is_same, 1, subjects), "1 of 15 subjects has genuine"),
    ],
)
def test_subjects_at_odds_with_the_labels_are_refused(change, message):
    scores, is_same, subjects = simulate(5, num_subjects=15)
    with pytest.raises(InputError, match=message):
        bootstrap_intervals(scores, is_same, [0.1], change(subjects, is_same))


def test_too_few_draws_and_bad_scores_are_refused():
    scores, is_same, _ = simulate(6, num_subjects=12)
    with pytest.raises(InputError, match="at least 100"):
        bootstrap_intervals(scores, is_same, [0.1], replicates=20)
    with pytest.raises(InputError, match="impostor: no scores"):
        bootstrap_intervals(scores[is_same], is_same[is_same], [0.1])
    with pytest.raises(InputError, match=r"scores: .* not finite"):
        bootstrap_intervals(np.where(is_same, scores, math.nan), is_same, [0.1])


@pytest.mark.slow
@pytest.mark.parametrize("impostors_a_pair", [1.0, 0.05], ids=["every impostor pair", "few impostor pairs, as in LFW"])
def test_the_true_tar_is_inside_about_as_often_as_claimed(impostors_a_pair):
    """At the 95 % claimed, the subject bootstrap holds the truth; Wilson's interval misses it time and again."""
    far, trials = 0.02, 150
    scores, is_same, _ = simulate(10_000, num_subjects=3000, genuine_each=20, impostors_a_pair=0.1)
    truth = tar_at_far(scores[is_same], scores[~is_same], far)[0].tar
    held = {"subject": 0, "wilson": 0}
    for seed in range(trials):
        scores, is_same, subjects = simulate(seed, impostors_a_pair=impostors_a_pair)
        low, high = bootstrap_intervals(scores, is_same, [far], subjects, replicates=200).tar[0]
        held["subject"] += low <= truth <= high
        low, high = tar_at_far(scores[is_same], scores[~is_same], far)[0].ci95
        held["wilson"] += low <= truth <= high
    print(f"coverage over {trials} simulated sets: {held}")
    assert held["subject"] >= 0.87 * trials
    assert held["wilson"] <= 0.7 * trials


def test_large_subject_numbers_take_no_memory() -> None:
    scores, is_same, (first, second) = simulate(0, num_subjects=15, genuine_each=4)
    small = bootstrap_intervals(scores, is_same, [0.1], (first, second), replicates=100)
    assert bootstrap_intervals(scores, is_same, [0.1], (first + (1 << 45), second + (1 << 45)), replicates=100) == small
