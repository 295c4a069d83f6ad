"""Tests that strangers do not move robust class centres, unlike plain means; compares them with naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.head.robust_centres import find_nearest_centres, robust_centres

SIZE = 64


def make_people(
    num_classes: int, images_each: int, spread: float = 0.8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws unit embeddings (N, E) around random directions; returns them, labels (N,), and the directions (C, E)."""
    generator = np.random.default_rng(seed)
    truth = normalized(generator.normal(size=(num_classes, SIZE)))
    labels = np.repeat(np.arange(num_classes), images_each)
    noise = generator.normal(size=(len(labels), SIZE)) * spread / np.sqrt(SIZE)
    return normalized(truth[labels] + noise).astype(np.float32), labels, truth


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def plain_means(units: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    return normalized(np.stack([units[labels == label].mean(axis=0) for label in range(num_classes)]))


def exchange_labels(labels: np.ndarray, images: np.ndarray, num_classes: int) -> np.ndarray:
    moved = labels.copy()
    moved[images] = (labels[images] + 1 + images % (num_classes - 1)) % num_classes
    assert (moved[images] != labels[images]).all()
    return moved


def test_planted_strangers_do_not_move_the_centres_and_do_move_a_plain_mean() -> None:
    units, labels, truth = make_people(40, 9)
    strangers = np.arange(0, len(labels), 9)  # one of nine in every class leaves it, and lands in another
    wrong = exchange_labels(labels, strangers, 40)
    found = robust_centres(units.__getitem__, wrong, 40)
    # Without its strangers each class also lost one right image: compare with the mean of what is right there.
    right = np.setdiff1d(np.arange(len(labels)), strangers)
    expected = plain_means(units[right], labels[right], 40)
    np.testing.assert_allclose(found.weight, expected, atol=1e-5)
    assert not found.is_kept[strangers].any()
    assert found.is_kept[right].all()
    plain = plain_means(units, wrong, 40)
    assert (plain * expected).sum(axis=1).mean() < 0.99
    assert ((found.weight * truth).sum(axis=1) > (plain * truth).sum(axis=1)).mean() > 0.8


def test_without_strangers_the_centres_are_the_plain_means() -> None:
    units, labels, _ = make_people(30, 8, spread=0.6, seed=1)
    found = robust_centres(units.__getitem__, labels, 30)
    assert found.is_kept.all()
    np.testing.assert_allclose(found.weight, plain_means(units, labels, 30), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.weight, axis=1), 1, atol=1e-6)
    assert found.weight.dtype == found.cosine.dtype == np.float32


def test_a_stranger_among_three_is_left_out() -> None:
    units, labels, _ = make_people(30, 3, spread=0.6, seed=2)
    strangers = np.arange(0, 90, 30)
    found = robust_centres(units.__getitem__, exchange_labels(labels, strangers, 30), 30)
    assert not found.is_kept[strangers].any()


def test_many_strangers_of_one_person_in_a_class_do_not_win() -> None:
    units, labels, truth = make_people(20, 10, seed=3)
    wrong = labels.copy()
    wrong[10:14] = 0  # four of class 1 join the ten of class 0
    found = robust_centres(units.__getitem__, wrong, 20)
    assert not found.is_kept[10:14].any()
    assert found.weight[0] @ truth[0] > 0.95


def test_two_images_that_disagree_are_both_kept_and_both_far() -> None:
    units, labels, _ = make_people(20, 6, spread=0.5, seed=4)
    units = np.concatenate([units, np.eye(SIZE, dtype=np.float32)[:2]])
    found = robust_centres(units.__getitem__, np.append(labels, [20, 20]), 21)
    assert found.is_kept[-2:].all()
    assert found.is_far[-2:].all()
    assert not found.is_far[:-2].any()


def test_an_image_alone_is_its_own_centre_and_passed_over_images_count_for_nothing() -> None:
    units, labels, _ = make_people(5, 4, seed=5)
    labels = np.where(np.arange(20) < 3, -1, labels)
    found = robust_centres(units.__getitem__, labels, 5)
    np.testing.assert_allclose(found.weight[0], units[3], atol=1e-6)
    assert np.isnan(found.cosine[:4]).all()
    assert not found.is_kept[:3].any()


def test_a_fixed_threshold_is_used_as_it_is() -> None:
    units, labels, _ = make_people(10, 7, seed=6)
    assert robust_centres(units.__getitem__, labels, 10, min_cosine=0.26).threshold == 0.26
    assert robust_centres(units.__getitem__, labels, 10, min_cosine=-1).is_kept.all()
    # Above every cosine: the majority of each class is kept in any case.
    counts = np.bincount(labels[robust_centres(units.__getitem__, labels, 10, min_cosine=1).is_kept])
    assert counts.tolist() == [4] * 10
    with pytest.raises(InputError, match=r"min_cosine is 1\.5"):
        robust_centres(units.__getitem__, labels, 10, min_cosine=1.5)


def test_classes_without_images_are_named() -> None:
    units, labels, _ = make_people(4, 3)
    with pytest.raises(InputError, match=r"2 of 6 identities have no image.*labels 4, 5"):
        robust_centres(units.__getitem__, labels, 6)


def test_nearest_centres_are_what_a_loop_that_leaves_each_image_out_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.head.robust_centres.CLASSES_CHUNK", 4)  # several blocks
    units, labels, _ = make_people(11, 4, spread=2.5, seed=7)
    units, labels = units[:-3], labels[:-3]  # the last class has one image
    centres = robust_centres(units.__getitem__, labels, 11, min_cosine=0.2)
    found = find_nearest_centres(centres, units.__getitem__, labels, np.arange(len(labels)))
    for image, (unit, label) in enumerate(zip(units, labels, strict=True)):
        cosines = centres.weight @ unit
        assert found.is_correct[image] == (cosines.argmax() == label)
        cosines[label] = -np.inf
        assert found.nearest_other[image] == cosines.argmax()
        assert found.nearest_other_cosine[image] == pytest.approx(cosines.max(), abs=1e-6)
        others = [u for i, u in enumerate(units) if labels[i] == label and centres.is_kept[i] and i != image]
        assert found.is_alone[image] == (not others)
        if others:
            own = normalized(np.sum(others, axis=0)) @ unit
            assert centres.cosine[image] == pytest.approx(own, abs=1e-5)
            assert found.is_correct_left_out[image] == (own > cosines.max())
    # The classes overlap: with its own share in the centre an image does better than it should.
    assert found.is_correct.mean() > found.is_correct_left_out[~found.is_alone].mean()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8), spread=st.floats(0.1, 3))
def test_the_order_of_images_and_of_classes_does_not_matter(seed: int, sizes: list[int], spread: float) -> None:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    truth = normalized(generator.normal(size=(len(sizes), SIZE)))
    units = normalized(truth[labels] + generator.normal(size=(len(labels), SIZE)) * spread / 8).astype(np.float32)
    found = robust_centres(units.__getitem__, labels, len(sizes))
    order, names = generator.permutation(len(labels)), generator.permutation(len(sizes))
    shuffled = robust_centres(units[order].__getitem__, names[labels[order]], len(sizes))
    assert (shuffled.is_kept == found.is_kept[order]).all()
    np.testing.assert_allclose(shuffled.weight[names], found.weight, atol=1e-5)
    # The majority of every class takes part in its centre.
    kept = np.bincount(labels[found.is_kept], minlength=len(sizes))
    assert (kept >= np.array(sizes) // 2 + 1).all()
