"""States what a model expects as input, and turns uint8 RGB images into it.

Most reports of a bad ONNX model are due to a wrong mean, std or colour order, and none of these raises an error by
itself. So the three travel with the model, and every mistake that can be recognised is an error here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.errors import ModelError
from facekd.utils.foreign import shown

LARGEST_SIZE = 8192  # pixels, as for all sides of images
LARGEST_LEVEL = 1e6  # of mean and std, for models that take other units
LONGEST_VALUE = 1000  # characters of a value in `metadata_props`
COLORS = ("rgb", "bgr")
# Assumed for a model that does not say: the convention of the field, see docs/deployment.md.
DEFAULTS: Mapping[str, Any] = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5), "color": "rgb"}


@dataclass(frozen=True)
class Preprocessing:
    """Describes how uint8 RGB images become the input of a model: `(x - mean) / std`, then channels first.

    Args:
        mean: value subtracted from each channel, always in R, G, B order, in units of 0..255; one number for all three,
            or three.
        std: value that each channel is divided by; same order, same units.
        color: the order in which the model takes its channels; `mean` and `std` are reordered with the pixels.
        image_size: height and width in pixels.

    Raises:
        ModelError: a field is out of range; the message names it.
    """

    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    color: str = "rgb"
    image_size: int = 112

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _three_numbers("mean", self.mean))
        object.__setattr__(self, "std", _three_numbers("std", self.std))
        # Two classic mistakes, units of 0..1 and std given as a factor, both make std less than one grey level.
        if min(self.std) < 1:
            raise ModelError(
                f"std {list(self.std)} is below 1: mean and std are in units of 0..255 "
                "(multiply values meant for 0..1 images by 255; give std itself, not its inverse)"
            )
        if self.color not in COLORS:
            raise ModelError(f"color is {_shown(self.color)}: expected rgb or bgr")
        is_whole = isinstance(self.image_size, int) and not isinstance(self.image_size, bool)
        if not is_whole or not 1 <= self.image_size <= LARGEST_SIZE:
            raise ModelError(
                f"image_size is {_shown(self.image_size)}: expected a number of pixels, such as 112, and at most "
                f"{LARGEST_SIZE:,}"
            )

    @property
    def channel_step(self) -> int:
        """1 if the model takes RGB, -1 if it takes BGR: `[::channel_step]` puts channels in its order."""
        return 1 if self.color == "rgb" else -1

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Normalises a batch for the model, (pixel - mean) / std; `model_input.to_model_input` is the form in torch.

        Args:
            images: (B, S, S, 3) uint8 RGB.

        Returns:
            (B, 3, S, S) float32, contiguous, the channels in the model's order.
        """
        step = self.channel_step
        planes = np.moveaxis(images[..., ::step], -1, 1).astype(np.float32, order="C")
        planes -= np.asarray(self.mean, np.float32)[::step].reshape(3, 1, 1)
        planes /= np.asarray(self.std, np.float32)[::step].reshape(3, 1, 1)
        return planes

    def to_metadata(self) -> dict[str, str]:
        """Returns the fields as text, for the `metadata_props` of an ONNX file; `parse_metadata` reads them back."""
        mean, std = json.dumps(list(self.mean)), json.dumps(list(self.std))
        return {"mean": mean, "std": std, "color": self.color, "image_size": str(self.image_size)}

    def blank(self) -> np.ndarray:
        """Returns one black image (1, S, S, 3), enough to find out the shape of a model's output."""
        return np.zeros((1, self.image_size, self.image_size, 3), np.uint8)


def parse_metadata(name: str, text: str) -> Any:
    """Returns the value of one field from its text in `metadata_props`; `Preprocessing` checks the value.

    Raises:
        ModelError: the text is neither a number nor a list.
    """
    if name == "color":
        return text.lower()
    try:
        if len(text) > LONGEST_VALUE:
            raise ValueError
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # lists in lists, or a number of thousands of digits
        raise ModelError(
            f"metadata_props {name} is {_shown(text)}, expected a number or [R, G, B]; give {name} by hand"
        ) from error


def overridden(given: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a sentence for each field that is given otherwise than it is recorded with a model.

    Args:
        given: fields of `Preprocessing`; None for one that is not given.
        recorded: those that the model's file says, or text of `metadata_props`, which may be damaged.
    """
    found = []
    for name, value in given.items():
        if value is None or name not in recorded:
            continue
        try:
            own = recorded[name]
            own = parse_metadata(name, own) if isinstance(own, str) else own
            pair = [_three_numbers(name, one) for one in (value, own)] if name in ("mean", "std") else [value, own]
        except ModelError:
            continue
        if pair[0] != pair[1]:
            ours, theirs = (in_short(one) if isinstance(one, tuple) else shown(one) for one in pair)
            found.append(f"{name} {ours} is given, and the file records {theirs}")
    return tuple(found)


def fit_images(images: np.ndarray, size: int, resize: bool) -> np.ndarray:
    """Returns images as uint8 (B, size, size, 3); scales those of another size if `resize` is set.

    Raises:
        ModelError: the type or shape is another; or the size is, and `resize` is False.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ModelError(f"expected uint8 RGB images (B, {size}, {size}, 3), found {images.dtype} {images.shape}")
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    if not resize:
        raise ModelError(
            f"images are {height} x {width}, the model takes {size} x {size}: "
            "align the faces to that size (`facekd data align`), or have them scaled (resize=True; --resize on the "
            "command line)"
        )
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for target, image in zip(resized, images, strict=True):
        target[:] = scale_to_square(image, size)
    return resized


def scale_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scales pixels (H, W, 3) to (size, size, 3): by area if both sides shrink, else bilinearly.

    Training, evaluation and deployment all scale here, so that a model sees the same pixels in each.
    """
    import cv2

    # INTER_AREA averages pixels when shrinking; when enlarging it nearly repeats them.
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=method)  # type: ignore[return-value]


def mirror(images: np.ndarray) -> np.ndarray:
    """Mirrors images (B, H, W, 3) left and right; the result is contiguous."""
    return np.ascontiguousarray(images[:, :, ::-1])


def _three_numbers(name: str, value: Any) -> tuple[float, float, float]:
    try:
        values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        numbers = [math.nan if isinstance(number, bool | str) else float(number) for number in values]
    except (TypeError, ValueError, OverflowError):  # text, lists in a list, a number of hundreds of digits
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) <= LARGEST_LEVEL for number in numbers):  # NaN is no number, either
        raise ModelError(f"{name} is {_shown(value)}: expected one number, or three (R, G, B) in units of 0..255")
    return (numbers[0], numbers[1], numbers[2])


def in_short(values: tuple[float, ...]) -> str:
    """Writes the mean or std of the three channels, as one number where they are equal."""
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _shown(value: Any) -> str:
    try:
        return shown(repr(value))
    except ValueError:  # Python does not write numbers of over 4,300 digits
        return "a number of thousands of digits"
