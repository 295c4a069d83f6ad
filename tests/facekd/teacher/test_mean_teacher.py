"""Tests the mean of several teachers' directions against loops, and that it checks and names all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from facekd.errors import TeacherError
from facekd.teacher.mean_teacher import MeanTeacher, joined_fingerprint


class Fixed:
    """Stands for a teacher that gives the same embeddings for every batch."""

    def __init__(self, embeddings: np.ndarray, fingerprint: str = "") -> None:
        self.rows, self.fingerprint, self.embedding_size = (
            torch.from_numpy(embeddings),
            fingerprint,
            embeddings.shape[1],
        )
        self.checks = 0

    def embed(self, batch: Any) -> torch.Tensor:
        return self.rows

    def check_finite(self) -> None:
        self.checks += 1


def embeddings(seed: int, size: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(7, size)).astype(np.float32)


def test_the_mean_is_that_of_directions_whatever_the_lengths() -> None:
    first, second = embeddings(1), 100 * embeddings(2)
    found = MeanTeacher([Fixed(first), Fixed(second)], [0.25, 0.75]).embed(None)  # type: ignore[arg-type, list-item]
    for row, a, b in zip(found.double().numpy(), first.astype(float), second.astype(float), strict=True):
        mean = a / np.linalg.norm(a) + 3 * b / np.linalg.norm(b)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert found.dtype == torch.float32


def test_teachers_that_cancel_out_and_dead_embeddings_give_no_direction() -> None:
    first = embeddings(1)
    first[3] = 0
    found = MeanTeacher([Fixed(first), Fixed(-2 * first)], [0.5, 0.5]).embed(None)  # type: ignore[arg-type, list-item]
    assert not found[3].any() and found.isfinite().all()
    assert found.norm(dim=1).max() < 1.001


def test_all_are_checked_and_all_make_the_fingerprint() -> None:
    teachers = [Fixed(embeddings(seed), name) for seed, name in enumerate("ab")]
    mean = MeanTeacher(teachers, [0.5, 0.5])  # type: ignore[arg-type]
    mean.check_finite()
    assert [teacher.checks for teacher in teachers] == [1, 1]
    assert mean.embedding_size == 5 and mean.fingerprint == joined_fingerprint(teachers)  # type: ignore[arg-type]
    others = [teachers[::-1], teachers[:1], [teachers[0], Fixed(embeddings(0), "c")], []]
    assert len({joined_fingerprint(some) for some in [teachers, *others]}) == 5  # type: ignore[arg-type]
    assert joined_fingerprint(teachers[:1]) == "a"  # type: ignore[arg-type]


def test_two_sizes_have_no_mean() -> None:
    with pytest.raises(TeacherError, match=r"embed to 5, 6 values.*combine_teachers to 'each'"):
        MeanTeacher([Fixed(embeddings(1)), Fixed(embeddings(2, 6))], [0.5, 0.5])  # type: ignore[list-item]
