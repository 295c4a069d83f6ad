"""Degrades aligned faces: one function for each kind of degradation, and the table that names them.

Every function takes uint8 RGB (S, S, 3), a strength, and a random generator, and returns uint8 RGB (S, S, 3). Lengths
in pixels are those of a crop of 112 pixels, and are scaled for others. To add a degradation, write a function and give
it a row in `DEGRADATIONS`: options, tables, the page and the tests follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from facekd.images.alignment import TEMPLATE_SIZE, template
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_jpeg

Degrade = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
GAMMA = 2.2  # of displays: pixel values are light to the power of 1 / 2.2, nearly
GREY = 127  # what covers a face


@dataclass(frozen=True)
class Degradation:
    """Describes one kind of degradation.

    Attributes:
        title: its name for people.
        unit: what a strength is.
        strengths: those that are measured, the mildest first.
        apply: the function; see the top of this file.
        about: what is done to the pixels, for people.
    """

    title: str
    unit: str
    strengths: tuple[float, ...]
    apply: Degrade
    about: str


def blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs by a Gaussian with a standard deviation of `strength` pixels."""
    del rng
    return cv2.GaussianBlur(image, (0, 0), strength * _scale(image), borderType=cv2.BORDER_REPLICATE)


def compress(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Writes a JPEG of quality `strength`, and reads it."""
    del rng
    return decode_rgb(encode_jpeg(image, int(strength)))


def lower_resolution(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Shrinks to a side of `strength` pixels, each the mean of those it replaces, and enlarges again bilinearly."""
    del rng
    side = max(round(strength * _scale(image)), 1)
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def darken(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Takes away `strength` stops of light, each of which halves it, and rounds to whole grey levels."""
    del rng
    return cv2.convertScaleAbs(image, alpha=2 ** (-strength / GAMMA))


def add_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise with a standard deviation of `strength` grey levels to each value by itself."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(strength)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def rotate(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Turns about the centre by `strength` degrees to one side, drawn for each image; the edge is repeated outwards."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), _sign(rng) * strength, 1))


def shift(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Moves by `strength` pixels in a direction drawn for each image; the edge is repeated outwards."""
    angle = rng.uniform(0, 2 * np.pi)
    length = strength * _scale(image)
    return _warp(image, np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]]))


def cover_lower_part(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Covers the lower `strength` of the height in grey, as a mask does."""
    del rng
    return _cover(image, image.shape[0] * (1 - strength), image.shape[0])


def cover_eyes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Covers a band of `strength` of the height in grey, centred on the eyes of the alignment template."""
    del rng
    side = image.shape[0]
    eyes, half = float(template(side)[:2, 1].mean()), strength * side / 2
    return _cover(image, eyes - half, eyes + half)


DEGRADATIONS: dict[str, Degradation] = {
    "blur": Degradation("Blur", "standard deviation in pixels", (1, 2, 3, 4, 6), blur, "A Gaussian blur."),
    "jpeg": Degradation(
        "JPEG compression", "JPEG quality", (50, 30, 20, 10, 5), compress, "Written as a JPEG, and read again."
    ),
    "resolution": Degradation(
        "Low resolution",
        "side in pixels",
        (64, 48, 32, 24, 16),
        lower_resolution,
        "Shrunk, each pixel the mean of those that it replaces, and enlarged again bilinearly.",
    ),
    "darkness": Degradation(
        "Darkness",
        "stops less light",
        (1, 2, 4, 6, 8),
        darken,
        "Each stop leaves half of the light, and values are rounded to whole grey levels.",
    ),
    "noise": Degradation(
        "Noise",
        "standard deviation in grey levels",
        (10, 20, 30, 45, 60),
        add_noise,
        "Gaussian noise on each value by itself.",
    ),
    "rotation": Degradation(
        "Rotation",
        "degrees",
        (5, 10, 20, 30, 45),
        rotate,
        "Turned about the centre to a side drawn for each image; the edge is repeated outwards.",
    ),
    "shift": Degradation(
        "Shifted alignment",
        "pixels",
        (2, 4, 8, 12, 16),
        shift,
        "Moved in a direction drawn for each image; the edge is repeated outwards.",
    ),
    "lower-part": Degradation(
        "Covered lower part",
        "share of the height",
        (0.2, 0.3, 0.4, 0.5, 0.6),
        cover_lower_part,
        "Grey from below, as under a mask.",
    ),
    "eyes": Degradation(
        "Covered eyes",
        "share of the height",
        (0.1, 0.15, 0.2, 0.25, 0.3),
        cover_eyes,
        "A grey band across the eyes, as under sunglasses.",
    ),
}


def _scale(image: np.ndarray) -> float:
    return image.shape[0] / TEMPLATE_SIZE


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _cover(image: np.ndarray, top: float, bottom: float) -> np.ndarray:
    covered = image.copy()
    covered[max(round(top), 0) : round(bottom)] = GREY
    return covered
