"""Renders generated faces as a training set, without files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import put_into
from facekd.data.synthetic import render_faces
from facekd.errors import DataError
from facekd.images.crops import ResizedCrop, cut_and_scale
from facekd.utils.wording import counted


class SyntheticDataset:
    """Renders generated faces as they are read: for trying things out, not for speed.

    Args:
        num_identities: number of people.
        images_per_identity: number of photos of each.
        image_size: S, side in pixels.
        seed: random seed of the population.

    Raises:
        DataError: a number is not positive.
    """

    has_labels = True

    def __init__(self, num_identities: int, images_per_identity: int, image_size: int, seed: int = 0) -> None:
        if min(num_identities, images_per_identity, image_size) < 1:
            raise DataError(
                "generated faces need at least one identity, image and pixel, found "
                f"{counted(num_identities, 'identity')} of {counted(images_per_identity, 'image')} at {image_size} "
                "pixels"
            )
        self.name: str = f"synthetic:{num_identities}x{images_per_identity}:{seed}"
        self.num_classes = num_identities
        self.images_per_identity = images_per_identity
        self.image_size = image_size
        self.seed = seed
        self.warnings: list[str] = []

    @property
    def identities(self) -> list[str]:
        """Returns the name of each label; another population has other people."""
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
