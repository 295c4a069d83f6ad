"""The choice of some of many things, evenly spread."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.utils.sampling import spread_evenly


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_positions_differ_and_reach_from_end_to_end(count: int, at_most: int) -> None:
    chosen = spread_evenly(count, at_most).tolist()
    assert len(chosen) == min(count, at_most) and chosen == sorted(set(chosen))
    assert chosen[0] == 0 and (at_most == 1 or chosen[-1] == count - 1)
    gaps = [later - sooner for sooner, later in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("count", "at_most", "expected"), [(0, 5, []), (3, 9, [0, 1, 2]), (10, 4, [0, 3, 6, 9])])
def test_examples(count: int, at_most: int, expected: list[int]) -> None:
    assert spread_evenly(count, at_most).tolist() == expected
