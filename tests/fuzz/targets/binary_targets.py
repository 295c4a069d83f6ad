"""Lists the readers of images, and of packs of pairs as others pickle them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.images.announced_size import ALWAYS_READ_PIXELS, PIXELS_PER_BYTE
from facekd.images.decoding import decode_rgb
from facekd.images.frames import holds_several_images
from tests.fuzz.target import Target
from tests.odd_images import jpegs, others, refused_jpegs, refused_others


def encoded(suffix: str = ".jpg", size: int = 8) -> bytes:
    """Encodes a small picture."""
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def _bin_seeds() -> list[bytes]:
    images = [encoded(".png", 4) for _ in range(4)]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    forms: list[Any] = [
        (images, [True, False]),
        (arrays, np.array([True, False]).tolist()),
        (images, [np.True_, np.False_]),
    ]
    return [pickle.dumps(form, protocol) for form in forms for protocol in (2, 4)]


def read_pairs(path: Path) -> int:
    """Reads a pack of pairs, and decodes its first images."""
    found = read_pair_pack(path)
    decode_images(found.images[:2], source=path)
    return len(found)


# Levels between our pixels and Pillow's, by the mode of its image; other modes are turned to RGB by other rules.
MOST_APART = {"RGB": 4, "L": 4, "CMYK": 6}


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels turned upright, and as they are stored; also asks whether there are other images behind."""
    content = path.read_bytes()
    assert holds_several_images(content) in (True, False)
    return decode_rgb(content), decode_rgb(content, exif=False)


def _check_pixels(content: bytes, found: Any) -> None:
    """Compares shape and pixels with what Pillow makes of the same bytes, where it takes them whole."""
    upright, stored = found
    assert upright.dtype == stored.dtype == np.uint8 and upright.shape[2:] == (3,)
    assert upright.size <= 3 * max(ALWAYS_READ_PIXELS, PIXELS_PER_BYTE * len(content))
    assert sorted(upright.shape) == sorted(stored.shape)
    try:
        with Image.open(io.BytesIO(content)) as image:
            most = MOST_APART.get(image.mode)
            # Each version of libjpeg smoothes in its own way where scans are missing; what covers the first image of
            # an animation is not asked for here.
            if image.info.get("progressive") or getattr(image, "is_animated", False):
                most = None
            # Of Exif data that are damaged, each reader makes something else.
            is_jpeg = image.format in ("JPEG", "MPO")
            image = image if is_jpeg else ImageOps.exif_transpose(image)
            expected = np.asarray(image.convert("RGB"), dtype=int)
    except Exception:  # Pillow does not take it, in words of its own
        return
    pixels = stored if is_jpeg else upright
    assert pixels.shape == expected.shape, f"{pixels.shape}, and Pillow finds {expected.shape}"
    assert most is None or np.abs(pixels - expected).max() <= most, "other pixels than Pillow's"


TARGETS = [
    Target("pairs_bin", "pack.bin", read_pairs, _bin_seeds),
    Target(
        "jpeg",
        "a.jpg",
        _decode,
        lambda: list(jpegs().values()),
        _check_pixels,
        is_named=False,
        refused=lambda: list(refused_jpegs().values()),
        megabytes=600,  # 2^25 pixels, as coefficients and as RGB
    ),
    Target(
        "image",
        "a.png",
        _decode,
        lambda: list(others().values()),
        _check_pixels,
        is_named=False,
        refused=lambda: list(refused_others().values()),
    ),
]
