"""Lists the readers of images, and of packs of pairs as others pickle them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.images.decoding import decode_rgb
from tests.fuzz.target import Target


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


TARGETS = [
    Target("pairs_bin", "pack.bin", read_pairs, _bin_seeds),
    Target(
        "jpeg",
        "a.jpg",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(), encoded(size=40)],
        is_named=False,
    ),
    Target(
        "png",
        "a.png",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(".png"), encoded(".bmp")],
        is_named=False,
    ),
]
