"""A part of a data set: what is trained on, and what is held out of it to choose the best checkpoint by.

Choosing the best checkpoint on the test set and reporting its accuracy there reports the luckiest of many measurements.
A part of the training images, the same for every seed, teacher and student, is for choosing; the test set is for
reporting, once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import FaceDataset, ReadsAhead
from facekd.errors import DataError
from facekd.images.crops import ResizedCrop
from facekd.utils.randomness import random_words

HELD_OUT_SEED = 0  # not the run's: runs of other seeds are compared on the same images


class SubsetDataset:
    """Some images of a data set, under numbers of their own; a `FaceDataset`.

    Args:
        whole: the data set.
        indices: (M,), the numbers of its images that are in here.
        name: for messages and logs.

    Attributes:
        whole: the data set it is a part of, which says whose the labels are (see `facekd.data.datasets.identity_map`).
    """

    def __init__(self, whole: FaceDataset, indices: NDArray[np.int64], name: str) -> None:
        self.whole = whole
        self.indices = indices
        self.name = name
        self.warnings: list[str] = list(getattr(whole, "warnings", ()))
        self.num_classes = whole.num_classes
        self.image_size = whole.image_size
        self._labels = whole.labels[indices]

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return self._labels

    def __len__(self) -> int:
        return len(self.indices)

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See `FaceDataset.load`."""
        return self.whole.load(self.indices[indices], crops, out)

    def read_ahead(self, first: int, end: int) -> None:
        """See `facekd.data.recordio.read_ahead`: what lies between them and is not in here comes along."""
        if isinstance(self.whole, ReadsAhead):
            self.whole.read_ahead(int(self.indices[first]), int(self.indices[end - 1]) + 1)

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return self.whole.describe(int(self.indices[index]))

    def take_bad_records(self) -> list[str]:
        """See `FaceDataset.take_bad_records`."""
        return self.whole.take_bad_records()


def hold_out(dataset: FaceDataset, share: float) -> tuple[SubsetDataset, SubsetDataset]:
    """Split a data set class by class: what is left to train on, and what is held out.

    Of a class of n images round(share n) are held out, at least one where there are two, never all; which ones is a
    function of their numbers alone.

    Raises:
        DataError: no class has two images.
    """
    labels = dataset.labels
    # By class, and within a class in a random order: so rank in the class says on which side an image falls.
    order = np.lexsort((random_words(HELD_OUT_SEED, "held out", np.arange(len(labels))), labels))
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    counts = np.diff(np.r_[starts, len(labels)])
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    wanted = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1).astype(np.int64)
    is_held_out = np.empty(len(labels), dtype=bool)
    is_held_out[order] = rank < np.repeat(wanted, counts)
    if not is_held_out.any():
        raise DataError(f"{dataset.name}: no class has two images, so none can be held out; set data.held_out to 0")
    rest, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    return (
        SubsetDataset(dataset, rest, f"{dataset.name} without {len(held_out):,} held out"),
        SubsetDataset(dataset, held_out, f"{len(held_out):,} images held out of {dataset.name}"),
    )
