"""Generated photos, and packs and folders of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.data.recordio import Header, RecordWriter, pack


def make_photo(number: int, size: int = 32) -> np.ndarray:
    """A smooth random image (size, size, 3) uint8 RGB, its own for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def encode(photo: np.ndarray, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(photo[:, :, ::-1]))[1].tobytes()


def write_insightface_pack(folder: Path, images: Sequence[bytes], labels: Sequence[int]) -> Path:
    """A pack as InsightFace's tools lay it out, images grouped by label; keys 1..N are the images."""
    folder.mkdir(parents=True, exist_ok=True)
    num_images, num_classes = len(images), max(labels) + 1
    with RecordWriter(folder / "train.rec") as writer:
        for key, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
            writer.write(key, pack(Header(2, np.array([label, 1], np.float32), key, 0), image))
        for label in range(num_classes):
            keys = [key for key, one in enumerate(labels, start=1) if one == label]
            extent = np.array([keys[0], keys[-1] + 1], np.float32)
            writer.write(num_images + 1 + label, pack(Header(2, extent, num_images + 1 + label, 0), b""))
        header = np.array([num_images + 1, num_images + 1 + num_classes], np.float32)
        writer.write(0, pack(Header(2, header, 0, 0), b""))
    (folder / "property").write_text(f"{num_classes},32,32\n")
    return folder


def write_im2rec_pack(folder: Path, images: Sequence[bytes], labels: Sequence[float], keys: Sequence[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder / "train.rec") as writer:
        for key, image, label in zip(keys, images, labels, strict=True):
            writer.write(key, pack(Header(0, float(label), key, 0), image))
    return folder


@pytest.fixture
def insightface_pack(tmp_path: Path) -> Callable[..., Path]:
    """Write a pack of 12 JPEGs of 4 people; `replace={image number: bytes}` puts other bytes in."""

    def write(replace: dict[int, bytes] | None = None, name: str = "pack") -> Path:
        images = [encode(make_photo(number)) for number in range(12)]
        for number, image in (replace or {}).items():
            images[number] = image
        return write_insightface_pack(tmp_path / name, images, [number // 3 for number in range(12)])

    return write
