"""Normalises scores by how each of the two images compares with a cohort: faces of people who are not evaluated.

Images differ in how high they score with strangers: one that everybody resembles needs a higher threshold. From the
scores of an image with all M images of a cohort follow a mean and a standard deviation (the population's, divided
by M); a score s of the images a and b becomes

    Z norm:   (s - mean_a) / std_a, where a is the first image of the pair, the one that is enrolled
    S norm:   ((s - mean_a) / std_a + (s - mean_b) / std_b) / 2
    adaptive S norm:  the same, with mean and std of the K highest scores of each image with the cohort

The adaptive one is what speaker verification calls AS-norm1. Sources: R. Auckenthaler, M. Carey, H. Lloyd-Thomas,
"Score normalization for text-independent speaker verification systems", Digital Signal Processing 10, 2000 (Z norm);
P. Matejka et al., "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017 (S norm and
the adaptive ones).

Shapes: N images, M images of the cohort, P pairs, D embedding values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted

ScoreNorm = Literal["z", "s", "as"]
SCORE_NORMS: dict[ScoreNorm, str] = {"z": "Z norm", "s": "S norm", "as": "adaptive S norm"}
CELLS_CHUNK = 8_000_000  # scores of images with the cohort at once: 64 MB
MIN_COHORT = 2  # a standard deviation needs two scores


@dataclass(frozen=True)
class CohortStatistics:
    """Describes the scores of each image with the cohort: `mean`, `std` and `highest`, float64 (N,) each."""

    mean: np.ndarray
    std: np.ndarray
    highest: np.ndarray


def cohort_statistics(embeddings: np.ndarray, cohort: np.ndarray, top: int | None = None) -> CohortStatistics:
    """Measures the scores of images with a cohort.

    Args:
        embeddings: (N, D) of unit length.
        cohort: (M, D) of unit length.
        top: K, how many of the highest scores count; None for all.

    Raises:
        InputError: too few images in the cohort, other values than D, or an image whose scores are all equal.
    """
    count = len(cohort) if top is None else min(top, len(cohort))
    if count < MIN_COHORT:
        raise InputError(
            f"{counted(count, 'score with the cohort counts', 'scores with the cohort count')} for each image; at "
            f"least {MIN_COHORT} are needed"
        )
    if embeddings.shape[1:] != cohort.shape[1:]:
        raise InputError(
            f"embeddings have {counted(embeddings.shape[1], 'value')}, and those of the cohort {cohort.shape[1]}"
        )
    across = cohort.astype(np.float64).T
    mean, std, highest = (np.empty(len(embeddings)) for _ in range(3))
    step = max(CELLS_CHUNK // len(cohort), 1)
    for start in range(0, len(embeddings), step):
        some = slice(start, start + step)
        scores = embeddings[some].astype(np.float64) @ across
        highest[some] = scores.max(axis=1)
        if count < len(cohort):
            scores = np.partition(scores, len(cohort) - count, axis=1)[:, len(cohort) - count :]
        mean[some], std[some] = scores.mean(axis=1), scores.std(axis=1)
    flat = np.flatnonzero(~(std > 1e-12))
    if flat.size:
        raise InputError(
            f"{counted(flat.size, 'image has', 'images have')} the same score with all {counted(count, 'image')} of "
            f"the cohort that count, the first image {flat[0]}: no scale can be made of "
            f"{agreeing(flat.size, 'it', 'them')}"
        )
    return CohortStatistics(mean, std, highest)


def normalise_scores(
    kind: ScoreNorm, scores: np.ndarray, first: np.ndarray, second: np.ndarray, statistics: CohortStatistics
) -> np.ndarray:
    """Normalises the scores of pairs.

    Args:
        kind: "z", "s" or "as"; the last differs from "s" only in the statistics, see `cohort_statistics`.
        scores: (P,).
        first, second: integer (P,), the images of each pair.
        statistics: of the N images.

    Returns:
        float64 (P,); no cosines any more, and not between -1 and 1.
    """
    sides = (first,) if kind == "z" else (first, second)
    normalised = [(scores - statistics.mean[side]) / statistics.std[side] for side in sides]
    return normalised[0] if kind == "z" else (normalised[0] + normalised[1]) / 2
