"""Defines the `FaceDataset` protocol: numbered, labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from facekd.images.crops import ResizedCrop

OnBadRecord = Literal["fail", "skip"]


class FaceDataset(Protocol):
    """What the loader and the trainer need of labelled images. Shapes: B images asked for, S `image_size`.

    Attributes:
        name: for messages and logs.
        num_classes: every label is below it.
        image_size: side of the images in pixels.
        warnings: sentences for people about what is unusual.
    """

    name: str
    num_classes: int
    image_size: int
    warnings: list[str]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels of all images, (N,), each 0 <= label < num_classes."""
        ...

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images (B, S, S, 3) uint8 RGB and their labels (B,), for image numbers (B,).

        With `crops`, one for each image, a box of the image as it is stored, scaled to S x S. The images are put in
        `out` where it is given: memory that has been written to before takes them faster than new memory.
        """
        ...

    def describe(self, index: int) -> str:
        """Where image `index` comes from, for messages: the record's key and file, or the path."""
        ...

    def take_bad_records(self) -> list[str]:
        """What `load` passed over since the last call, one line each; forgotten afterwards."""
        ...


def put_into(out: NDArray[np.uint8] | None, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images where `FaceDataset.load` was asked to put them."""
    if out is None:
        return images
    out[:] = images
    return out


@runtime_checkable
class ReadsAhead(Protocol):
    """A data set whose images lie in a file in the order of their numbers, more or less."""

    def read_ahead(self, first: int, end: int) -> None:
        """Have images `first` to `end` - 1 read into the page cache; returns before they are there."""
        ...
