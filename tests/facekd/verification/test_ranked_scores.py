"""Tests metrics of sorted scores against plain counting, and ROC corners against a search of the whole curve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from facekd.verification import ranked_scores
from facekd.verification.ranked_scores import RankedScores


def draw(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    genuine = generator.normal(1.5, 1, int(generator.integers(1, 60)))
    impostor = generator.normal(0, 1, int(generator.integers(1, 400)))
    return np.round(genuine, decimals), np.round(impostor, decimals)


@pytest.mark.parametrize("decimals", [1, 9])
def test_insightface_rule_is_scikit_learns_nearest_corner_however_small_the_window(monkeypatch, decimals):
    monkeypatch.setattr(ranked_scores, "FIRST_WINDOW", 1)
    for seed in range(150):
        genuine, impostor = draw(seed, decimals)
        if seed < 5:  # a curve that is straight for long: its corners are far from every target
            genuine = np.concatenate([impostor, genuine[genuine > impostor.max()]])
        labels = np.arange(genuine.size + impostor.size) < genuine.size
        far, tar, _ = roc_curve(labels, np.concatenate([genuine, impostor]))
        far, tar = np.flipud(far), np.flipud(tar)
        for target in (0.01, 0.05, 0.3, 1.0):
            [point] = RankedScores(genuine, impostor).tar_at_far(target, "insightface")
            if point.tar is not None:
                assert point.tar == tar[np.argmin(np.abs(far - target))]


def test_decisive_range_holds_what_decides():
    genuine, impostor = draw(1, 9)
    ranked = RankedScores(genuine, impostor)
    for rule in ("exact", "insightface"):
        for far in (0.05, 0.2):
            [point] = ranked.tar_at_far(far, rule)
            low, high = ranked.decisive_range(far, rule)
            # Scores beyond the range may change as long as they stay beyond it.
            moved = [np.where(s < low, s - 1, np.where(s > high, s + 1, s)) for s in (genuine, impostor)]
            [again] = RankedScores(*moved).tar_at_far(far, rule)
            assert (again.tar, again.threshold) == (point.tar, point.threshold)
    assert ranked.decisive_range(1e-6) is None


def test_thinned_roc_and_histogram_count_right():
    genuine, impostor = draw(2, 2)
    ranked = RankedScores(genuine, impostor)
    roc = ranked.thinned_roc(20)
    for far, tar, threshold in zip(roc.far, roc.tar, roc.threshold, strict=True):
        assert far == pytest.approx(np.mean(impostor >= threshold))
        assert tar == pytest.approx(np.mean(genuine >= threshold))
    assert roc.far[0] == 0 and (roc.far[-1], roc.tar[-1]) == (1, 1) and (np.diff(roc.threshold) < 0).all()
    edges, of_genuine, of_impostor = ranked.histogram(13)
    np.testing.assert_array_equal(of_genuine, np.histogram(genuine, edges)[0])
    np.testing.assert_array_equal(of_impostor, np.histogram(impostor, edges)[0])


def test_ties_below_a_threshold_are_counted():
    ranked = RankedScores([0.9], [0.1, 0.5, 0.5, 0.5, 0.7])
    assert ranked.num_tied_at(0.6) == 3 and ranked.num_tied_at(0.05) == 0
