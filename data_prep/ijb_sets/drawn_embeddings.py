"""Embeddings drawn in place of images, for IJB-style sets whose images nobody has: realistic in shape and difficulty.

A subject is a direction with a decaying spectrum, so that some people are alike. What a template, a medium and an image
add to it is noise of its own; a few templates are far worse than the others (profile, low resolution), which is where
TAR is lost at strict FARs. Norms and detector scores fall with the noise, as those of real models do. Pooled and scored
the usual way, a set of IJB-C's size gives a TAR of about 89, 92 and 95 % at FAR 1e-6, 1e-5 and 1e-4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.ijb_sets.plan import PROBE_ROLE, IjbPlan
from facekd.utils.files import atomic_path
from facekd.utils.progress import track

ROWS_AT_ONCE = 8192
MEDIA_POOL = 4096  # directions that media take their noise from
SPECTRUM = 0.35  # how fast the variance of subjects decays over the dimensions
TEMPLATE_NOISE, MEDIUM_NOISE, IMAGE_NOISE, MIRROR_NOISE = 0.75, 0.7, 0.9, 0.25
GALLERY_DIFFICULTY, PROBE_DIFFICULTY = 0.25, 0.75  # log-normal spread of the template noise


def write_embeddings(path: Path, plan: IjbPlan, size: int = 512, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Write embeddings of all rows, (M, 2 size) with the mirror images' behind, as .npy.

    Args:
        path: of the file.
        plan: the set.
        size: D.
        seed: of all draws; equal seeds give equal bytes.
        dtype: float32 or float16.

    Returns:
        float64 (M,): a detector score for each row, in (0.5, 1).

    Raises:
        OSError: the file cannot be written.
    """
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

    with atomic_path(path) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.dtype(dtype), (len(plan), 2 * size))
        for start in track(range(0, len(plan), ROWS_AT_ONCE), "drawing embeddings", len(plan), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(plan)))
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
    """Unit vectors (count, D), float32, spread over the dimensions as `scale` says."""
    values = generator.standard_normal((count, len(scale)), np.float32) * scale
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def _noise(generator: np.random.Generator, count: int, size: int, length: np.ndarray) -> np.ndarray:
    """Isotropic noise (count, D) of about the given lengths (count,)."""
    values = generator.standard_normal((count, size), np.float32)
    values *= (length / np.sqrt(size)).astype(np.float32)[:, None]
    return values
