"""Plans of verification pairs: counts, folds that share nobody, no pair twice, reasons where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.data.synthetic.pairs import plan_pairs
from facekd.errors import DataError


@pytest.mark.parametrize(("pairs", "people", "photos"), [(6000, 100, 10), (200, 23, 5), (20, 20, 2), (200, 40, 4)])
def test_ten_folds_of_people_apart(pairs: int, people: int, photos: int) -> None:
    plan = plan_pairs(pairs, people, photos, seed=4)
    assert plan.identities.shape == plan.images.shape == (pairs, 2)
    same = plan.identities[:, 0] == plan.identities[:, 1]
    np.testing.assert_array_equal(same, plan.is_same)
    assert (plan.images[same, 0] != plan.images[same, 1]).all()
    assert plan.images.min() >= 0 and plan.images.max() < photos
    assert plan.identities.min() >= 0 and plan.identities.max() < people
    folds = plan.identities.reshape(10, -1)
    members = [set(fold.tolist()) for fold in folds]
    assert sum(len(fold) for fold in members) == len(set().union(*members))
    half = pairs // 20
    assert plan.is_same.reshape(10, 2, half).all(axis=2).tolist() == [[True, False]] * 10
    photos_of = (plan.identities * photos + plan.images).tolist()
    assert len({frozenset(pair) for pair in photos_of}) == pairs  # unordered pairs of distinct images, none twice


def test_a_plan_is_a_function_of_its_seed() -> None:
    first, again, other = (plan_pairs(200, 40, 5, seed).images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(plan_pairs(200, 40, 5, seed=-3).images) == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((30, 100, 10), "use a multiple of 20"),
        ((0, 100, 10), "use a multiple of 20"),
        ((200, 19, 10), "need 20"),
        ((6000, 20, 10), "only 90: use more test identities"),
        ((400, 20, 3), "only 6"),
    ],
)
def test_impossible_plans_are_explained(arguments: tuple[int, int, int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        plan_pairs(*arguments, seed=0)
