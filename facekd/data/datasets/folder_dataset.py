"""Reads labelled images from a folder with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import OnBadRecord
from facekd.errors import DataError
from facekd.utils.files import is_file, is_folder

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class FolderDataset(EncodedDataset):
    """Image files in a folder, one subfolder an identity; labels number the subfolders in order of their names.

    Links are followed; one that leads nowhere, or round in a loop, is neither a subfolder nor an image.

    Args:
        path: the folder.
        image_size: S, side in pixels.
        on_bad_record: see `EncodedDataset`.
        resize: see `EncodedDataset`.
        center_crop: see `EncodedDataset`.
        identities: names of the subfolders and so the numbers of the labels, where another folder decides them; of
            some there may be no images here.

    Raises:
        DataError: no subfolders, one without images, or one that is not among `identities`.
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
        self.path = Path(path)
        here = sorted(subfolders(self.path))
        if not here:
            raise DataError(f"{path} holds no subfolders; expected one for each identity, with its images in it")
        self.identities: list[str] = here if identities is None else list(identities)
        unknown = sorted(set(here) - set(self.identities))
        if unknown:
            raise DataError(f"{path}: {unknown[0]} is not among the classes trained on ({len(unknown)} such)")
        paths: list[bytes] = []
        counts: list[int] = []
        for identity in self.identities:
            if identity not in here:
                counts.append(0)
                continue
            found = sorted(_image_files(self.path / identity))
            if not found:
                raise DataError(
                    f"identity folder {self.path / identity} holds no image ({', '.join(IMAGE_SUFFIXES)}); every class "
                    "needs at least one, so add images or remove the folder"
                )
            paths += [os.fsencode(f"{identity}/{file}") for file in found]
            counts.append(len(found))
        # One array rather than a list of millions of strings: touching a string's reference count in a forked
        # worker copies its page, and the workers would slowly copy the whole list.
        self._paths = np.array(paths, dtype=np.bytes_)
        self._labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        super().__init__(str(path), image_size, len(counts), on_bad_record, resize, center_crop)
        self.check()

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return self._labels

    def path_of(self, index: int) -> Path:
        """The file of image `index`."""
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


def subfolders(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def _image_files(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".") and is_file(entry)
        )
