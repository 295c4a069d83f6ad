"""Crops: CIFAR's shift against padding by hand, random boxes and middle boxes against torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from facekd.errors import ConfigError
from facekd.images.augmentation import Augmentation, augment
from facekd.images.crops import cut_and_scale, draw_resized_crops, middle_box, shift
from facekd.utils.randomness import uniform

RNG = np.random.default_rng(0)


def test_a_shift_is_a_window_of_the_padded_image() -> None:
    images = RNG.integers(1, 256, (300, 8, 8, 3), dtype=np.uint8)
    positions = np.arange(300) + 7
    shifted = images.copy()
    augment(Augmentation(flip=False, pad_crop=2), shifted, 5, positions)
    seen = set()
    for before, after, position in zip(images, shifted, positions, strict=True):
        top, left = (int(5 * uniform(5, f"pad_crop.{name}", position)) for name in ("top", "left"))
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(after, padded[top : top + 8, left : left + 8])
        seen.add((top, left))
    assert seen == {(top, left) for top in range(5) for left in range(5)}  # the ends included


def test_a_shift_depends_on_the_position_alone() -> None:
    images = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    together, apart = images.copy(), images.copy()
    shift(together, 4, 1, np.arange(6))
    for place in reversed(range(6)):
        shift(apart[place : place + 1], 4, 1, [place])
    np.testing.assert_array_equal(together, apart)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    position=st.integers(0, 10_000),
    min_area=st.floats(0.01, 1.0),
)
def test_a_random_box_lies_in_the_image(height: int, width: int, position: int, min_area: float) -> None:
    (crop,) = draw_resized_crops(min_area, 0, [position])
    box = crop.box(height, width)
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert box.height >= 1
    assert box.width >= 1


def test_random_boxes_are_spread_as_torchvisions() -> None:
    height, width, count = 120, 160, 4000
    boxes = np.array([crop.box(height, width) for crop in draw_resized_crops(0.08, 3, np.arange(count))])
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs_drawn = (v2.RandomResizedCrop(8).make_params([image]) for _ in range(count))
    theirs = np.array([[drawn[key] for key in ("top", "left", "height", "width")] for drawn in theirs_drawn])
    for column in range(4):
        ours_of, theirs_of = boxes[:, column], theirs[:, column]
        standard_error = math.hypot(ours_of.std(), theirs_of.std()) / math.sqrt(count)
        assert abs(ours_of.mean() - theirs_of.mean()) < 4 * standard_error
        assert ours_of.std() == pytest.approx(theirs_of.std(), rel=0.06)


@pytest.mark.parametrize(("height", "width"), [(100, 140), (140, 100), (96, 96)])
def test_the_middle_is_that_of_resize_and_center_crop(height: int, width: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 5], 2).astype(np.uint8)
    ours = cut_and_scale(image, middle_box(height, width, 0.875), 56)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    theirs = v2.CenterCrop(56)(v2.Resize(64, antialias=True)(pixels)).permute(1, 2, 0).numpy()
    # Gradients that give the place away: half a pixel of the image is 1.3 grey levels.
    assert np.abs(ours.astype(int) - theirs.astype(int))[:, :, :2].max() <= 3


def test_crops_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        Augmentation(crop=0.2, pad_crop=4)
    with pytest.raises(ConfigError, match=r"resized_crop must be from 0 to 1"):
        Augmentation(resized_crop=1.5)
    assert Augmentation(pad_crop=4).changes_pixels
    assert Augmentation(resized_crop=0.08).changes_pixels
