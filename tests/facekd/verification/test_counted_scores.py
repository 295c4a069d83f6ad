"""Counted scores answer what the array of the same scores answers."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification.counted_scores import CountedScores
from facekd.verification.ranked_scores import RankedScores


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_the_array(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, counts = np.unique(np.round(generator.normal(size=60), 1)), generator.integers(1, 5, 60)
    counts = counts[: len(values)]
    written = np.repeat(values, counts)
    counted = CountedScores(values, counts)
    ranks = np.arange(-written.size, written.size)
    assert np.array_equal(counted[ranks], written[ranks]) and counted[-1] == written[-1]
    asked = np.concatenate([values, values + 0.05, [-9, 9]])
    for side in ("left", "right"):
        assert np.array_equal(np.searchsorted(counted, asked, side), np.searchsorted(written, asked, side))
    genuine = generator.normal(1, 1, 30).round(1)
    own, plain = RankedScores.of_counted(genuine, counted), RankedScores(genuine, written)
    assert own.tar_at_far([0.01, 0.1, 0.5, 1]) == plain.tar_at_far([0.01, 0.1, 0.5, 1])
    assert own.equal_error_point() == plain.equal_error_point() and own.area_under_roc() == plain.area_under_roc()
    for one, other in zip(own.histogram(), plain.histogram(), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(own.thinned_roc().tar, plain.thinned_roc().tar)


@pytest.mark.parametrize(
    ("values", "counts"), [([], []), ([1.0, 1.0], [1, 1]), ([2.0, 1.0], [1, 1]), ([1.0], [0]), ([np.nan], [1])]
)
def test_what_is_no_ascending_array_is_refused(values: list[float], counts: list[int]) -> None:
    with pytest.raises(InputError, match="expected"):
        CountedScores(np.array(values), np.array(counts))


def test_a_rank_beyond_the_scores_is_an_error() -> None:
    with pytest.raises(IndexError, match="rank 3 of 3 scores"):
        CountedScores(np.array([0.5]), np.array([3]))[3]
