"""Tests every draw of the bootstrap against plain metrics of comparisons written out as often as they count."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.verification import equal_error_rate, tar_at_far
from facekd.verification.intervals import subject_bootstrap
from facekd.verification.intervals.subject_bootstrap import ImpostorTotals, Units, resample
from facekd.verification.ranked_scores import RankedScores

FARS = [0.001, 0.01, 0.1, 0.3, 1.0]


def make_comparisons(seed: int, num_subjects: int, decimals: int, shift: float):
    generator = np.random.default_rng(seed)
    effect = generator.normal(0, 1, num_subjects)
    own = np.repeat(np.arange(num_subjects), 1 + seed % 6)
    first, second = np.triu_indices(num_subjects, 1)
    scores = np.concatenate(
        [
            3 + shift + effect[own] + generator.normal(0, 0.7, own.size),
            0.5 * (effect[first] + effect[second]) + generator.normal(0, 0.7, first.size),
        ]
    )
    subjects = np.concatenate([np.stack([own, own], 1), np.stack([first, second], 1)])
    order = generator.permutation(scores.size)
    return np.round(scores, decimals)[order], (np.arange(scores.size) < own.size)[order], subjects[order]


def naive_draws(scores, is_same, units, fars, replicates, seed):
    """Every comparison repeated as often as a draw says, given to the plain metrics."""
    generator = np.random.default_rng(seed)
    tars, eers = [], []
    for _ in range(replicates):
        counts = [np.bincount(generator.integers(size, size=size), minlength=size) for size in units.groups]
        weights = np.concatenate([*counts, [1]])
        repeats = np.where(is_same, weights[units.first], weights[units.first] * weights[units.second])
        drawn, labels = np.repeat(scores, repeats), np.repeat(is_same, repeats)
        if not labels.any() or labels.all():
            continue
        # In a draw a FAR that allows no false accept is measured all the same: no impostor is accepted.
        genuine, impostor = drawn[labels], drawn[~labels]
        points = tar_at_far(genuine, impostor, fars)
        tars.append([np.mean(genuine > impostor.max()) if point.tar is None else point.tar for point in points])
        eers.append(equal_error_rate(genuine, impostor))
    return np.transpose(tars), np.array(eers)


@pytest.mark.parametrize("is_pairs", [False, True], ids=["subjects", "comparisons"])
@pytest.mark.parametrize("seed", range(12))
def test_equals_plain_metrics_on_repeated_comparisons(monkeypatch, seed, is_pairs):
    monkeypatch.setattr(subject_bootstrap, "FIRST_SEGMENT", (1, 5, 64)[seed % 3])
    monkeypatch.setattr(subject_bootstrap, "SLACK", (0.3, 1.6)[seed % 2])
    monkeypatch.setattr(subject_bootstrap, "EXTRA", 0)
    monkeypatch.setattr(subject_bootstrap, "MAX_DENSE_SUBJECTS", (0, 5000)[seed % 2])
    monkeypatch.setattr(subject_bootstrap, "DENSE_CELLS", (40, 10**6)[seed % 2])
    monkeypatch.setattr(subject_bootstrap, "CELLS_CHUNK", 50)
    monkeypatch.setattr(subject_bootstrap, "DRAWN_CHUNK", (1000, 10**9)[seed % 5 == 0])
    fars = FARS[: 3 + seed % 3]
    scores, is_same, subjects = make_comparisons(seed, 12 + seed, (1, 9)[seed % 2], (0, -3)[seed % 4 == 0])
    units = Units(subjects[:, 0], subjects[:, 1], (12 + seed,))
    if is_pairs:
        numbers = np.empty(scores.size, int)
        numbers[is_same], numbers[~is_same] = np.arange(is_same.sum()), np.arange(is_same.sum(), scores.size)
        groups = (int(is_same.sum()), int((~is_same).sum()))
        units = Units(numbers, np.where(is_same, numbers, scores.size), groups)
    ranked = RankedScores(scores[is_same], scores[~is_same])
    draws = resample(ranked, scores, is_same, units, fars, 120, seed)
    expected_tar, expected_eer = naive_draws(scores, is_same, units, fars, 120, seed)
    np.testing.assert_array_equal(draws.tar, expected_tar)
    np.testing.assert_allclose(draws.eer, expected_eer, atol=1e-12)


def test_a_single_genuine_comparison_counts_in_the_draws_that_have_it():
    scores = np.array([0.5, 0.1, 0.7, 0.3])
    is_same, subjects = np.arange(4) == 0, np.array([[0, 0], [1, 2], [1, 3], [2, 3]])
    units = Units(subjects[:, 0], subjects[:, 1], (4,))
    draws = resample(RankedScores(scores[is_same], scores[~is_same]), scores, is_same, units, [0.3, 1.0], 200, 0)
    expected_tar, expected_eer = naive_draws(scores, is_same, units, [0.3, 1.0], 200, 0)
    assert 0 < expected_tar[0].mean() < 1
    np.testing.assert_array_equal(draws.tar, expected_tar)
    np.testing.assert_allclose(draws.eer, expected_eer, atol=1e-12)


@pytest.mark.parametrize("num_subjects", [5, 40], ids=["many comparisons of few", "few comparisons of many"])
def test_impostor_totals_are_the_sums_of_the_weights(num_subjects):
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, num_subjects, (2, 60))
    is_same, drawn = first == second, generator.integers(0, 4, (70, num_subjects)).astype(float)
    found = ImpostorTotals(first, second, is_same, num_subjects)(drawn)
    expected = [sum(w[a] * w[b] for a, b in zip(first, second, strict=True) if a != b) for w in drawn]
    np.testing.assert_array_equal(found, expected)
