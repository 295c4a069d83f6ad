"""Tests blocked float32 scores, with float64 where it matters, against float64 alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ijb import scoring as ijb_scoring
from evaluation.ijb.scoring import rank_pairs, score_error, score_pairs, score_pairs_exactly
from facekd.verification import ranked_scores
from facekd.verification.ranked_scores import RankedScores

FARS = [1e-3, 0.01, 0.05, 0.1, 0.5, 1.0]


def draw(seed: int, coarse: bool, in_order: bool):
    """Unit templates of some subjects, and pairs of them; `coarse` ones tie in heaps."""
    generator = np.random.default_rng(seed)
    count, size = int(generator.integers(20, 80)), int(generator.integers(4, 40))
    centers = generator.standard_normal((count // 3, size))
    templates = centers[generator.integers(0, count // 3, count)]
    templates = templates + generator.uniform(0.1, 1) * generator.standard_normal((count, size))
    if coarse:
        templates = np.round(templates * 2)
        templates[:, 0] += 0.1
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    num_pairs = int(generator.integers(50, 2000))
    first, second = generator.integers(0, count, (2, num_pairs))
    is_same = generator.random(num_pairs) < 0.1
    is_same[:2] = [True, False]
    return templates, np.sort(first) if in_order else first, second, is_same


@pytest.mark.parametrize("density", [0.01, 100.0], ids=["blocks", "gathered"])
@pytest.mark.parametrize("in_order", [True, False])
def test_scores_are_within_the_bound_of_float64(monkeypatch, density, in_order):
    monkeypatch.setattr(ijb_scoring, "MIN_DENSITY", density)
    monkeypatch.setattr(ijb_scoring, "CELLS_CHUNK", 500)
    for seed in range(20):
        templates, first, second, _ = draw(seed, False, in_order)
        expected = np.einsum("pd,pd->p", templates[first], templates[second])
        found = score_pairs(templates, first, second)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= score_error(templates.shape[1])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    coarse=st.booleans(),
    in_order=st.booleans(),
    rounding=st.sampled_from([0.0, 1e-3]),
    rules=st.sampled_from([("exact",), ("exact", "insightface")]),
)
def test_metrics_equal_those_of_float64_exactly(seed, coarse, in_order, rounding, rules):
    """Also where the fast scores are off by far more than float32 is, and the window for ROC corners starts small."""
    templates, first, second, is_same = draw(seed, coarse, in_order)
    exact = score_pairs_exactly(templates, first, second)
    expected = RankedScores(exact[is_same], exact[~is_same])
    fast = ijb_scoring.score_pairs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranked_scores, "FIRST_WINDOW", 1)
        if rounding:
            noise = np.random.default_rng(seed).uniform(-0.9 * rounding, 0.9 * rounding, len(first))
            patch.setattr(ijb_scoring, "score_error", lambda size: rounding)
            patch.setattr(ijb_scoring, "score_pairs", lambda *given: (fast(*given) + noise).astype(np.float32))
        refined, ranked = rank_pairs(templates, first, second, is_same, FARS, rules)
        scores = refined.as_float64()
        np.testing.assert_array_equal(refined.of(np.arange(len(first))[::-1]), scores[::-1])
        np.testing.assert_array_equal(np.sort(scores[is_same]), ranked.genuine)
        np.testing.assert_array_equal(np.sort(scores[~is_same]), ranked.impostor)
        for rule in rules:
            assert ranked.tar_at_far(FARS, rule) == expected.tar_at_far(FARS, rule)
    found, wanted = ranked.equal_error_point(), expected.equal_error_point()
    assert (found.eer, found.far, found.frr) == (wanted.eer, wanted.far, wanted.frr)


def test_most_pairs_keep_their_fast_score():
    generator = np.random.default_rng(0)
    templates = generator.standard_normal((400, 64))
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    first, second = np.repeat(np.arange(200), 200), np.tile(np.arange(200, 400), 200)
    scores, _ = rank_pairs(templates, first, second, second - first == 200, [1e-2, 1e-3])
    fast = np.clip(score_pairs(templates, first, second), -1, 1)
    assert 0 < (scores.as_float64() != fast).mean() < 0.05


def test_the_order_of_the_pairs_does_not_matter():
    templates, first, second, is_same = draw(3, False, True)
    order = np.random.default_rng(0).permutation(len(first))
    scores, ranked = rank_pairs(templates, first, second, is_same, FARS)
    other, shuffled = rank_pairs(templates, second[order], first[order], is_same[order], FARS)
    np.testing.assert_allclose(other.as_float64(), scores.as_float64()[order], atol=1e-6)
    assert [point.tar for point in shuffled.tar_at_far(FARS)] == [point.tar for point in ranked.tar_at_far(FARS)]
