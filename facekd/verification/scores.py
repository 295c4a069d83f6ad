"""Checks the input of verification metrics: scores, labels and folds. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError


def checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    """Returns finite float32 or float64 (n,), n >= 1; float32 stays float32. Raises `InputError` naming `name`."""
    array = np.asarray(values)
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
        first = int(np.argmin(finite))
        raise InputError(
            f"{name}: {array.size - int(finite.sum()):,} of {array.size:,} scores are not finite, the first at "
            f"position {first} ({array[first]}); look for NaN in the embeddings"
        )
    return array


def checked_score_pair(genuine: ArrayLike, impostor: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both kinds, checked and of one dtype."""
    first, second = checked_scores(genuine, "genuine"), checked_scores(impostor, "impostor")
    dtype = np.result_type(first, second)  # a threshold just above a score must be so for both kinds
    return first.astype(dtype, copy=False), second.astype(dtype, copy=False)


def checked_is_same(is_same: ArrayLike, num_pairs: int) -> np.ndarray:
    """Returns labels, given as bool or 0 / 1, as bool (N,)."""
    array = np.asarray(is_same)
    if array.shape != (num_pairs,):
        raise InputError(f"is_same has shape {array.shape}; expected ({num_pairs},), one a score")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
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
    given = np.asarray(folds)
    if given.dtype.kind not in "iu":
        raise InputError(f"folds must be a number of folds or an integer array, found {folds!r}")
    if given.ndim == 0:
        count = int(given)
        if not 2 <= count <= num_pairs:
            raise InputError(f"folds must lie between 2 and the {num_pairs:,} pairs there are; found {count}")
        sizes = np.full(count, num_pairs // count)
        sizes[: num_pairs % count] += 1
        return np.repeat(np.arange(count), sizes)
    # The fold of each pair, as recorded with a pack.
    if given.shape != (num_pairs,):
        raise InputError(f"fold numbers have shape {given.shape}; expected ({num_pairs},), one a pair")
    if num_pairs == 0 or given.min() < 0 or not np.array_equal(np.unique(given), np.arange(given.max() + 1)):
        raise InputError("fold numbers must run from 0 to K-1 with pairs in each fold")
    if given.max() == 0:
        raise InputError("at least two folds are needed: the threshold of one is chosen on the others")
    return given.astype(np.int64)
