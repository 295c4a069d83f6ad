"""All pairs by counted bins, against float64 scores that are listed pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.sets import all_pairs, binned_scores
from evaluation.sets.all_pairs import AllPairs
from facekd.errors import InputError
from facekd.verification.intervals.subject_bootstrap import Units, measure_draws, resample
from facekd.verification.ranked_scores import RankedScores

FARS = [1.0, 0.3, 0.05, 0.01, 1e-3, 1e-4]


def make_people(seed: int, num_images: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings (N, 8) of unit length, many of them equal if rounded, and who they are of."""
    generator = np.random.default_rng(seed)
    people = generator.integers(max(num_images // 4, 2), size=num_images)
    people[:3] = 0, 0, 1
    centers = generator.normal(size=(people.max() + 1, 8))
    rows = np.round(centers[people] + (0.3 + seed % 3) * generator.normal(size=(num_images, 8)), decimals) + 1e-3
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), people


def list_pairs(rows: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes = np.unique(people, return_inverse=True)[1]
    first, second = np.triu_indices(len(rows), 1)
    scores = np.clip(np.einsum("pd,pd->p", rows[first], rows[second]), -1, 1)
    return scores, codes[first] == codes[second], np.stack([codes[first], codes[second]])


@pytest.mark.parametrize("seed", range(8))
def test_metrics_are_those_of_float64_scores(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Coarse bins and small blocks, so that thresholds share bins with thousands of other scores.
    monkeypatch.setattr(binned_scores, "NUM_BINS", (1 << 20, 1 << 8)[seed % 2])
    monkeypatch.setattr(all_pairs, "CELLS_CHUNK", 2000)
    rows, people = make_people(seed, (3, 40, 300, 301)[seed % 4], (9, 0)[seed // 4])
    scores, is_same, _ = list_pairs(rows, people)
    expected = RankedScores(scores[is_same], scores[~is_same])
    found = AllPairs(rows, people, FARS).ranked
    assert found.impostor.size == expected.impostor.size
    for own, plain in zip(found.tar_at_far(FARS), expected.tar_at_far(FARS), strict=True):
        assert (own.tar, own.false_accepts, own.ci95) == (plain.tar, plain.false_accepts, plain.ci95)
        assert own.threshold is None or abs(own.threshold - plain.threshold) < 1e-12
    assert found.equal_error_point().eer == pytest.approx(expected.equal_error_point().eer, abs=1e-12)
    if binned_scores.NUM_BINS > 1 << 8:
        assert found.area_under_roc() == pytest.approx(expected.area_under_roc(), abs=1e-3 if len(rows) < 9 else 1e-5)
    roc = found.thinned_roc()
    assert (np.diff(roc.far) >= 0).all() and (np.diff(roc.tar) >= 0).all() and roc.far[-1] == roc.tar[-1] == 1


def test_products_that_are_not_repeatable_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, people = make_people(1, 30, 9)
    counted = AllPairs._count_impostors
    monkeypatch.setattr(AllPairs, "_count_impostors", lambda self: counted(self) + 1)
    with pytest.raises(InputError, match=r"differ from one time to the next.*OMP_NUM_THREADS=1"):
        AllPairs(rows, people, FARS)


@pytest.mark.parametrize("seed", [1, 2])
def test_draws_are_those_of_listed_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, people = make_people(seed, 250, 9)
    scores, is_same, (first, second) = list_pairs(rows, people)
    ranked = RankedScores(scores[is_same], scores[~is_same])
    num_people, fars = int(first.max()) + 1, FARS[2:5]
    expected = resample(ranked, scores, is_same, Units(first, second, (num_people,)), fars, 110, 3)
    monkeypatch.setattr(all_pairs, "CELLS_CHUNK", 3000)
    pairs = AllPairs(rows, people, fars)
    found = measure_draws(pairs, pairs.ranked.equal_error_point().far, fars, 110, 3)
    # The highest impostors are float32 here: now and then one passes a genuine score.
    np.testing.assert_allclose(found.tar, expected.tar, atol=1.5 * 5 / pairs.genuine.size)
    np.testing.assert_allclose(found.eer, expected.eer, atol=1e-3)
    assert np.mean(found.tar == expected.tar) > 0.95


@pytest.mark.parametrize(("people", "message"), [([0, 0], "of one and of two"), ([0, 1], "of one and of two")])
def test_both_kinds_of_pairs_are_needed(people: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AllPairs(np.eye(2), np.array(people), FARS)


def test_genuine_pairs_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_pairs, "MAX_GENUINE", 5)
    with pytest.raises(InputError, match="6 genuine pairs are more than the 5 that are kept"):
        AllPairs(np.eye(5), np.array([0, 0, 0, 0, 1]), FARS)
