"""Score normalisation, against loops over pairs and images of the cohort."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import score_norm
from facekd.verification.score_norm import cohort_statistics, normalise_scores


def unit(count: int, seed: int, size: int = 6) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_side(score: float, image: np.ndarray, cohort: np.ndarray, top: int | None) -> float:
    scores = sorted((float(image @ other) for other in cohort), reverse=True)[:top]
    mean = fmean(scores)
    return (score - mean) / math.sqrt(fmean([(one - mean) ** 2 for one in scores]))


@pytest.mark.parametrize(("kind", "top"), [("z", None), ("s", None), ("as", 7), ("as", 100)])
def test_scores_are_those_of_loops(kind: str, top: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_norm, "CELLS_CHUNK", 100)  # several blocks
    images, cohort = unit(12, 0), unit(30, 1)
    first, second = np.triu_indices(12, 1)
    scores = np.einsum("pd,pd->p", images[first], images[second])
    found = normalise_scores(kind, scores, first, second, cohort_statistics(images, cohort, top))  # type: ignore[arg-type]
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        sides = [naive_side(scores[pair], images[image], cohort, top) for image in (one, other)]
        assert found[pair] == pytest.approx(sides[0] if kind == "z" else fmean(sides))


def test_the_highest_scores_and_bad_cohorts() -> None:
    images, cohort = unit(4, 0), unit(9, 1)
    np.testing.assert_allclose(cohort_statistics(images, cohort).highest, (images @ cohort.T).max(axis=1))
    with pytest.raises(InputError, match="1 score with the cohort counts for each image; at least 2"):
        cohort_statistics(images, cohort[:1])
    with pytest.raises(InputError, match="embeddings have 6 values, and those of the cohort 5"):
        cohort_statistics(images, unit(9, 1, 5))
    with pytest.raises(InputError, match="4 images have the same score with all 3 images"):
        cohort_statistics(images, np.repeat(cohort[:1], 3, axis=0))
