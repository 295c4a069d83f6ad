"""Draws embeddings for a MegaFace-style set without images, to measure how long a search among millions takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.protocol_sets.layouts import write_megaface_lists
from facekd.files.mapped_arrays import create_npy
from facekd.files.writing import atomic_path
from facekd.utils.progress import track

ROWS_CHUNK = 16_384
SPREAD = 0.9  # length of the noise of an image beside its person's direction


def write_drawn_megaface(
    folder: Path, people: int, images: int, distractors: int, size: int, dtype: str, seed: int
) -> dict[str, int]:
    """Writes the lists and `embeddings.npy`, a row for each line: FaceScrub's, then MegaFace's.

    Args:
        folder: where to write.
        people, images: probes: number of people, and of images of each.
        distractors: number of distractors, each somebody else.
        size: D, numbers in an embedding.
        dtype: float32 or float16.
        seed: random seed of all draws.
    """
    probes = [f"Person_{who}/Person_{who}_{image}.jpg" for who in range(people) for image in range(images)]
    strangers = [f"{who // 1000 % 1000:03d}/{who}/0.jpg" for who in range(distractors)]
    write_megaface_lists(folder, "facescrub", probes)
    write_megaface_lists(folder, "megaface", strangers)
    generator = np.random.default_rng([seed % 2**63, 0x3E6A])
    centres = generator.standard_normal((people, size), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    with atomic_path(folder / "embeddings.npy") as temporary:
        out = create_npy(temporary, np.dtype(dtype), (len(probes) + distractors, size))
        noise = generator.standard_normal((len(probes), size), np.float32) * np.float32(SPREAD / np.sqrt(size))
        out[: len(probes)] = np.repeat(centres, images, axis=0) + noise
        for start in track(range(0, distractors, ROWS_CHUNK), "drawing embeddings", distractors, ROWS_CHUNK):
            count = min(ROWS_CHUNK, distractors - start)
            rows = generator.standard_normal((count, size), np.float32)
            out[len(probes) + start : len(probes) + start + count] = rows / np.sqrt(np.float32(size))
        out.flush()
        del out
    return {"probes": len(probes), "distractors": distractors}
