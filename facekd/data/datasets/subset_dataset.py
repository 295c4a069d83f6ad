"""Splits a data set into a part to train on and a part to choose the best checkpoint by.

If the best checkpoint were chosen on the test set and its accuracy reported there, the report would show the luckiest
of many measurements. So a part of the training images, the same for every seed, teacher and student, is held out for
the choice, and the test set is used once, for the report.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import FaceDataset, ReadsAhead
from facekd.errors import DataError
from facekd.images.crops import ResizedCrop
from facekd.utils.randomness import random_words
from facekd.utils.wording import counted

HELD_OUT_SEED = 0  # not the run's seed, so that runs of all seeds are compared on the same images


class SubsetDataset:
    """Selects some images of a data set and numbers them from 0; a `FaceDataset`.

    Args:
        whole: the data set.
        indices: (M,), numbers of the images to select, ascending.
        name: name for messages and logs.

    Attributes:
        whole: the data set, which defines the labels (see `facekd.data.datasets.identity_map`).
    """

    has_labels = True

    def __init__(self, whole: FaceDataset, indices: NDArray[np.int64], name: str) -> None:
        self.whole = whole
        self.indices = indices
        self.name = name
        self.warnings: list[str] = list(getattr(whole, "warnings", ()))
        self.num_classes: int = whole.num_classes
        self.image_size: int = whole.image_size
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

    def keep_stand_ins_inside(self) -> None:
        """Lets no image of the other part take the place of a bad one, wherever the whole data set is used."""
        if isinstance(self.whole, EncodedDataset):
            self.whole.stand_ins = self.indices

    def read_ahead(self, first: int, end: int) -> None:
        """See `ReadsAhead`. Images between the two that are not in this part are read too."""
        if isinstance(self.whole, ReadsAhead):
            self.whole.read_ahead(int(self.indices[first]), int(self.indices[end - 1]) + 1)

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return self.whole.describe(int(self.indices[index]))

    def take_bad_records(self) -> list[str]:
        """See `FaceDataset.take_bad_records`."""
        return self.whole.take_bad_records()


def hold_out(dataset: FaceDataset, share: float) -> tuple[SubsetDataset, SubsetDataset]:
    """Splits a data set, class by class, into the part to train on and the part held out.

    round(share n) of the n images of a class are held out: at least one if there are two, and never all. Which ones
    depends on their numbers alone.

    Raises:
        DataError: no class has two images.
    """
    # Order the images by class, and randomly within a class: the first ones of each class are held out.
    labels = dataset.labels
    order = np.lexsort((random_words(HELD_OUT_SEED, "held out", np.arange(len(labels))), labels))
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    counts = np.diff(np.r_[starts, len(labels)])
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    # How many of each class.
    wanted = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1).astype(np.int64)
    is_held_out = np.empty(len(labels), dtype=bool)
    is_held_out[order] = rank < np.repeat(wanted, counts)
    if not is_held_out.any():
        raise DataError(f"{dataset.name}: no class has two images, so none can be held out; set data.held_out to 0")
    rest, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    return (
        SubsetDataset(dataset, rest, f"{dataset.name} without {len(held_out):,} held out"),
        SubsetDataset(dataset, held_out, f"{counted(len(held_out), 'image')} held out of {dataset.name}"),
    )
