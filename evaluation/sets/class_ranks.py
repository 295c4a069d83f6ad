"""Classifies the images of a data set and returns the rank of the true class of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets import FaceDataset
from facekd.data.loading.in_order import read_in_order
from facekd.utils.processes.children import usable_cores
from facekd.utils.progress import track
from facekd.verification.top_k_accuracy import true_class_ranks


def rank_images(
    dataset: FaceDataset,
    classify: Callable[[np.ndarray], dict[str, np.ndarray]],
    start: int = 0,
    stop: int | None = None,
    *,
    batch_size: int = 256,
    workers: int = 0,
    progress: str = "",
) -> dict[str, NDArray[np.int64]]:
    """Classifies images `start` to `stop` of a data set, in order and without augmentation.

    Args:
        dataset: the data set, with at least one image.
        classify: uint8 RGB (B, S, S, 3) -> scores (B, C) by classifier.
        start: the first image.
        stop: one past the last image; None takes all.
        batch_size: images classified together.
        workers: reading processes, at most one for each core; 0 reads in this process.
        progress: label of the progress bar; empty for none.

    Returns:
        For each classifier (stop - start,): how many classes came before the true one.
    """
    stop = len(dataset) if stop is None else stop
    batches = read_in_order(dataset, start, stop, batch_size, min(workers, usable_cores()))
    if progress:
        batches = track(batches, progress, stop - start, batch_size)
    # Keep the ranks of the true classes only: the scores of all images would fill the memory.
    parts: dict[str, list[NDArray[np.int64]]] = {}
    for batch in batches:
        for name, scores in classify(batch.images.numpy()).items():
            parts.setdefault(name, []).append(true_class_ranks(scores, batch.labels.numpy()))
    return {name: np.concatenate(found) for name, found in parts.items()}
