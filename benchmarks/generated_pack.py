"""Writes a record pack of generated faces, so that benchmarks run without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekd.data.datasets import open_dataset
from facekd.data.recordio import Header, RecordWriter, pack
from facekd.images.encoding import encode_jpeg
from facekd.utils.progress import track

JPEG_QUALITY = 96  # gives about 6.6 kB a face, as in MS1MV3
RENDER_CHUNK = 64  # images


def write_generated_pack(folder: Path, num_images: int, size: int) -> Path:
    """Writes `train.rec` with four images a person, `size` pixels wide, and returns its path."""
    dataset = open_dataset(f"synthetic:{-(-num_images // 4)}x4", size)
    with RecordWriter(folder / "train.rec") as writer:
        for start in track(range(0, num_images, RENDER_CHUNK), "rendering faces", num_images, RENDER_CHUNK):
            images, labels = dataset.load(np.arange(start, min(start + RENDER_CHUNK, num_images)))
            for key, image, label in zip(range(start, num_images), images, labels, strict=False):
                writer.write(key, pack(Header(0, float(label), key, 0), encode_jpeg(image, JPEG_QUALITY)))
    return folder / "train.rec"
