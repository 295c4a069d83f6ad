"""Defines the `FaceDataset` protocol: numbered, labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from facekd.images.crops import ResizedCrop

OnBadRecord = Literal["fail", "skip"]


class FaceDataset(Protocol):
    """Defines what the loader and the trainer need from labelled images. Shapes: B images asked for, S `image_size`.

    Attributes:
        name: name for messages and logs.
        num_classes: number of classes; every label is below it.
        image_size: side of the images in pixels.
        warnings: sentences for people about what is unusual.
        has_labels: whether labels say who is who; else they are whatever the files hold.
    """

    has_labels: bool
    name: str
    num_classes: int
    image_size: int
    warnings: list[str]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Returns the labels of all images, (N,), each 0 <= label < num_classes."""
        ...

    def __len__(self) -> int:
        """Returns the number of images N."""
        ...

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns images, uint8 RGB (B, S, S, 3), and their labels (B,).

        Args:
            indices: numbers of the images, (B,).
            crops: for each image, the box of the stored image to take and scale to S x S; None takes whole images.
            out: array to put the images in; memory that has been written to before takes them faster than new memory.
        """
        ...

    def describe(self, index: int) -> str:
        """Returns where image `index` comes from, for messages: the record's key and file, or the path."""
        ...

    def take_bad_records(self) -> list[str]:
        """Returns one line for each image that `load` has skipped since the last call, and forgets them."""
        ...


def put_into(out: NDArray[np.uint8] | None, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copies images to `out` if it is given, as `FaceDataset.load` promises; returns where they are."""
    if out is None:
        return images
    out[:] = images
    return out


@runtime_checkable
class ReadsAhead(Protocol):
    """Defines a data set whose images lie in a file more or less in the order of their numbers."""

    def read_ahead(self, first: int, end: int) -> None:
        """Requests images `first` to `end` - 1 from the disk; returns before they are in the page cache."""
        ...
