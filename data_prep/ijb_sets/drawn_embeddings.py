"""Draws embeddings for IJB-style sets whose images are not available, realistic in shape and difficulty.

A subject is a direction with a decaying spectrum, so that some people look alike. Each template, medium and image adds
its own noise; a few templates are far worse than the others (profile, low resolution), and these cost TAR at strict
FARs. Norms and detector scores fall with the noise, as with real models. Pooled and scored the usual way, a set of
IJB-C's size gives a TAR of about 89, 92 and 95 % at FAR 1e-6, 1e-5 and 1e-4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.ijb_sets.plan import PROBE_ROLE, IjbPlan
from facekd.files.mapped_arrays import create_npy
from facekd.files.writing import atomic_path
from facekd.utils.progress import track

ROWS_CHUNK = 8192
MEDIA_POOL = 4096  # directions that media take their noise from
SPECTRUM = 0.35  # how fast the variance of subjects decays over the dimensions
TEMPLATE_NOISE, MEDIUM_NOISE, IMAGE_NOISE, MIRROR_NOISE = 0.75, 0.7, 0.9, 0.25
GALLERY_DIFFICULTY, PROBE_DIFFICULTY = 0.25, 0.75  # log-normal spread of the template noise


def write_embeddings(path: Path, plan: IjbPlan, size: int = 512, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Writes the embeddings of all rows as .npy, (M, 2 size), with those of the mirror images in the second half.

    Args:
        path: the file to write.
        plan: the set.
        size: D, numbers in an embedding.
        seed: random seed of all draws; equal seeds give equal bytes.
        dtype: float32 or float16.

    Returns:
        float64 (M,): a detector score for each row, in (0.5, 1).

    Raises:
        OSError: the file cannot be written.
    """
    # What subjects, templates and media add, drawn once.
    generator = np.random.default_rng([seed % 2**63, 0xE4B])
    subjects, subject_of = np.unique(plan.subject_ids, return_inverse=True)
    scale = np.arange(1, size + 1, dtype=np.float32) ** -SPECTRUM
    centres = _directions(generator, len(subjects), scale)
    difficulty = generator.lognormal(0, np.where(plan.roles == PROBE_ROLE, PROBE_DIFFICULTY, GALLERY_DIFFICULTY))
    flat = np.ones(size, np.float32)
    template_noise = _directions(generator, len(plan.roles), flat)
    template_noise *= (TEMPLATE_NOISE * difficulty).astype(np.float32)[:, None]
    template_noise += centres[subject_of]
    media_noise = MEDIUM_NOISE * _directions(generator, MEDIA_POOL, flat)
    detector = np.empty(len(plan))

    # Row by row: noise of the image, the mirror image, and a norm and a score that fall with the noise.
    with atomic_path(path) as temporary:
        out = create_npy(temporary, np.dtype(dtype), (len(plan), 2 * size))
        for start in track(range(0, len(plan), ROWS_CHUNK), "drawing embeddings", len(plan), ROWS_CHUNK):
            rows = slice(start, min(start + ROWS_CHUNK, len(plan)))
            templates = plan.templates[rows]
            count = len(templates)
            noise = generator.gamma(4.0, IMAGE_NOISE / 4, count).astype(np.float32)
            plain = template_noise[templates] + media_noise[plan.media_ids[rows] % MEDIA_POOL]
            plain += _noise(generator, count, size, noise)
            mirrored = plain + _noise(generator, count, size, MIRROR_NOISE * noise)
            quality = 1 / (1 + noise**2 + (TEMPLATE_NOISE * difficulty[templates]) ** 2)
            norms = (12 + 16 * quality) * generator.lognormal(0, 0.05, count)
            for part, values in enumerate((plain, mirrored)):
                values *= (norms / np.linalg.norm(values, axis=1)).astype(np.float32)[:, None]
                out[rows, part * size : (part + 1) * size] = values
            detector[rows] = np.clip(0.55 + 0.6 * quality + generator.normal(0, 0.04, count), 0.5, 0.9999)
        out.flush()
        del out
    return detector


def _directions(generator: np.random.Generator, count: int, scale: np.ndarray) -> np.ndarray:
    """Returns float32 unit vectors (count, D), spread over the dimensions in proportion to `scale`."""
    values = generator.standard_normal((count, len(scale)), np.float32) * scale
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def _noise(generator: np.random.Generator, count: int, size: int, length: np.ndarray) -> np.ndarray:
    """Returns isotropic noise (count, D) of about the given lengths (count,)."""
    values = generator.standard_normal((count, size), np.float32)
    values *= (length / np.sqrt(size)).astype(np.float32)[:, None]
    return values
