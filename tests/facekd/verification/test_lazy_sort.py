"""Tests scores that are sorted only where they are asked about against scores sorted everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facekd.verification import lazy_sort as ascending_scores
from facekd.verification.lazy_sort import AscendingScores
from facekd.verification.ranked_scores import RankedScores


def draw(seed: int, size: int, num_digits: int | None, dtype: type, num_outliers: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 0.3, size)
    scores = (scores if num_digits is None else np.round(scores, num_digits)).astype(dtype)
    largest = np.finfo(dtype).max / 2
    scores[:num_outliers] = np.array([largest, -largest, 1e9, np.finfo(dtype).smallest_subnormal])[:num_outliers]
    return scores


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 300),
    num_digits=st.sampled_from([0, 1, None]),
    dtype=st.sampled_from([np.float32, np.float64]),
    at_once=st.sampled_from([1, 4, 1000]),
    num_outliers=st.integers(0, 4),
)
def test_answers_are_those_of_the_sorted_array(seed, size, num_digits, dtype, at_once, num_outliers):
    generator = np.random.default_rng(seed)
    given_scores = draw(seed, size, num_digits, dtype, min(num_outliers, size))
    expected = np.sort(given_scores)
    thresholds = np.concatenate(
        [generator.choice(expected, 5), np.nextafter(expected[:2].astype(np.float64), 9), [-np.inf, np.inf, 0, 1e300]]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ascending_scores, "MAX_SORTED", at_once)
        patch.setattr(ascending_scores, "CUT_CHUNK", 7 * at_once)
        scores = AscendingScores(given_scores.copy())
        for threshold in thresholds:
            for side in ("left", "right"):
                assert scores.rank(threshold, side) == np.searchsorted(expected, np.float64(threshold), side)
            at = int(generator.integers(-size, size))
            assert scores[at] == expected[at]
            assert scores[at].dtype == dtype
        for side in ("left", "right"):
            found = AscendingScores(given_scores.copy()).rank(thresholds, side)
            np.testing.assert_array_equal(found, np.searchsorted(expected.astype(np.float64), thresholds, side))
        low, high = np.sort(generator.choice(expected, 2))
        inside = expected[(expected >= low) & (expected <= high)]
        np.testing.assert_array_equal(scores.between(low, high), inside)
        np.testing.assert_array_equal(np.asarray(scores), expected)
    with pytest.raises(IndexError):
        scores[size]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 300),
    num_digits=st.sampled_from([1, None]),
    at_once=st.sampled_from([1, 4, 1000]),
)
@example(seed=904, size=2, num_digits=1, at_once=1)  # new scores above the lower limit of the next piece
def test_replaced_scores_are_among_the_others_in_order(seed, size, num_digits, at_once):
    generator = np.random.default_rng(seed)
    expected = np.sort(draw(seed, size, num_digits, np.float32)).astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ascending_scores, "MAX_SORTED", at_once)
        scores = AscendingScores(generator.permutation(expected.astype(np.float32)), np.float64)
        for low, high in np.float32(np.sort(generator.normal(0, 0.3, (6, 2)), axis=1)).astype(np.float64):
            inside = (expected >= low) & (expected <= high)
            new = generator.uniform(low, high, inside.sum())
            scores.replace(low, high, new)
            expected[inside] = np.sort(new)
            threshold, at = generator.normal(0, 0.3), int(generator.integers(size))
            assert scores.rank(threshold, "right") == np.searchsorted(expected, threshold, "right")
            assert scores[at] == expected[at]
        np.testing.assert_array_equal(np.asarray(scores), expected)
        with pytest.raises(ValueError, match="scores for the"):
            scores.replace(-9, 9, np.zeros(size + 1))


@pytest.mark.parametrize("outlier", [0, 1e30])
def test_few_questions_leave_most_unsorted(monkeypatch, outlier):
    """However the scores are cut: into stretches of equal width, or at the median where nearly all lie in one."""
    values = draw(0, 1 << 19, None, np.float32)
    values[0] = outlier
    expected = np.sort(values)
    num_sorted = []
    cut = ascending_scores._cut_by_value  # what it returns is still to be sorted
    monkeypatch.setattr(ascending_scores, "_cut_by_value", lambda scores: num_sorted.append(len(scores)) or cut(scores))
    scores = AscendingScores(values)
    assert scores[-100] == expected[-100]
    assert scores.rank(0.6) == np.searchsorted(expected, np.float32(0.6))
    assert sum(num_sorted) < 3 * values.size


def test_ranked_scores_do_not_touch_what_they_are_given():
    genuine, impostor = draw(1, 50, None, np.float64), draw(2, 5000, None, np.float64)
    before = genuine.copy(), impostor.copy()
    RankedScores(genuine, impostor).equal_error_point()
    np.testing.assert_array_equal(genuine, before[0])
    np.testing.assert_array_equal(impostor, before[1])
