"""Augmentation as a function of (seed, position), each kind doing what it says; and the way into the backbone."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facekd.errors import ConfigError, InputError
from facekd.images.augmentation import Augmentation, augment
from facekd.images.model_input import flip_mask, to_model_input
from facekd.images.preprocessing import Preprocessing
from tests.facekd.data.conftest import make_photo

KINDS = ("crop", "low_resolution", "color_jitter", "blur", "jpeg")
EVERYTHING = Augmentation(crop=0.6, low_resolution=0.6, color_jitter=0.6, blur=0.6, jpeg=0.6)


def batch_of(count: int, size: int = 32) -> np.ndarray:
    return np.stack([make_photo(number, size) for number in range(count)])


def augmented(augmentation: Augmentation, images: np.ndarray, seed: int = 5, positions=None) -> np.ndarray:
    result = images.copy()
    augment(augmentation, result, seed, np.arange(len(images)) if positions is None else positions)
    return result


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).reshape(len(before), -1).any(axis=1)


def roughness(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference between neighbours, image by image."""
    return np.abs(np.diff(images.astype(float), axis=2)).mean(axis=(1, 2, 3))


def test_flips_are_fair_coins_of_the_seed_and_the_position():
    positions = np.arange(20_000)
    mask = flip_mask(1, positions)
    assert mask.dtype == np.bool_
    assert stats.binomtest(int(mask.sum()), len(mask)).pvalue > 0.01
    np.testing.assert_array_equal(flip_mask(1, positions[::-1])[::-1], mask)
    assert 0.48 < (flip_mask(2, positions) == mask).mean() < 0.52
    # an image's flip in one epoch says nothing of the next
    assert 0.48 < (mask[:10_000] == mask[10_000:]).mean() < 0.52


