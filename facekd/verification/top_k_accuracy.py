"""How well scores classify: the rank of the true class, top-k accuracy and its interval. Pure numpy.

Shapes: B images, C classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.errors import InputError

TOP_K = (1, 5)


def true_class_ranks(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """How many classes come before the true one, (B,): 0 where it is first.

    Classes of equal score come in the order of their numbers, as with argmax: a model that says the same of all classes
    is right about class 0 only, not about every image.

    Args:
        scores: (B, C) logits or probabilities.
        labels: (B,), each 0 <= label < C.

    Raises:
        InputError: shapes that do not fit, a label out of range, or a score that is not finite.
    """
    scores_BC, labels_B = np.asarray(scores), np.asarray(labels, dtype=np.int64)
    if scores_BC.ndim != 2 or labels_B.shape != scores_BC.shape[:1]:
        raise InputError(f"scores of shape {scores_BC.shape} do not fit labels of shape {labels_B.shape}")
    if not np.isfinite(scores_BC).all():
        raise InputError("a score is not finite: the model is broken, or its preprocessing is")
    num_classes = scores_BC.shape[1]
    if labels_B.size and not (labels_B.min() >= 0 and labels_B.max() < num_classes):
        raise InputError(f"labels run from {labels_B.min()} to {labels_B.max()}, the scores of {num_classes}")
    true_B1 = np.take_along_axis(scores_BC, labels_B[:, None], 1)
    comes_before = (scores_BC > true_B1) | ((scores_BC == true_B1) & (np.arange(num_classes) < labels_B[:, None]))
    return comes_before.sum(1)


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval of a share by its score test (Wilson 1927); 95 % by default.

    It holds near 0 and 1 too, and says how far a share of `trials` independent images may be off, not how far another
    training run may land.

    Raises:
        InputError: no trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials} is no share")
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def top_k_accuracy(ranks: NDArray[np.int64], num_classes: int) -> dict[int, float]:
    """k -> share of images whose true class is among the first k, for 1 and 5; a k that takes in all is left out."""
    return {k: float((ranks < k).mean()) for k in TOP_K if k == 1 or k < num_classes}
