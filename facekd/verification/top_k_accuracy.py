"""Measures how well scores classify: the rank of the true class and top-k accuracy. Pure numpy.

Shapes: B images, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.errors import InputError

TOP_K = (1, 5)


def true_class_ranks(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Returns how many classes come before the true one, (B,): 0 if it is first.

    Classes with equal scores are ordered by their numbers, as with argmax: a model that scores all classes alike is
    right about class 0 only, not about every image.

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
    # Before the true class come those with a higher score, and those with an equal one and a lower number.
    true_B1 = np.take_along_axis(scores_BC, labels_B[:, None], 1)
    comes_before = (scores_BC > true_B1) | ((scores_BC == true_B1) & (np.arange(num_classes) < labels_B[:, None]))
    return comes_before.sum(1)


def top_k_accuracy(ranks: NDArray[np.int64], num_classes: int) -> dict[int, float]:
    """Returns the share of images whose true class is among the first k, by k: 1, and 5 if there are more classes."""
    return {k: float((ranks < k).mean()) for k in TOP_K if k == 1 or k < num_classes}
