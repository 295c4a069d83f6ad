"""Labelled images that load by the batch: from record packs, folders of image files, CIFAR's files, or rendered.

`open_dataset` chooses. Whatever can be checked before the first batch is (labels against the number of classes, the
image size, that there is something there); the rest is checked at the image, and every message names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.cifar_dataset import CifarDataset, Split, find_cifar
from facekd.data.datasets.encoded_dataset import (
    DatasetError,
    Encoded,
    EncodedDataset,
    FaceDataset,
    OnBadRecord,
    put_into,
)
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.sharded_records import ShardedRecords, find_shards
from facekd.data.recordio.read_ahead import read_ahead
from facekd.data.synthetic import render_faces
from facekd.images.crops import ResizedCrop, cut_and_scale
from facekd.utils.files import is_file, is_folder

__all__ = [
    "CifarDataset",
    "DatasetError",
    "EncodedDataset",
    "FaceDataset",
    "FolderDataset",
    "OnBadRecord",
    "RecordDataset",
    "Split",
    "SyntheticDataset",
    "open_dataset",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class RecordDataset(EncodedDataset):
    """A RecordIO pack, InsightFace or im2rec layout, read without mxnet.

    Args:
        path: a folder that holds train.rec or the shards of a data set, or a .rec file.
        image_size: S, side in pixels.
        on_bad_record: see `EncodedDataset`; with "skip", records whose very headers are lost (the end of a truncated
            file, an overwritten stretch) are left out of the data set at once, and `notes` says how many.
        resize: see `EncodedDataset`.

    Raises:
        DatasetError: labels that do not fit the number of classes, or images of another size.
        RecordError: no pack there, or a damaged one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_size: int,
        on_bad_record: OnBadRecord = "fail",
        resize: bool = False,
    ) -> None:
        self.pack = ShardedRecords(path, on_bad_record) if find_shards(path) else open_record_pack(path, on_bad_record)
        super().__init__(str(path), image_size, self.pack.num_classes, on_bad_record, resize)
        is_usable = self.pack.labels() >= 0
        # Images of the pack that are images of the data set; None where all are, the ordinary case, at no cost.
        self._kept = None if is_usable.all() else np.flatnonzero(is_usable)
        self.notes = list(self.pack.oddities)
        self.check()

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`. Kept by the pack, which does not send them to a worker: it reads its own."""
        labels = self.pack.labels()
        return labels if self._kept is None else labels[self._kept]

    def __len__(self) -> int:
        return self.pack.num_images if self._kept is None else len(self._kept)

    def read_encoded(self, index: int) -> tuple[bytes, int]:
        """See `EncodedDataset.read_encoded`."""
        return self.pack.read_image(self._in_pack(index))

    def read_many(self, indices: NDArray[np.int64]) -> tuple[Sequence[Encoded], NDArray[np.int64]]:
        """See `EncodedDataset.read_many`: views of the mapped file, of which nothing is copied."""
        return self.pack.read_images(indices if self._kept is None else self._kept[indices])

    def read_ahead(self, first: int, end: int) -> None:
        """See `facekd.data.recordio.read_ahead`."""
        images = np.arange(first, end) if self._kept is None else self._kept[first:end]
        for place in self.pack.locations(images):
            read_ahead(*place)

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return self.pack.describe_image(self._in_pack(index))

    def _in_pack(self, index: int) -> int:
        return index if self._kept is None else int(self._kept[index])

    def advice_on_labels(self) -> str:
        """See `EncodedDataset.advice_on_labels`."""
        source = "the pack's identity records" if len(self.pack.identity_keys) else "the `property` file beside it"
        return (
            f"The number of classes, {self.num_classes:,}, is that of {source}: correct it there, or make the pack "
            f"again; `facekd data inspect {self.name}` shows what is in it"
        )


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
        DatasetError: no subfolders, one without images, or one that is not among `identities`.
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
        here = sorted(_subfolders(self.path))
        if not here:
            raise DatasetError(f"{path} holds no subfolders; expected one for each identity, with its images in it")
        self.identities: list[str] = here if identities is None else list(identities)
        unknown = sorted(set(here) - set(self.identities))
        if unknown:
            raise DatasetError(f"{path}: {unknown[0]} is not among the classes trained on ({len(unknown)} such)")
        paths: list[bytes] = []
        counts: list[int] = []
        for identity in self.identities:
            if identity not in here:
                counts.append(0)
                continue
            found = sorted(_image_files(self.path / identity))
            if not found:
                raise DatasetError(
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


def _subfolders(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def _image_files(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".") and is_file(entry)
        )


class SyntheticDataset:
    """Generated faces, rendered as they are read: for trying things out, not for speed.

    Args:
        num_identities: people number 0 to num_identities - 1.
        images_per_identity: photos of each.
        image_size: S, side in pixels.
        seed: the population.

    Raises:
        DatasetError: a number that is not positive.
    """

    def __init__(self, num_identities: int, images_per_identity: int, image_size: int, seed: int = 0) -> None:
        if min(num_identities, images_per_identity, image_size) < 1:
            raise DatasetError(
                f"generated faces need at least one identity, image and pixel, found {num_identities} identities of "
                f"{images_per_identity} images at {image_size} pixels"
            )
        self.name = f"synthetic:{num_identities}x{images_per_identity}:{seed}"
        self.num_classes = num_identities
        self.images_per_identity = images_per_identity
        self.image_size = image_size
        self.seed = seed
        self.notes: list[str] = []

    @property
    def identities(self) -> list[str]:
        """Who each label is: another population is other people."""
        return [f"person {number} of population {self.seed}" for number in range(self.num_classes)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return np.repeat(np.arange(self.num_classes, dtype=np.int64), self.images_per_identity)

    def __len__(self) -> int:
        return self.num_classes * self.images_per_identity

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See `FaceDataset.load`."""
        labels, photos = np.divmod(np.asarray(indices, dtype=np.int64), self.images_per_identity)
        images, size = render_faces(labels, photos, size=self.image_size, seed=self.seed), self.image_size
        for image, crop in zip(images, crops or (), strict=bool(crops)):
            image[:] = cut_and_scale(image.copy(), crop.box(size, size), size)
        return put_into(out, images), labels

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        identity, photo = divmod(index, self.images_per_identity)
        return f"photo {photo} of identity {identity} of {self.name}"

    def take_bad_records(self) -> list[str]:
        """See `FaceDataset.take_bad_records`: there are none."""
        return []


def open_dataset(
    path: str | os.PathLike[str],
    image_size: int,
    on_bad_record: OnBadRecord = "fail",
    resize: bool = False,
    center_crop: float = 0.0,
    split: Split = "train",
) -> FaceDataset:
    """Open labelled images, whatever they are kept in.

    Args:
        path: a .rec file or a folder that holds one; a folder with one subfolder of images for each identity or class,
            or one that holds such folders as train/ and val/ (or test/); a folder of CIFAR's pickles; or
            `synthetic:IDENTITIESxIMAGES[:SEED]` for faces rendered as they are read.
        image_size: S, side in pixels.
        on_bad_record: what to do at an image that cannot be used, "fail" or "skip".
        resize: scale images of another size instead of refusing them.
        center_crop: of image files of any size, take the square in the middle, this share of the shorter side; 0: no.
        split: "train", or "test" where `path` holds both: CIFAR's test images, or val/ (else test/), whose labels are
            those of the classes in train/.

    Raises:
        DatasetError: nothing usable at `path`, or no such split; the message says what was found there.
    """
    if str(path).startswith("synthetic:"):
        _require_train(path, split)
        wanted = re.fullmatch(r"synthetic:\s*(\d+)\s*[xX×]\s*(\d+)\s*(?::\s*(\d+))?", str(path))
        if wanted is None:
            raise DatasetError(f"{path}: generated faces are asked for as in synthetic:200x20 or synthetic:200x20:SEED")
        num_identities, images_per_identity, seed = (int(number or 0) for number in wanted.groups())
        return SyntheticDataset(num_identities, images_per_identity, image_size, seed)
    folder = Path(path)
    if not folder.exists():
        raise DatasetError(
            f"no data at {path}; expected a .rec file, a folder that holds one, a folder with a subfolder of images "
            "for each identity, CIFAR's folder, or synthetic:IDENTITIESxIMAGES"
        )
    if folder.is_file() or any(folder.glob("*.rec")):
        _require_train(path, split)
        return RecordDataset(folder, image_size, on_bad_record, resize)
    if find_cifar(folder) is not None:
        if center_crop:
            raise DatasetError(f"{path}: CIFAR's images have one size; center_crop has no use there, set it to 0")
        return CifarDataset(folder, image_size, split, resize)
    train = folder / "train"
    if not (train.is_dir() and any(_subfolders(train))):
        _require_train(path, split)
        return FolderDataset(folder, image_size, on_bad_record, resize, center_crop)
    if split == "train":
        return FolderDataset(train, image_size, on_bad_record, resize, center_crop)
    found = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not found:
        raise DatasetError(f"{path}: holds train/ but neither val/ nor test/, so there is nothing to judge by")
    return FolderDataset(found[0], image_size, on_bad_record, resize, center_crop, sorted(_subfolders(train)))


def _require_train(path: str | os.PathLike[str], split: Split) -> None:
    if split != "train":
        raise DatasetError(
            f"{path}: has no test images beside those to train on; expected CIFAR's folder, or one with train/ and val/"
        )
