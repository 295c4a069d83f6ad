"""Tests cosines and unit vectors, and which embeddings have none."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import DataError, InputError
from facekd.verification.scores import cosines, fold_indices, unit_rows


def test_cosines_are_those_of_each_pair():
    first, second = np.random.default_rng(0).normal(size=(2, 40, 12)).astype(np.float32)
    naive = [
        float(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other)))
        for one, other in zip(first.astype(float), second.astype(float), strict=True)
    ]
    np.testing.assert_allclose(cosines(first, second, "pack"), naive, atol=1e-12)
    np.testing.assert_allclose(cosines(first * 37, second * 37, "pack"), naive, atol=1e-7)
    assert cosines(first, first, "pack").max() <= 1


@pytest.mark.parametrize(("value", "found"), [(0, "all zeros"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_an_embedding_without_direction_is_refused_naming_its_pair(value, found):
    embeddings = np.ones((80, 12), np.float32)
    embeddings[[31, 50]] = value
    with pytest.raises(DataError, match=rf"^lfw\.bin: .* 2 of 80 images .* image 31 \(pair 15\), is {found}"):
        cosines(embeddings[0::2], embeddings[1::2], "lfw.bin")


def test_rows_become_unit_vectors_unless_they_have_no_direction():
    embeddings = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    embeddings[2], embeddings[4] = 0, np.nan

    def refusal(rows: np.ndarray) -> InputError:
        return InputError(f"no direction: {rows.tolist()}")

    with pytest.raises(InputError, match=r"no direction: \[2, 4\]"):
        unit_rows(embeddings, refusal)
    with pytest.raises(InputError, match=r"no direction: \[4\]"):
        unit_rows(embeddings, refusal, needed=np.arange(6) != 2)
    units = unit_rows(embeddings, None)
    assert units.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), [1, 1, 0, 1, np.nan, 1], rtol=1e-6)


@pytest.mark.parametrize("folds", [[0, 0, 2], [0, 1, -1], [0, 1, 1 << 45]])
def test_fold_numbers_have_no_gaps_and_take_no_memory(folds: list[int]) -> None:
    with pytest.raises(InputError, match="from 0 to K-1"):
        fold_indices(3, folds)


def test_folds_are_int64_whatever_they_were() -> None:
    assert fold_indices(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    given = fold_indices(4, np.array([1, 0, 1, 2], np.uint8))
    assert given.dtype == fold_indices(7, 3).dtype == np.int64 and given.tolist() == [1, 0, 1, 2]