@settings(max_examples=8)
@given(st.integers(0, 2**64 - 1), st.permutations(range(6)), st.integers(1, 5))
def test_an_image_is_augmented_alike_in_any_batch(seed, order, split):
    images = batch_of(6)
    positions = np.array([3, 10**12, 77, 1, 0, 500])
    whole = augmented(EVERYTHING, images, seed, positions)
    order = np.array(order)
    parts = [augmented(EVERYTHING, images[rows], seed, positions[rows]) for rows in np.split(order, [split])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_another_seed_or_position_gives_another_image():
    image = batch_of(1)
    strong = Augmentation(color_jitter=1, blur=1)
    results = [augmented(strong, image, seed, [position]) for seed, position in ((0, 0), (1, 0), (0, 1))]
    assert (results[0] != results[1]).any() and (results[0] != results[2]).any()


def test_no_generator_is_touched():
    torch.manual_seed(3)
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    augmented(EVERYTHING, batch_of(8))
    assert torch.equal(torch.get_rng_state(), before_torch)
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [48, 112])
def test_each_kind_strikes_as_often_as_asked(kind, size):
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8), 300, axis=0)
    # noise shows any change, and in this range a blur so weak that it changes nothing is rare
    after = augmented(Augmentation(**{kind: 0.3}, blur_max_sigma=10), images)
    assert stats.binomtest(int(changed(images, after).sum()), 300, 0.3).pvalue > 0.01
    assert not changed(images, augmented(Augmentation(), images)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_switching_another_kind_on_does_not_change_the_draws_of_this_one(kind):
    images = np.random.default_rng(0).integers(0, 256, (40, 112, 112, 3), dtype=np.uint8)  # noise shows any change
    alone = augmented(Augmentation(**{kind: 0.5}), images)
    for other in KINDS:
        if other == kind:
            continue
        both = augmented(Augmentation(**{kind: 0.5, other: 0.5}), images)
        spared = ~changed(images, augmented(Augmentation(**{other: 0.5}), images))
        assert 5 < spared.sum() < 35
        np.testing.assert_array_equal(both[spared], alone[spared])


def test_crop_keeps_a_box_in_its_place_and_blackens_the_rest():
    images = np.maximum(batch_of(60, 56), 1)  # so that zero means blackened
    after = augmented(Augmentation(crop=1, crop_min_area=0.3), images)
    corners = []
    for before, image in zip(images, after, strict=True):
        kept = (image != 0).any(axis=2)
        rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert kept[box].all()
        np.testing.assert_array_equal(image[box], before[box])
        assert kept.mean() > 0.3 * 0.9  # rounded to whole pixels, and to the image where the box is long
        assert 0.7 < kept[box].shape[1] / kept[box].shape[0] < 1.43
        corners.append((rows[0], columns[0]))
    assert len(set(corners)) > 30


def test_low_resolution_and_blur_remove_detail_and_keep_the_mean():
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    for augmentation in (Augmentation(low_resolution=1, low_resolution_min_side=0.3), Augmentation(blur=1)):
        after = augmented(augmentation, images)
        # by NEAREST a draw close to full size keeps nearly all detail
        assert np.median(roughness(after) / roughness(images)) < 0.7
        assert np.abs(after.mean(axis=(1, 2, 3)) - images.mean(axis=(1, 2, 3))).max() < 6


def test_blur_is_the_same_for_the_face_whatever_the_image_size():
    small, large = make_photo(1, 56)[None], make_photo(1, 112)[None]
    blur = Augmentation(blur=1, blur_max_sigma=4)
    shrunk = cv2.resize(augmented(blur, large)[0], (56, 56), interpolation=cv2.INTER_AREA)
    assert np.abs(augmented(blur, small)[0].astype(int) - shrunk).mean() < 3


def test_color_jitter_keeps_within_its_strength():
    grey = np.full((200, 8, 8, 3), 100, np.uint8)  # contrast and saturation do nothing to one grey
    after = augmented(Augmentation(color_jitter=1, color_jitter_strength=0.3), grey)
    levels = after[:, 0, 0, 0].astype(int)
    assert (after == levels[:, None, None, None]).all()
    assert 67 <= levels.min() < 80 and 120 < levels.max() <= 132  # each of three steps rounds
    colored = np.tile(np.array([200, 90, 40], np.uint8), (50, 8, 8, 1))
    assert len(np.unique(augmented(Augmentation(color_jitter=1), colored)[:, 0, 0], axis=0)) > 40


def test_jpeg_leaves_an_image_that_its_own_compression_makes():
    image = make_photo(2, 48)
    after = augmented(Augmentation(jpeg=1, jpeg_min_quality=95), image[None])[0]  # 95 is then the only quality
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    np.testing.assert_array_equal(after, cv2.imdecode(encoded, cv2.IMREAD_COLOR)[:, :, ::-1])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"crop": 1.2}, r"augmentation\.crop must be from 0 to 1 \(a probability\), found 1\.2"),
        ({"jpeg": -0.1}, r"augmentation\.jpeg must be from 0 to 1"),
        ({"blur": float("nan")}, r"augmentation\.blur .* found nan"),
        ({"crop_min_area": 0.0}, r"augmentation\.crop_min_area must be from 0\.01 to 1"),
        ({"low_resolution_min_side": 1.5}, r"augmentation\.low_resolution_min_side"),
        ({"jpeg_min_quality": 99}, r"augmentation\.jpeg_min_quality must be from 1 to 95"),
        ({"blur_max_sigma": 0.1}, r"augmentation\.blur_max_sigma must be from 0\.5 to 20 \(in pixels\)"),
        (
            {"crop": 0.5, "crop_min_area": 1.0},
            r"crop_min_area=1 leaves every image as it is, yet augmentation\.crop=0\.5",
        ),
        ({"color_jitter": 0.1, "color_jitter_strength": 0.0}, "change color_jitter_strength, or set color_jitter to 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_key(settings_, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**settings_)


def test_settings_are_frozen_and_know_whether_the_workers_have_work():
    assert not Augmentation().changes_pixels
    assert Augmentation(blur=0.1).changes_pixels
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augmentation().flip = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mean", "std"), [(127.5, 127.5), (0, 1), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), ([1, 2, 3], 2.0)]
)
def test_model_input_is_the_normalised_mirrored_batch(mean, std):
    images = batch_of(4, 9)
    flip = np.array([True, False, True, True])
    expected = (np.float32(images) - np.float32(mean)) / np.float32(std)
    expected[flip] = expected[flip, :, ::-1]
    found = to_model_input(torch.from_numpy(images), torch.from_numpy(flip), mean, std)
    assert found.dtype == torch.float32 and found.shape == (4, 3, 9, 9)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
    np.testing.assert_array_equal(images, batch_of(4, 9))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_model_input_equals_the_preprocessing_of_a_deployed_model(color):
    preprocessing = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), color, 9)
    images = batch_of(4, 9)
    # A model that takes BGR gets the same numbers, its channels the other way round.
    expected = to_model_input(torch.from_numpy(images), mean=preprocessing.mean, std=preprocessing.std).numpy()
    np.testing.assert_array_equal(preprocessing.apply(images), expected[:, :: preprocessing.channel_step])


def test_model_input_in_another_type_and_layout_is_the_same_numbers():
    images, flip = torch.from_numpy(batch_of(3)), torch.tensor([True, False, False])
    whole = to_model_input(images, flip)
    half = to_model_input(images, flip, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    assert half.dtype == torch.bfloat16 and half.is_contiguous()
    assert torch.equal(half, whole.to(torch.bfloat16))
    assert torch.equal(to_model_input(images), to_model_input(images, torch.zeros(3, dtype=torch.bool)))


def test_model_input_made_first_without_gradients_serves_training_later():
    images = torch.from_numpy(batch_of(2))
    with torch.inference_mode():
        to_model_input(images, mean=17.0, std=3.0)
    weight = torch.ones(1, requires_grad=True)
    (to_model_input(images, mean=17.0, std=3.0) * weight).sum().backward()
    assert weight.grad is not None and torch.isfinite(weight.grad).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 4, 4, 3), {}, r"uint8 \(B, H, W, 3\), found torch.float32"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), {}, r"found torch.uint8 \(2, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), {"mean": (1.0, 2.0)}, "mean must be one number or three"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), {"std": (1.0, 0.0, 1.0)}, "std must not be zero"),
    ],
)
def test_model_input_refuses_what_does_not_fit(images, options, message):
    with pytest.raises(InputError, match=message):
        to_model_input(images, **options)
