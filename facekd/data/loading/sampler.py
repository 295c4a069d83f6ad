"""Which image is read when: the position of an image in the run is the clock, and everything follows from it.

Position p (0-based, over the whole run) belongs to epoch p // N and is that epoch's permutation of the N images at
p % N. A resumed run needs one number, `images_seen`, and a run on another number of processes sees the same images
in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.data.loading.block_shuffle import BlockShuffle
from facekd.errors import InputError
from facekd.utils.randomness import permute

# Indices are worked out this many positions at a time: numpy's cost per call, not per number, dominates below it.
POSITIONS_AT_ONCE = 16384


class SampledBatch(NamedTuple):
    """One rank's share of one global batch."""

    positions: NDArray[np.int64]  # (B,) 0-based place in the run; the seed of the image's augmentation
    indices: NDArray[np.int64]  # (B,) image numbers in the data set


class PositionSampler:
    """Iterates over one rank's batches, from `images_seen` to the end of the run.

    Rank r takes the r-th contiguous slice of each global batch. Batches are always full and may straddle two epochs;
    across ranks, each image is read exactly once in each stretch of `num_images` positions. The sampler has no state:
    every `iter()` starts again at `images_seen`.

    Args:
        num_images: N, images in the data set.
        seed: seed of the order, 0 <= seed < 2**64.
        global_batch_size: images in a batch over all ranks; a multiple of `world_size`.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        images_seen: position to start from, over all ranks. Any value resumes; the batches of the original run
            come back where it is a number of whole batches.
        total_images: position to stop at, over all ranks; the last batch is filled up past it where it is not a
            whole number of batches away. None goes on for ever.
        shuffle: False reads the images in the order of the data set in every epoch.
        block_shuffle: shuffle by blocks of neighbours instead, for disks that are slow to read here and there.

    Raises:
        InputError: an argument out of range, named with its value.
    """

    def __init__(
        self,
        num_images: int,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        images_seen: int = 0,
        total_images: int | None = None,
        shuffle: bool = True,
        block_shuffle: BlockShuffle | None = None,
    ) -> None:
        if num_images < 1:
            raise InputError(f"the data set holds no images to sample (num_images is {num_images})")
        if not 0 <= seed < 1 << 64:
            raise InputError(f"seed must be from 0 to 2**64 - 1, found {seed}")
        if world_size < 1 or not 0 <= rank < world_size:
            raise InputError(f"rank must be from 0 to world_size - 1, found rank {rank} of world_size {world_size}")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise InputError(
                f"the global batch size must be a positive multiple of the world size, so that every process gets as "
                f"many images: found {global_batch_size} images over {world_size} processes; change the global batch "
                f"size to {max(1, round(global_batch_size / world_size)) * world_size}, or the number of processes"
            )
        if images_seen < 0 or (total_images is not None and total_images < 0):
            raise InputError(
                f"images_seen and total_images must not be negative, found {images_seen} and {total_images}"
            )
        self.num_images = num_images
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.rank = rank
        self.world_size = world_size
        self.images_seen = images_seen
        self.total_images = total_images
        self.shuffle = shuffle
        self.block_shuffle = block_shuffle

    @property
    def batch_size_per_rank(self) -> int:
        """Images this rank reads in each batch."""
        return self.global_batch_size // self.world_size

    def __len__(self) -> int:
        """Batches left from `images_seen` to `total_images`."""
        if self.total_images is None:
            raise TypeError("a sampler without total_images goes on for ever and has no length")
        return -(-max(0, self.total_images - self.images_seen) // self.global_batch_size)

    def indices_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """The images (B,) read at any positions (B,) of the run, past or future, on any rank."""
        epochs, ranks_in_epoch = np.divmod(np.asarray(positions, dtype=np.int64), self.num_images)
        if not self.shuffle:
            return ranks_in_epoch
        if self.block_shuffle is not None:
            return self.block_shuffle.permute(self.seed, epochs, ranks_in_epoch, self.num_images)
        return permute(self.seed, epochs, ranks_in_epoch, self.num_images)

    def windows_of(self, first: int, last: int) -> range:
        """Windows of the block shuffle that positions `first` to `last` lie in; their numbers go on over epochs."""
        assert self.block_shuffle is not None
        size = self.block_shuffle.window_size
        in_epoch = -(-self.num_images // size)

        def window(position: int) -> int:
            epoch, rank = divmod(position, self.num_images)
            return epoch * in_epoch + rank // size

        return range(window(first), window(last) + 1)

    def stretches_of(self, window: int) -> list[tuple[int, int]]:
        """`(first, end)` of the stretches of images that a window reads, end not included."""
        assert self.block_shuffle is not None
        in_epoch = -(-self.num_images // self.block_shuffle.window_size)
        return self.block_shuffle.stretches(self.seed, *divmod(window, in_epoch), self.num_images)

    def __iter__(self) -> Iterator[SampledBatch]:
        batch_size = self.batch_size_per_rank
        batches_at_once = max(1, POSITIONS_AT_ONCE // batch_size)
        batches_left = None if self.total_images is None else len(self)
        first = self.images_seen + self.rank * batch_size
        while batches_left is None or batches_left > 0:
            count = batches_at_once if batches_left is None else min(batches_at_once, batches_left)
            starts = first + np.arange(count, dtype=np.int64) * self.global_batch_size
            positions = starts[:, None] + np.arange(batch_size, dtype=np.int64)
            indices = self.indices_at(positions)
            for batch_positions, batch_indices in zip(positions, indices, strict=True):
                yield SampledBatch(batch_positions, batch_indices)
            first += count * self.global_batch_size
            if batches_left is not None:
                batches_left -= count
