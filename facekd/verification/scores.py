"""Computes cosines, and checks the input of verification metrics: embeddings, scores, labels and folds. Pure numpy."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.errors import DataError, FacekdError, InputError
from facekd.utils.wording import agreeing, counted


def unit_rows(
    embeddings: np.ndarray,
    refusal: Callable[[NDArray[np.int64]], FacekdError] | None,
    needed: NDArray[np.bool_] | None = None,
) -> np.ndarray:
    """Divides each embedding by its length.

    Args:
        embeddings: float (N, D).
        refusal: makes the error to raise from the rows without a direction (all zeros, or not finite), ascending; with
            None such rows are not refused.
        needed: (N,), whether a row must have a direction; by default every row must.

    Returns:
        (N, D) of the type of `embeddings`; zeros stay zeros.
    """
    moderate = _moderate_rows(embeddings)
    lengths = np.linalg.norm(moderate, axis=1, keepdims=True)
    bad = np.flatnonzero(~_has_direction(lengths[:, 0]) & (True if needed is None else needed))
    if bad.size and refusal is not None:
        raise refusal(bad)
    return (moderate / np.where(lengths > 0, lengths, 1)).astype(embeddings.dtype, copy=False)


def cosines(first: np.ndarray, second: np.ndarray, where: str | os.PathLike[str]) -> np.ndarray:
    """Computes the cosine of the two embeddings of each pair: float64 (N,).

    Args:
        first, second: (N, D); messages call the images of pair i 2i and 2i + 1.
        where: the pair set, for messages.

    Raises:
        DataError: an embedding that is not finite or has no direction, naming its image and pair.
    """
    first, second = _moderate_rows(first.astype(np.float64)), _moderate_rows(second.astype(np.float64))
    lengths = np.stack([np.linalg.norm(side, axis=1) for side in (first, second)], axis=1)
    bad = np.flatnonzero(~_has_direction(lengths))
    if bad.size:
        image = int(bad[0])
        found = "all zeros" if lengths.flat[image] == 0 else "not finite"
        raise DataError(
            f"{where}: the {agreeing(bad.size, 'embedding')} of {bad.size:,} of {counted(lengths.size, 'image')} "
            f"{agreeing(bad.size, 'has', 'have')} no direction; the first, image {image} (pair {image // 2}), is "
            f"{found}: the model is broken or its preprocessing wrong"
        )
    # Rounding can leave the cosine of two equal images a hair above 1.
    return np.clip(np.einsum("nd,nd->n", first, second) / (lengths[:, 0] * lengths[:, 1]), -1.0, 1.0)


def score_error(embedding_size: int) -> float:
    """Returns the bound on how far a float32 product of unit rows can be from their float64 cosine.

    `evaluation.ijb.scoring` derives it.
    """
    unit = 2.0**-24
    terms = (embedding_size + 4) * unit
    return terms / (1 - terms)


def _moderate_rows(embeddings: np.ndarray) -> np.ndarray:
    """Returns float32 or float64 rows of the same directions, whose squares can be added up.

    Squares overflow in float16 from 256 on, and vanish in float32 below 1e-23. Rows of such sizes are multiplied by a
    power of two, which is exact.
    """
    rows = embeddings.astype(np.float32) if embeddings.dtype == np.float16 else embeddings
    if not rows.size:
        return rows
    peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    most = np.finfo(rows.dtype).max ** 0.25
    extreme = np.isfinite(peaks) & (peaks > 0) & ((peaks > most) | (peaks < 1 / most))
    if extreme.any():
        rows = rows.copy()
        rows[extreme] = np.ldexp(rows[extreme], -np.frexp(peaks[extreme])[1][:, None])
    return rows


def _has_direction(lengths: np.ndarray) -> NDArray[np.bool_]:
    return np.isfinite(lengths) & (lengths > 0)


def as_array(values: ArrayLike, name: str) -> np.ndarray:
    """Returns what a caller gave as an array of any type and shape.

    Raises:
        InputError: it is none, such as rows of different lengths or a tensor with a gradient; or some of its values
            are masked, which numpy would take for values.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: expected an array of numbers: {error}") from error
    if np.ma.is_masked(values):
        raise InputError(f"{name}: some values are masked; take them out first, such as by `.compressed()`")
    return array


def checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    """Returns finite float32 or float64 (n,), n >= 1; float32 stays float32. Raises `InputError` naming `name`."""
    array = as_array(values, name)
    if array.ndim != 1:
        raise InputError(f"{name}: expected a one-dimensional array of scores, found shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{name}: no scores; verification needs genuine and impostor comparisons")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected real numbers, found {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        first, num_bad = int(np.argmin(finite)), array.size - int(finite.sum())
        raise InputError(
            f"{name}: {num_bad:,} of {counted(array.size, 'score')} {agreeing(num_bad, 'is', 'are')} not finite, the "
            f"first at position {first} ({array[first]}); look for NaN in the embeddings"
        )
    return array


def checked_score_pair(genuine: ArrayLike, impostor: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both kinds, checked and of one dtype."""
    first, second = checked_scores(genuine, "genuine"), checked_scores(impostor, "impostor")
    dtype = np.result_type(first, second)  # a threshold just above a score must be so for both kinds
    return first.astype(dtype, copy=False), second.astype(dtype, copy=False)


def checked_is_same(is_same: ArrayLike, num_pairs: int) -> np.ndarray:
    """Returns labels, given as bool or 0 / 1, as bool (N,)."""
    array = as_array(is_same, "is_same")
    if array.shape != (num_pairs,):
        raise InputError(f"is_same has shape {array.shape}; expected ({num_pairs},), one a score")
    if array.dtype != np.bool_ and not (array.dtype.kind in "fiuO" and np.isin(array, (0, 1)).all()):
        raise InputError("is_same holds values other than True and False (or 1 and 0)")
    return array.astype(bool)


def fold_indices(num_pairs: int, folds: int | ArrayLike) -> np.ndarray:
    """Returns the fold of each pair, from 0: int64 (N,).

    Args:
        num_pairs: N.
        folds: number of contiguous folds, or (N,) fold numbers 0..K-1, with pairs in every fold.

    Raises:
        InputError: fewer than two folds, fewer pairs than folds, wrong length, an empty fold.
    """
    # A number of folds: contiguous ones, the first larger by one pair where the division leaves a remainder.
    given = as_array(folds, "folds")
    if given.dtype.kind not in "iu":
        raise InputError(f"folds must be a number of folds or an integer array, found {folds!r}")
    if given.ndim == 0:
        count = int(given)
        if not 2 <= count <= num_pairs:
            raise InputError(
                f"folds must lie between 2 and the {counted(num_pairs, 'pair')} there "
                f"{agreeing(num_pairs, 'is', 'are')}; found {count}"
            )
        sizes = np.full(count, num_pairs // count)
        sizes[: num_pairs % count] += 1
        return np.repeat(np.arange(count), sizes)
    # The fold of each pair, as recorded with a pack.
    if given.shape != (num_pairs,):
        raise InputError(f"fold numbers have shape {given.shape}; expected ({num_pairs},), one a pair")
    distinct = np.unique(given)
    if num_pairs == 0 or not np.array_equal(distinct, np.arange(len(distinct))):
        raise InputError("fold numbers must run from 0 to K-1 with pairs in each fold")
    if given.max() == 0:
        raise InputError("at least two folds are needed: the threshold of one is chosen on the others")
    return given.astype(np.int64)
