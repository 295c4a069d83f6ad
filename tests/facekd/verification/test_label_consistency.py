"""Compares the people that genuine comparisons make with a naive closure, and finds labels that contradict them."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.verification.label_consistency import contradicted_impostors, join_by_genuine


@pytest.mark.parametrize("seed", range(3))
def test_people_are_those_of_a_naive_closure(seed):
    generator = np.random.default_rng(seed)
    count = 40
    first, second = generator.integers(0, count, (2, 120))
    is_same = generator.random(120) < 0.2
    together = np.eye(count, dtype=bool)
    for one, other in zip(first[is_same], second[is_same], strict=True):
        together[one, other] = together[other, one] = True
    for middle in range(count):
        together |= together[:, [middle]] & together[[middle]]

    people = join_by_genuine(first, second, is_same, count)
    assert people.dtype == np.int32
    assert sorted(set(people.tolist())) == list(range(people.max() + 1))
    np.testing.assert_array_equal(people[:, None] == people[None], together)
    expected = [pair for pair in range(120) if not is_same[pair] and together[first[pair], second[pair]]]
    assert expected and contradicted_impostors(first, second, is_same, count).tolist() == expected


def test_direction_does_not_matter_and_who_is_never_compared_is_alone():
    people = join_by_genuine(np.array([2, 0]), np.array([1, 1]), np.array([True, True]), 5)
    assert people.tolist() == [0, 0, 0, 1, 2]
