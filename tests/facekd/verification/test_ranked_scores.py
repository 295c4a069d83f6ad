"""Tests metrics of sorted scores against plain counting, and ROC corners against a search of the whole curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from facekd.errors import InputError
from facekd.verification import ranked_scores
from facekd.verification.counted_scores import CountedScores
from facekd.verification.ranked_scores import RankedScores


def draw(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    genuine = generator.normal(1.5, 1, int(generator.integers(1, 60)))
    impostor = generator.normal(0, 1, int(generator.integers(1, 400)))
    return np.round(genuine, decimals), np.round(impostor, decimals)


def draw_kind(seed: int, size: int, num_digits: int | None, dtype: type, num_outliers: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 0.3, size)
    scores = (scores if num_digits is None else np.round(scores, num_digits)).astype(dtype)
    largest = np.finfo(dtype).max / 2
    scores[:num_outliers] = np.array([largest, -largest, 1e9, np.finfo(dtype).smallest_subnormal])[:num_outliers]
    return scores


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 300),
    num_digits=st.sampled_from([0, 1, None]),
    dtype=st.sampled_from([np.float32, np.float64]),
    num_outliers=st.integers(0, 4),
    to_refine=st.booleans(),
)
def test_counts_are_those_of_plain_counting(seed, size, num_digits, dtype, num_outliers, to_refine):
    genuine = draw_kind(seed + 1, 20, num_digits, dtype)
    impostor = draw_kind(seed, size, num_digits, dtype, min(num_outliers, size))
    ranked = RankedScores(genuine, impostor, to_refine)
    answers = np.float64 if to_refine else dtype
    assert ranked.genuine.dtype == ranked.impostor.dtype == answers
    np.testing.assert_array_equal(ranked.genuine, np.sort(genuine))
    np.testing.assert_array_equal(ranked.impostor, np.sort(impostor))
    some = np.random.default_rng(seed).choice(impostor, 5).astype(answers)
    # Scores, their neighbours, and, for float32 scores to be refined, numbers that float32 does not hold.
    for threshold in [*some, *np.nextafter(some, answers(9)), answers(-np.inf), answers(np.inf), answers(0)]:
        assert ranked.accepted(threshold) == (np.sum(impostor >= threshold), np.sum(genuine >= threshold))
        below = impostor[impostor < threshold]
        assert ranked.num_tied_at(threshold) == (np.sum(below == below.max()) if below.size else 0)


@settings(max_examples=150)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 300), num_digits=st.sampled_from([1, None]))
@example(seed=904, size=2, num_digits=1)
def test_replaced_scores_are_among_the_others_in_order(seed, size, num_digits):
    generator = np.random.default_rng(seed)
    expected = [np.sort(draw_kind(seed + kind, size, num_digits, np.float32)).astype(np.float64) for kind in (0, 1)]
    ranked = RankedScores(*(generator.permutation(scores.astype(np.float32)) for scores in expected), to_refine=True)
    for low, high in np.float32(np.sort(generator.normal(0, 0.3, (6, 2)), axis=1)).astype(np.float64):
        inside = [(scores >= low) & (scores <= high) for scores in expected]
        new = [generator.uniform(low, high, mask.sum()) for mask in inside]
        ranked.replace(low, high, *new)
        for scores, mask, values in zip(expected, inside, new, strict=True):
            scores[mask] = np.sort(values)
        threshold = generator.normal(0, 0.3)
        genuine, impostor = expected
        assert ranked.accepted(threshold) == (np.sum(impostor >= threshold), np.sum(genuine >= threshold))
    np.testing.assert_array_equal(ranked.genuine, expected[0])
    np.testing.assert_array_equal(ranked.impostor, expected[1])
    with pytest.raises(ValueError, match="scores for the"):
        ranked.replace(-9, 9, expected[0], np.zeros(size + 1))
    with pytest.raises(ValueError, match="scores for the"):
        ranked.replace(-9, 9, np.zeros(size + 1), expected[1])


@pytest.mark.parametrize("to_refine", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranked_scores_do_not_touch_what_they_are_given(dtype, to_refine):
    genuine, impostor = draw_kind(1, 50, None, dtype), draw_kind(2, 5000, None, dtype)
    before = genuine.copy(), impostor.copy()
    ranked = RankedScores(genuine, impostor, to_refine)
    ranked.equal_error_point()
    if to_refine:
        ranked.replace(-9, 9, np.zeros(50), np.zeros(5000))
    np.testing.assert_array_equal(genuine, before[0])
    np.testing.assert_array_equal(impostor, before[1])


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


@pytest.mark.parametrize("seed", range(20))
def test_the_equal_error_lies_between_two_scores_next_to_each_other(seed):
    generator = np.random.default_rng(seed)
    genuine, impostor = (generator.normal(mean, 1, generator.integers(1, 9)).round(1) for mean in (1 - seed % 3, 0))
    low, high = RankedScores(genuine, impostor).around_equal_error()
    every = np.unique([*genuine, *impostor])
    expected = max(score for score in every if (impostor >= score).mean() >= (genuine < score).mean())
    assert (low, high) == (expected, min(every[every > expected], default=expected))


def test_counted_impostors_ask_for_genuine_scores_that_are_numbers():
    counted = CountedScores(np.array([0.5]), np.array([2]))
    with pytest.raises(InputError, match=r"^genuine"):
        RankedScores.of_counted(np.array([np.nan]), counted)


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
