"""Augments decoded images in the workers.

All augmentations of `Augmentation` but the flip are applied here, on the CPU, to uint8 images. The device flips and
normalises (`to_model_input`), because one byte per value travels there faster than four. Every draw is a function of
(seed, position in the run): the same image of the run looks the same for any world size, any number of workers and
after a resume, and switching one augmentation on does not change the draws of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from facekd.errors import ConfigError
from facekd.images.config import BLUR_MIN_SIGMA, JPEG_BEST_QUALITY, Augmentation
from facekd.images.crops import shift
from facekd.utils.randomness import uniform

CROP_ASPECT = (3 / 4, 4 / 3)
IMAGES_IN_CACHE = 16  # images of 112 pixels; a whole batch would not fit in the cache between two operations
_JITTER_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def augment(augmentation: Augmentation, images: NDArray[np.uint8], seed: int, positions: ArrayLike) -> None:
    """Augments a batch in place; the flip is left to the device, and the resized crop to decoding.

    Args:
        augmentation: the augmentations to apply.
        images: (B, S, S, 3) uint8 RGB, changed in place.
        seed: random seed of the run.
        positions: position of each image in the run, (B,).
    """
    positions = np.asarray(positions, dtype=np.int64)
    if augmentation.pad_crop:
        shift(images, augmentation.pad_crop, seed, positions)
    for kind, (apply, ranges_of) in _KINDS.items():
        probability = getattr(augmentation, kind)
        if probability == 0:
            continue
        # Draw which images it is applied to, and with what numbers.
        slots = np.flatnonzero(uniform(seed, kind, positions) < probability)
        ranges = ranges_of(augmentation)
        draws = [uniform(seed, f"{kind}.{name}", positions[slots], *ends).tolist() for name, ends in ranges.items()]
        for slot, *values in zip(slots, *draws, strict=True):
            images[slot] = apply(images[slot], **dict(zip(ranges, values, strict=True)))


# Each kind of augmentation is a function of one image and a few numbers; `_choose` turns one from [0, 1) into a choice.


def _choose(share: float, count: int) -> int:
    return int(share * count)


def _crop(image: NDArray[np.uint8], area: float, log_aspect: float, top: float, left: float) -> NDArray[np.uint8]:
    """Blackens everything but a box, so that the face stays aligned."""
    size = image.shape[0]
    aspect = math.exp(log_aspect)
    height = min(size, max(1, round(size * math.sqrt(area / aspect))))
    width = min(size, max(1, round(size * math.sqrt(area * aspect))))
    first_row, first_column = _choose(top, size - height + 1), _choose(left, size - width + 1)
    box = np.s_[first_row : first_row + height, first_column : first_column + width]
    result = np.zeros_like(image)
    result[box] = image[box]
    return result


def _low_resolution(image: NDArray[np.uint8], side: float, way_down: float, way_up: float) -> NDArray[np.uint8]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    # Nobody knows how a camera or a web site scaled a face, so the method is drawn, and that of the way back too.
    ways = (InterpolationMode.NEAREST_EXACT, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
    down, up = ways[_choose(way_down, len(ways))], ways[_choose(way_up, len(ways))]
    size = image.shape[0]
    small_size = max(1, round(size * side))
    small = functional.resize(_to_CHW(image), [small_size] * 2, interpolation=down, antialias=True)
    return _to_HWC(functional.resize(small, [size] * 2, interpolation=up, antialias=True))


def _color_jitter(
    image: NDArray[np.uint8], order: float, brightness: float, contrast: float, saturation: float
) -> NDArray[np.uint8]:
    from torchvision.transforms.v2 import functional

    steps = (
        (functional.adjust_brightness, brightness),
        (functional.adjust_contrast, contrast),
        (functional.adjust_saturation, saturation),
    )
    pixels = _to_CHW(image)
    for which in _JITTER_ORDERS[_choose(order, len(_JITTER_ORDERS))]:
        adjust, factor = steps[which]
        pixels = adjust(pixels, factor)
    return _to_HWC(pixels)


def _blur(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    # OpenCV is ten times as fast as torchvision, and gives the same bytes on every processor.
    pixels = sigma * image.shape[0] / 112
    radius = math.ceil(3 * pixels)
    return cv2.GaussianBlur(image, (2 * radius + 1, 2 * radius + 1), pixels)  # type: ignore[return-value]


def _jpeg(image: NDArray[np.uint8], quality: float) -> NDArray[np.uint8]:
    # OpenCV, because torchvision has deprecated its JPEG functions (0.29).
    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise ConfigError(f"OpenCV could not encode a {image.shape[1]}x{image.shape[0]} image as JPEG")
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


def _to_CHW(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def _to_HWC(pixels: torch.Tensor) -> NDArray[np.uint8]:
    return pixels.permute(1, 2, 0).numpy()


class _Kind(NamedTuple):
    apply: Callable[..., NDArray[np.uint8]]
    ranges_of: Callable[[Augmentation], dict[str, tuple[float, float]]]  # arguments of `apply`, drawn from [low, high)


_ANY = (0.0, 1.0)
_KINDS: dict[str, _Kind] = {
    "crop": _Kind(
        _crop,
        lambda a: {
            "area": (a.crop_min_area, 1.0),
            "log_aspect": (math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])),
            "top": _ANY,
            "left": _ANY,
        },
    ),
    "low_resolution": _Kind(
        _low_resolution,
        lambda a: {"side": (a.low_resolution_min_side, 1.0), "way_down": _ANY, "way_up": _ANY},
    ),
    "color_jitter": _Kind(
        _color_jitter,
        lambda a: {
            "order": _ANY,
            **dict.fromkeys(
                ("brightness", "contrast", "saturation"), (1 - a.color_jitter_strength, 1 + a.color_jitter_strength)
            ),
        },
    ),
    "blur": _Kind(_blur, lambda a: {"sigma": (BLUR_MIN_SIGMA, a.blur_max_sigma)}),
    "jpeg": _Kind(_jpeg, lambda a: {"quality": (a.jpeg_min_quality, JPEG_BEST_QUALITY + 1)}),
}
