"""Tests cosines and unit vectors, and which embeddings have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 30), place=st.floats(0, 1), size=st.sampled_from([1, 3, 64]))
def test_directions_of_huge_and_of_denormal_embeddings_are_those_of_moderate_ones(dtype, seed, place, size):
    # From the smallest normal numbers to a quarter of the largest, in powers of two, which change no other bit.
    info = np.finfo(dtype)
    lowest, highest = np.log2([float(info.smallest_normal) * 16, float(info.max) / 4])
    moderate = np.random.default_rng(seed).uniform(1, 2, (2, 5, size)).astype(dtype)
    extreme = np.ldexp(moderate, int(lowest + place * (highest - lowest))).astype(dtype)
    extreme[0, 0] = np.ldexp(moderate[0, 0], 3)
    assert np.isfinite(extreme).all()
    wide = moderate.astype(np.float64)
    expected = np.einsum("nd,nd->n", *wide) / np.linalg.norm(wide, axis=2).prod(axis=0)
    np.testing.assert_allclose(cosines(*extreme, "pack"), expected, rtol=1e-13)
    units = unit_rows(extreme[0], InputError)
    assert units.dtype == dtype
    naive = wide[0] / np.linalg.norm(wide[0], axis=1, keepdims=True)
    np.testing.assert_allclose(units, naive, rtol=4 * float(info.eps), atol=float(info.smallest_subnormal))
    # The very smallest numbers have few bits, but a direction.
    assert unit_rows(np.full((1, 1), info.smallest_subnormal), InputError) == 1


@pytest.mark.parametrize("folds", [[0, 0, 2], [0, 1, -1], [0, 1, 1 << 45]])
def test_fold_numbers_have_no_gaps_and_take_no_memory(folds: list[int]) -> None:
    with pytest.raises(InputError, match="from 0 to K-1"):
        fold_indices(3, folds)


def test_folds_are_int64_whatever_they_were() -> None:
    assert fold_indices(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    given = fold_indices(4, np.array([1, 0, 1, 2], np.uint8))
    assert given.dtype == fold_indices(7, 3).dtype == np.int64 and given.tolist() == [1, 0, 1, 2]
