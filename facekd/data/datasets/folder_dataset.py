"""Reads image files: from a folder with one subfolder per class, or from anywhere in a folder, without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.class_counts import count_classes, warn_of_one_class
from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import OnBadRecord
from facekd.errors import DataError, ImageError, RecordError
from facekd.images.image_files import Reason, explain_no_images, list_by_folder, list_nested, read_named_image
from facekd.utils.foreign import shown, some_of


class ImageFileDataset(EncodedDataset):
    """Reads image files below a folder.

    Args:
        path: the folder.
        names: paths of the images relative to it.
        labels: (N,), their labels.
        num_classes: see `EncodedDataset`.
        image_size: see `EncodedDataset`.
        on_bad_record: see `EncodedDataset`.
        resize: see `EncodedDataset`.
        center_crop: see `EncodedDataset`.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        labels: NDArray[np.int64],
        num_classes: int,
        image_size: int,
        on_bad_record: OnBadRecord,
        resize: bool,
        center_crop: float,
    ) -> None:
        self.path = path
        # One array rather than a list of millions of strings: touching a string's reference count in a forked
        # worker copies its page, and the workers would slowly copy the whole list.
        self._paths = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self._labels = labels
        super().__init__(str(path), image_size, num_classes, on_bad_record, resize, center_crop)

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return self._labels

    def path_of(self, index: int) -> Path:
        """Returns the path of image `index`."""
        return self.path / self.name_of(index)

    def name_of(self, index: int) -> PurePosixPath:
        """Returns the path of image `index` below the folder."""
        return PurePosixPath(os.fsdecode(bytes(self._paths[index])))

    def read_encoded(self, index: int) -> tuple[bytes, int]:
        """See `EncodedDataset.read_encoded`."""
        try:
            return read_named_image(self.path_of(index)), int(self._labels[index])
        except ImageError as error:
            raise RecordError(str(error)) from error

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return str(self.path_of(index))


class UnlabelledFolderDataset(ImageFileDataset):
    """Reads the images at any depth below a folder, folder by folder; all have label 0, which means nothing.

    Args:
        path: the folder.
        image_size: S, side in pixels.
        on_bad_record: see `EncodedDataset`.
        resize: see `EncodedDataset`.
        center_crop: see `EncodedDataset`.

    Raises:
        DataError: there is no image.
    """

    has_labels = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_size: int,
        on_bad_record: OnBadRecord = "fail",
        resize: bool = False,
        center_crop: float = 0.0,
    ) -> None:
        names, left_out = list_nested(Path(path))
        if not names:
            raise DataError(f"{path} holds no images{explain_no_images(left_out)}")
        labels = np.zeros(len(names), dtype=np.int64)
        super().__init__(Path(path), names, labels, 1, image_size, on_bad_record, resize, center_crop)
        self.warnings.extend(left_out.warnings())
        self.check()

    def advice_on_labels(self) -> str:
        """See `EncodedDataset.advice_on_labels`."""
        return "They are all 0"

    def advice_on_one_class(self) -> str:
        """See `EncodedDataset.advice_on_one_class`."""
        return "They have no labels"


class FolderDataset(ImageFileDataset):
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
        listing = list_by_folder(Path(path))
        here = listing.by_folder
        if not any(here.values()):
            raise DataError(
                f"{path} holds no folders with images; expected one for each identity{listing.explain()} (distillation "
                "by embeddings alone needs no identities: data.unlabelled)"
            )
        self.identities: list[str] = list(here if identities is None else identities)
        unknown = sorted(here.keys() - set(self.identities))
        if unknown:
            raise DataError(f"{path}: {shown(unknown[0])} is not among the classes trained on ({len(unknown)} such)")
        empty = [name for name, files in here.items() if not files]
        if empty:
            raise DataError(
                f"{path}: identity folder {shown(empty[0])} holds no image; every class "
                f"needs at least one, so add images or remove the folder{listing.explain()}"
            )

        # Images lie identity by identity; an identity without a folder here has none.
        files_of = [here.get(identity, []) for identity in self.identities]
        counts = [len(files) for files in files_of]
        names = [
            f"{identity}/{file}" for identity, files in zip(self.identities, files_of, strict=True) for file in files
        ]
        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        super().__init__(Path(path), names, labels, len(counts), image_size, on_bad_record, resize, center_crop)

        # Warn about what is not read.
        for name in listing.outside:
            listing.left_out.add(Reason.OUTSIDE, name)
        self.warnings.extend(listing.warnings())
        if identities is None:
            self.warnings.extend(warn_of_one_class(count_classes(self._labels), self.advice_on_one_class))
        self.check()

    def advice_on_labels(self) -> str:
        """See `EncodedDataset.advice_on_labels`."""
        return f"The number of classes, {self.num_classes:,}, is the number of subfolders"

    def advice_on_one_class(self) -> str:
        """See `EncodedDataset.advice_on_one_class`."""
        return f"{self.path} should hold one subfolder for each person, and holds {some_of(self.identities)} only"
