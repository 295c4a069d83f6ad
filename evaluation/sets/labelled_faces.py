"""Reads the images of a pack of records, or of generated people, as images with a person each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from evaluation.sets.face_folder import FaceFolder
from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import FaceDataset
from facekd.data.datasets.opening import open_dataset
from facekd.data.synthetic.set_name import PREFIX
from facekd.utils.foreign import shown

T = TypeVar("T")


def is_generated(path: str) -> bool:
    """Tells whether a path stands for generated faces."""
    return path.startswith(PREFIX)


def is_labelled_set(path: str) -> bool:
    """Tells whether a path is read by `LabelledFaces`: generated faces, a file, or a folder that holds records."""
    return is_generated(path) or Path(path).suffix == ".rec" or (Path(path).is_dir() and any(Path(path).glob("*.rec")))


class LabelledFaces:
    """Provides the images of a pack or of generated people, and who is in them, as `FaceFolder` does of a folder.

    Args:
        path: a .rec file, a folder that holds one or its shards, or `synthetic:PEOPLExIMAGES:SEED`.
        image_size: image size S of the model.
        resize: whether to scale images of another size instead of refusing them.
        at_most: number of images to take of each person, in their order in the pack; None for all.

    Attributes:
        people: (N,) the label of each.
        warnings: sentences about what is unusual in the pack.

    Raises:
        DataError: see `open_dataset`.
    """

    def __init__(self, path: str, image_size: int, resize: bool = False, at_most: int | None = None) -> None:
        self.name = path if is_generated(path) else Path(path).name
        dataset = open_dataset(path, image_size, resize=resize)
        # The first images of each person.
        labels = dataset.labels
        kept = np.arange(len(labels))
        if at_most is not None:
            order = np.argsort(labels, kind="stable")
            starts = np.searchsorted(labels[order], labels[order], side="left")
            kept = np.sort(order[np.arange(len(labels)) - starts < at_most])
        self.people = labels[kept]
        self.warnings = [shown(warning, 1000) for warning in dataset.warnings]
        self.images: Sequence[bytes] = _Each(lambda index: _content(dataset, index), kept)
        self._dataset, self._kept = dataset, kept

    def __len__(self) -> int:
        return len(self._kept)

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop`: uint8 RGB (B, S, S, 3).

        Raises:
            DataError: an image cannot be decoded or has another size; the message names it.
        """
        return self._dataset.load(self._kept[start:stop])[0]

    @cached_property
    def digests(self) -> list[bytes]:
        """Returns a digest of each image; rendered ones take a while."""
        return [hashlib.sha256(image).digest() for image in self.images]

    def describe(self, number: int) -> str:
        """Returns where an image comes from, for messages."""
        return self._dataset.describe(int(self._kept[number]))


def digest_of_set(faces: FaceFolder | LabelledFaces) -> str:
    """Returns the digest of the images and of who is in them: models with equal ones were evaluated on the same."""
    digest = hashlib.sha256()
    # Numbered in order of the first image: a folder and a pack of the same images are one set.
    numbers: dict[object, int] = {}
    for person, image in zip(faces.people.tolist(), faces.digests, strict=True):
        digest.update(image + numbers.setdefault(person, len(numbers)).to_bytes(8, "little"))
    return digest.hexdigest()


def _content(dataset: FaceDataset, index: int) -> bytes:
    """Returns the encoded bytes of an image, or the pixels of one that is rendered when it is read."""
    if isinstance(dataset, EncodedDataset):
        return bytes(dataset.read_encoded(index)[0])
    return dataset.load(np.array([index]))[0].tobytes()


class _Each(Sequence[T]):
    """Makes each item when it is asked for: sets may be larger than memory."""

    def __init__(self, make: Callable[[int], T], numbers: np.ndarray) -> None:
        self._make, self._numbers = make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._make(number) for number in self._numbers[index].tolist()]
        return self._make(int(self._numbers[index]))
