"""What a quality head learns, against loops over images, another form of the distance, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.head.robust_centres import UnitEmbeddings
from facekd.quality.certainty_ratio import EPSILON, certainty_ratios
from facekd.quality.similarity_distance import similarity_distances
from facekd.quality.targets import make_targets

SIZE = 16


def people(seed: int = 0, spread: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of five people with 2, 4, 6, 1 and 7 images, in no order, and one image of nobody."""
    draws = np.random.default_rng(seed)
    labels = draws.permutation([0] * 2 + [1] * 4 + [2] * 6 + [3] + [4] * 7 + [-1])
    rows = np.eye(SIZE)[labels] + spread * draws.normal(size=(len(labels), SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def lookup(rows: np.ndarray) -> UnitEmbeddings:
    return lambda images: rows[images]


def test_ratios_are_cosines_to_means_of_the_others_over_the_nearest_other_mean() -> None:
    # So close together that no image is left out of its mean.
    rows, labels = people(spread=0.05)
    images = np.flatnonzero(labels >= 0)[::-1]
    found = certainty_ratios(lookup(rows), labels, images)
    for image, ratio in zip(images, found, strict=True):
        others = rows[(labels == labels[image]) & (np.arange(len(labels)) != image)].astype(float).sum(0)
        if not others.any():
            assert np.isnan(ratio)
            continue
        strangers = [rows[labels == label].astype(float).sum(0) for label in range(5) if label != labels[image]]
        nearest = max(rows[image] @ mean / np.linalg.norm(mean) for mean in strangers)
        assert ratio == pytest.approx(rows[image] @ others / np.linalg.norm(others) / (nearest + 1 + EPSILON), rel=1e-5)


def naive_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The area between the two distribution functions."""
    edges = np.sort(np.concatenate([first, second]))
    middles = (edges[1:] + edges[:-1]) / 2
    apart = [abs((first <= at).mean() - (second <= at).mean()) for at in middles]
    return float(np.diff(edges) @ apart)


def test_distances_are_the_area_between_genuine_and_impostor_cosines() -> None:
    rows, labels = people()
    images = np.flatnonzero(labels >= 0)[::-1]
    cosines = rows.astype(float) @ rows.T.astype(float)
    for image, distance in zip(images, similarity_distances(lookup(rows), labels, images), strict=True):
        same = labels == labels[image]
        genuine = cosines[image][same & (np.arange(len(labels)) != image)]
        if not len(genuine):
            assert np.isnan(distance)
            continue
        assert distance == pytest.approx(naive_distance(genuine, cosines[image][~same & (labels >= 0)]), abs=1e-6)


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    rows, labels = people()
    images = np.flatnonzero(labels >= 0)
    found = [similarity_distances(lookup(rows), labels, images, seed, 9, 3) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    # What is not asked for changes nothing.
    some = similarity_distances(lookup(rows), labels, images[labels[images] == 4], 1, 9, 3)
    np.testing.assert_array_equal(some, found[0][labels[images] == 4])


@pytest.mark.parametrize("name", ["cr", "sdd"])
def test_targets_are_the_raw_values_between_their_first_and_last_hundredth(name: str) -> None:
    rows, labels = people()
    labels = np.where(labels >= 0, 3 * labels + 5, -1)  # numbers may have gaps
    targets = make_targets(name, lookup(rows), labels, 1000)
    np.testing.assert_array_equal(targets.images, np.flatnonzero((labels >= 0) & (labels != 14)))
    low, high = np.percentile(targets.raw, [1, 99])
    np.testing.assert_allclose(targets.scaled, np.clip((targets.raw - low) / (high - low), 0, 1))
    assert (targets.low, targets.high) == (low, high)
    assert len(make_targets(name, lookup(rows), labels, 12).images) == 12


@pytest.mark.parametrize("name", ["cr", "sdd"])
def test_data_that_says_nothing_is_refused(name: str) -> None:
    rows, labels = people()
    with pytest.raises(InputError, match="shows 1 person,"):
        make_targets(name, lookup(rows), np.where(labels >= 0, 2, -1), 1000)
    alone = np.arange(len(labels))
    alone[:2] = 0
    with pytest.raises(InputError, match="from 2 images only, those of people with two images or more"):
        make_targets(name, lookup(rows), alone, 1000)
    alone[:12] = 0
    with pytest.raises(InputError, match="only one person has several images"):
        make_targets(name, lookup(rows), alone, 1000)
    with pytest.raises(InputError, match="all images have the same target"):
        make_targets(name, lookup(np.eye(4, dtype=np.float32).repeat(5, 0)), np.arange(4).repeat(5), 1000)
