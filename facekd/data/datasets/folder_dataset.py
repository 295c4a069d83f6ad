"""Reads labelled images from a folder with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.class_counts import count_classes, warn_of_one_class
from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import OnBadRecord
from facekd.errors import DataError
from facekd.images.image_files import Reason, list_by_folder


class FolderDataset(EncodedDataset):
    """Reads a folder with one subfolder per identity; labels number the subfolders in the order of their names.

    `facekd.images.image_files` says which files are images. `warnings` names what is left out.

    Args:
        path: the folder.
        image_size: S, side in pixels.
        on_bad_record: see `EncodedDataset`.
        resize: see `EncodedDataset`.
        center_crop: see `EncodedDataset`.
        identities: names that define the labels, when another folder decides them (test images get the labels of the
            training folder); some may have no subfolder here. None takes the subfolders themselves.

    Raises:
        DataError: no subfolders, one without images, one that is not among `identities`, or two that are one folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_size: int,
        on_bad_record: OnBadRecord = "fail",
        resize: bool = False,
        center_crop: float = 0.0,
        identities: Sequence[str] | None = None,
    ) -> None:
        # List the folder, and check that its subfolders are the classes expected.
        self.path = Path(path)
        listing = list_by_folder(self.path)
        here = listing.by_folder
        if not any(here.values()):
            raise DataError(f"{path} holds no folders with images; expected one for each identity{listing.explain()}")
        self.identities: list[str] = list(here if identities is None else identities)
        unknown = sorted(here.keys() - set(self.identities))
        if unknown:
            raise DataError(f"{path}: {unknown[0]} is not among the classes trained on ({len(unknown)} such)")
        empty = [name for name, files in here.items() if not files]
        if empty:
            raise DataError(
                f"identity folder {self.path / empty[0]} holds no image; every class "
                f"needs at least one, so add images or remove the folder{listing.explain()}"
            )

        # Images lie identity by identity; an identity without a folder here has none.
        files_of = [here.get(identity, []) for identity in self.identities]
        counts = [len(files) for files in files_of]
        paths = [
            os.fsencode(f"{identity}/{file}")
            for identity, files in zip(self.identities, files_of, strict=True)
            for file in files
        ]

        # One array rather than a list of millions of strings: touching a string's reference count in a forked
        # worker copies its page, and the workers would slowly copy the whole list.
        self._paths = np.array(paths, dtype=np.bytes_)
        self._labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        super().__init__(str(path), image_size, len(counts), on_bad_record, resize, center_crop)

        # Warn about what is not read.
        for name in listing.outside:
            listing.left_out.add(Reason.OUTSIDE, name)
        self.warnings += listing.left_out.warnings()
        if identities is None:
            self.warnings += warn_of_one_class(count_classes(self._labels), self.advice_on_one_class)
        self.check()

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return self._labels

    def path_of(self, index: int) -> Path:
        """Returns the path of image `index`."""
        return self.path / os.fsdecode(bytes(self._paths[index]))

    def read_encoded(self, index: int) -> tuple[bytes, int]:
        """See `EncodedDataset.read_encoded`."""
        return self.path_of(index).read_bytes(), int(self._labels[index])

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return str(self.path_of(index))

    def advice_on_labels(self) -> str:
        """See `EncodedDataset.advice_on_labels`."""
        return f"The number of classes, {self.num_classes:,}, is the number of subfolders"

    def advice_on_one_class(self) -> str:
        """See `EncodedDataset.advice_on_one_class`."""
        return f"{self.path} should hold one subfolder for each person, and holds {', '.join(self.identities[:3])} only"
