"""Cuts images to the size of the model: at random for training, in the middle for evaluation.

This is for classification, whose images come in any size (ImageNet) or are shifted (CIFAR); faces are aligned and not
cut. Every draw is a function of (seed, position in the run), as in `facekd.images.augmentation`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.images.preprocessing import scale_to_square
from facekd.utils.randomness import uniform

ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10  # boxes drawn until one fits, as in torchvision's RandomResizedCrop


class Box(NamedTuple):
    """Defines a rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class ResizedCrop(NamedTuple):
    """Holds the random numbers of one box, drawn before the size of the image is known."""

    areas: NDArray[np.float64]  # (ATTEMPTS,) shares of the image's area
    log_aspects: NDArray[np.float64]  # (ATTEMPTS,) width over height
    tops: NDArray[np.float64]  # (ATTEMPTS,) in [0, 1), as shares of the free room
    lefts: NDArray[np.float64]

    def box(self, height: int, width: int) -> Box:
        """Returns the first box drawn that fits; if none does, the largest box of an allowed aspect in the middle."""
        for area, log_aspect, top, left in zip(*self, strict=True):
            aspect = math.exp(log_aspect)
            box_width = round(math.sqrt(height * width * area * aspect))
            box_height = round(math.sqrt(height * width * area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                room = height - box_height + 1, width - box_width + 1
                return Box(int(top * room[0]), int(left * room[1]), box_height, box_width)
        aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
        box_width, box_height = min(width, round(height * aspect)), min(height, round(width / aspect))
        return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def draw_resized_crops(min_area: float, seed: int, positions: ArrayLike) -> list[ResizedCrop]:
    """Draws the random boxes of images of the run (Szegedy et al. 2015, arXiv:1409.4842, section 6).

    Args:
        min_area: smallest area of a box as a share of the image; drawn from [min_area, 1], 0.08 is usual.
        seed: random seed of the run.
        positions: positions in the run, (B,).
    """
    places = np.asarray(positions, dtype=np.int64)[:, None] * ATTEMPTS + np.arange(ATTEMPTS)
    draws = (
        uniform(seed, "resized_crop.area", places, min_area, 1.0),
        uniform(seed, "resized_crop.aspect", places, math.log(ASPECT[0]), math.log(ASPECT[1])),
        uniform(seed, "resized_crop.top", places),
        uniform(seed, "resized_crop.left", places),
    )
    return [ResizedCrop(*rows) for rows in zip(*draws, strict=True)]


def middle_box(height: int, width: int, share: float) -> Box:
    """Returns the square in the middle of an image whose side is `share` of the image's shorter side.

    Scaled to S, this is the usual "scale the shorter side to S / share, then take the middle S x S" (0.875: 256, 224).
    """
    side = max(1, round(min(height, width) * share))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def cut_and_scale(image: NDArray[np.uint8], box: Box, size: int) -> NDArray[np.uint8]:
    """Returns the box of an image (H, W, 3), scaled to (size, size, 3): by area if it shrinks, else bilinearly."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    return part if part.shape[:2] == (size, size) else scale_to_square(part, size)


def shift(images: NDArray[np.uint8], padding: int, seed: int, positions: ArrayLike) -> None:
    """Pads each image with `padding` black pixels and cuts out a window of the old size at random, in place.

    This is the augmentation of CIFAR papers (He et al. 2016, arXiv:1512.03385, section 4.2: 4 pixels).

    Args:
        images: (B, S, S, 3) uint8, changed in place.
        padding: pixels at each side.
        seed: random seed of the run.
        positions: positions in the run, (B,).
    """
    size = images.shape[1]
    tops, lefts = (
        (uniform(seed, f"pad_crop.{name}", positions) * (2 * padding + 1)).astype(np.int64).tolist()
        for name in ("top", "left")
    )
    padded = np.zeros((size + 2 * padding, size + 2 * padding, 3), dtype=np.uint8)
    for image, top, left in zip(images, tops, lefts, strict=True):
        padded[padding : padding + size, padding : padding + size] = image
        image[:] = padded[top : top + size, left : left + size]
