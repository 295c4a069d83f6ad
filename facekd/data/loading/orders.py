"""Defines the orders in which a run reads its images: each is a pure function of the position in the run.

Shapes: B positions asked for, N images.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.data.loading.block_shuffle import BlockShuffle
from facekd.errors import InputError
from facekd.utils.randomness import permute, random_words


class Order(Protocol):
    """Says which image is read at a position."""

    def images_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Returns the images (B,) read at any positions (B,) of the run, past or future, on any rank."""
        ...


class DatasetOrder:
    """Reads the images in the order of the data set, epoch after epoch.

    Args:
        num_images: N.

    Raises:
        InputError: no images.
    """

    def __init__(self, num_images: int) -> None:
        if num_images < 1:
            raise InputError(f"the data set holds no images to sample (num_images is {num_images})")
        self.num_images = num_images

    def images_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        return np.asarray(positions, dtype=np.int64) % self.num_images


class FullShuffle(DatasetOrder):
    """Shuffles all images anew in each epoch: any image may follow any other.

    Args:
        num_images: N.
        seed: random seed of the order, 0 <= seed < 2**64.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        super().__init__(num_images)
        if not 0 <= seed < 1 << 64:
            raise InputError(f"seed must be from 0 to 2**64 - 1, found {seed}")
        self.seed = seed

    def images_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        epochs, ranks = np.divmod(np.asarray(positions, dtype=np.int64), self.num_images)
        return permute(self.seed, epochs, ranks, self.num_images)


class BlockOrder(FullShuffle):
    """Shuffles blocks of neighbours instead of images, for disks that are slow at random access.

    Args:
        num_images: N.
        seed: random seed of the order.
        shape: sizes of blocks and windows.
    """

    def __init__(self, num_images: int, seed: int, shape: BlockShuffle) -> None:
        super().__init__(num_images, seed)
        self.shape = shape

    def images_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        epochs, ranks = np.divmod(np.asarray(positions, dtype=np.int64), self.num_images)
        return self.shape.permute(self.seed, epochs, ranks, self.num_images)

    def windows_of(self, first: int, last: int) -> range:
        """Returns the windows that contain positions `first` to `last`, numbered through all epochs."""
        size = self.shape.window_size
        in_epoch = -(-self.num_images // size)

        def window(position: int) -> int:
            epoch, rank = divmod(position, self.num_images)
            return epoch * in_epoch + rank // size

        return range(window(first), window(last) + 1)

    def stretches_of(self, window: int) -> list[tuple[int, int]]:
        """Returns `(first, end)`, end not included, of the stretches of images that a window reads."""
        in_epoch = -(-self.num_images // self.shape.window_size)
        return self.shape.stretches(self.seed, *divmod(window, in_epoch), self.num_images)


class PeopleShuffle:
    """Reads several images of one person after the other: P people with K images each fill a batch of P K.

    The people are shuffled anew in each round, in which each has one turn of K images. A person's images are shuffled,
    too, and shuffled anew when all have been read, so that over the run each of them is read as often as the others.
    People with fewer than K images have some twice in a turn.

    Args:
        labels: (N,) int64; a class without images has no turn.
        seed: random seed of the order.
        images_each: K.

    Raises:
        InputError: no images, a K below 1, or a seed out of range.
    """

    def __init__(self, labels: NDArray[np.int64], seed: int, images_each: int) -> None:
        FullShuffle(len(labels), seed)  # checks both
        if images_each < 1:
            raise InputError(f"images_each must be at least 1, found {images_each}")
        self.seed = seed
        self.images_each = images_each
        # Images grouped by person, and where each person's begin.
        self._images = np.argsort(labels, kind="stable")
        self._starts = np.flatnonzero(np.diff(labels[self._images], prepend=-1))
        self._counts = np.diff(self._starts, append=len(labels))

    @property
    def num_people(self) -> int:
        """Returns the number of classes that have images."""
        return len(self._starts)

    def images_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        positions = np.asarray(positions, dtype=np.int64)
        turns, places = np.divmod(positions, self.images_each)
        rounds, ranks = np.divmod(turns, self.num_people)
        people = permute(self.seed, rounds, ranks, self.num_people, "people")

        # Over the run a person's turns go through shuffled passes over the person's images.
        passes, places = np.divmod(rounds * self.images_each + places, self._counts[people])
        found = np.empty(positions.shape, dtype=np.int64)
        keys = people.ravel() * (int(passes.max(initial=0)) + 1) + passes.ravel()
        order = np.argsort(keys, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            if not len(group):
                continue
            person, number = int(people.flat[group[0]]), int(passes.flat[group[0]])
            found.flat[group] = self._shuffled(person, number)[places.flat[group]]
        return found

    def _shuffled(self, person: int, number: int) -> NDArray[np.int64]:
        """Returns the images of a person in the order of pass `number`."""
        start, count = self._starts[person], self._counts[person]
        words = random_words(self.seed, f"images of a person, pass {number}", np.arange(start, start + count))
        return self._images[start + np.argsort(words, kind="stable")]
