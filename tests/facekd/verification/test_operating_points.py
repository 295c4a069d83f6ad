"""Tests the rule that turns a FAR into a threshold: rounding, ties, FARs that cannot be measured, and its users."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.verification import far_threshold, num_allowed_false_accepts, tar_at_far
from facekd.verification.intervals.paired_bootstrap import PairedBootstrap
from facekd.verification.operating_points import TarAtFar, false_accept_among
from facekd.verification.search.identification import SearchResult, measure_search


@given(st.integers(1, 999), st.integers(0, 8), st.integers(1, 20_000_000))
def test_a_decimal_far_allows_what_exact_arithmetic_allows(digits, decimals, num_impostor):
    far = Fraction(digits, 1000) / 10**decimals
    assert num_allowed_false_accepts(float(far), num_impostor) == math.floor(far * num_impostor)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_far_computed_from_counts_allows_those_counts(false_accepts, num_impostor):
    false_accepts = min(false_accepts, num_impostor)
    far = false_accepts / num_impostor
    for rounded in (np.nextafter(far, 0), far, min(np.nextafter(far, 1), 1.0)):
        assert num_allowed_false_accepts(float(rounded), num_impostor) == false_accepts


@pytest.mark.parametrize(("far", "allowed"), [(0.29, 29), (0.29 - 1e-11, 28), (0.07, 7), (0.07 - 1e-11, 6)])
def test_only_rounding_is_forgiven(far, allowed):
    assert num_allowed_false_accepts(far, 100) == allowed


def test_many_fars_or_numbers_of_impostors_are_taken_at_once():
    assert num_allowed_false_accepts(0.1, np.array([0.0, 9, 10, 29, 30])).tolist() == [0, 0, 1, 2, 3]
    assert num_allowed_false_accepts(np.array([0.001, 0.29, 1.0]), 100).tolist() == [0, 29, 100]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_threshold_lies_just_above_the_first_refused_impostor(dtype):
    scores = np.random.default_rng(0).permutation(np.linspace(0, 0.3, 100)).astype(dtype)
    threshold = far_threshold(scores, 0.29)
    refused = np.sort(scores)[::-1][29]
    assert threshold == np.nextafter(refused, dtype(1)) and (scores >= threshold).sum() == 29
    assert tar_at_far(np.array([0.5], dtype), scores, 0.29)[0].threshold == threshold


def test_tied_impostors_are_refused_together():
    scores = np.array([0.1, 0.6, 0.6, 0.6, 0.9])
    assert [int((scores >= far_threshold(scores, far)).sum()) for far in (0.2, 0.4, 0.6, 0.8)] == [1, 1, 1, 4]


def test_a_far_that_allows_no_impostor_has_no_threshold_and_one_that_allows_all_has_the_lowest():
    scores = np.linspace(0, 1, 100)
    assert far_threshold(scores, 0.01 - 1e-11) is None
    assert far_threshold(scores, 0.01) == np.nextafter(scores[-2], 2)
    assert far_threshold(scores, 1.0) == -math.inf


@pytest.mark.parametrize(
    ("impostor", "far", "message"),
    [
        ([], 0.1, "^impostor: no scores"),
        ([math.nan], 0.1, "not finite"),
        ([0.5], 0, "FAR must lie"),
        ([0.5], 1.1, "FAR must lie"),
    ],
)
def test_bad_scores_and_fars_are_refused(impostor, far, message):
    with pytest.raises(InputError, match=message):
        far_threshold(impostor, far)


@pytest.mark.parametrize("far", [0.29, 0.07, 0.29 - 1e-11, 0.01 - 1e-11])
def test_identification_and_the_paired_bootstrap_follow_the_same_rule(far):
    generator = np.random.default_rng(1)
    genuine, impostor = generator.uniform(-0.5, 1, 80), generator.uniform(-1, 0.6, 100)
    [point] = tar_at_far(genuine, impostor, far)
    searched = measure_search(SearchResult(genuine, np.ones(80, int), impostor, 5), (far,))["tpir_at_fpir"][0]
    assert (searched["tpir"], searched["false_positives"]) == (point.tar, point.false_accepts)
    is_same = np.arange(180) < 80
    measured, _ = PairedBootstrap(is_same, None, [far], 100).tars(np.concatenate([genuine, impostor]))
    assert np.array_equal(measured, [math.nan if point.tar is None else point.tar], equal_nan=True)


@pytest.mark.parametrize(
    ("num_impostor", "far", "reason"),
    [
        (1, 0.1, "1 impostor comparison allows 0.1 false accepts at FAR 0.1; at least 10 comparisons are needed"),
        (90, 0.01, "90 impostor comparisons allow 0.9 false accepts at FAR 0.01; at least 100 comparisons are needed"),
        (
            999,
            1e-3,
            "999 impostor comparisons allow less than 1 false accepts at FAR 0.001; at least 1,000 comparisons are "
            "needed",
        ),
        (
            2000,
            1e-4,
            "2,000 impostor comparisons allow 0.2 false accepts at FAR 0.0001; at least 10,000 comparisons are needed",
        ),
    ],
)
def test_a_far_that_cannot_be_measured_says_what_it_needs(num_impostor, far, reason):
    nothing = (None, None, None, None)
    expected = TarAtFar(far, *nothing, num_impostor, 3, None, None, "exact", f"not measurable: {reason}")
    assert tar_at_far(np.ones(3), np.linspace(0, 1, num_impostor), far) == [expected]


@given(st.floats(0, 1), st.integers(0, 50))
def test_one_of_several_comparisons_is_a_false_accept_as_exact_arithmetic_says(far, num_comparisons):
    exact = 1 - (1 - Fraction(far)) ** num_comparisons
    assert false_accept_among(far, num_comparisons) == pytest.approx(float(exact), rel=1e-12, abs=1e-300)


def test_false_accepts_among_comparisons_at_the_ends():
    assert false_accept_among(1.0, 1) == 1 and false_accept_among(1.0, 0) == false_accept_among(0.0, 9) == 0
    assert false_accept_among(1e-20, 10**6) == pytest.approx(1e-14, rel=1e-12)
