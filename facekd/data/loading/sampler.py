"""Decides which image is read when, as a function of the position in the run.

The order (`facekd/data/loading/orders.py`) says which image is read at a position p, 0-based over the whole run. So one
number, `images_seen`, resumes a run, and a run with another number of processes sees the same images in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.data.loading.orders import Order
from facekd.errors import InputError
from facekd.utils.wording import counted

# Positions computed together: with fewer, numpy's cost per call dominates.
POSITIONS_CHUNK = 16384


class SampledBatch(NamedTuple):
    """Holds one rank's share of one global batch."""

    positions: NDArray[np.int64]  # (B,) 0-based position in the run; it also seeds the augmentation
    indices: NDArray[np.int64]  # (B,) image numbers in the data set


def shares(batch_size: int, world_size: int) -> list[int]:
    """Returns how many images of a global batch each rank takes: as many, or one more on the first ranks."""
    share, rest = divmod(batch_size, world_size)
    return [share + (rank < rest) for rank in range(world_size)]


class PositionSampler:
    """Iterates over one rank's batches, from `images_seen` to the end of the run.

    Rank r takes the r-th contiguous slice of each global batch (`shares`). Batches are always full and may straddle two
    epochs. The sampler has no state: every `iter()` starts again at `images_seen`.

    Args:
        order: which image is read at which position.
        global_batch_size: images in a batch over all ranks, at least one for each.
        rank: number of this process, 0 <= rank < world_size.
        world_size: number of processes.
        images_seen: position to start from, over all ranks. Any value resumes; if it is a whole number of batches, the
            batches are those of the original run.
        total_images: position to stop at, over all ranks; the last batch is always full, and may go beyond it. None
            never stops.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        order: Order,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        images_seen: int = 0,
        total_images: int | None = None,
    ) -> None:
        # Check every argument, so that the message can name it.
        if world_size < 1 or not 0 <= rank < world_size:
            raise InputError(f"rank must be from 0 to world_size - 1, found rank {rank} of world_size {world_size}")
        if global_batch_size < world_size:
            raise InputError(
                f"a global batch of {counted(global_batch_size, 'image')} over {counted(world_size, 'process')} "
                "leaves some without an image"
            )
        if images_seen < 0 or (total_images is not None and total_images < 0):
            raise InputError(
                f"images_seen and total_images must not be negative, found {images_seen} and {total_images}"
            )
        self.order = order
        self.global_batch_size = global_batch_size
        self.rank = rank
        self.world_size = world_size
        self.images_seen = images_seen
        self.total_images = total_images

    @property
    def batch_size_per_rank(self) -> int:
        """The number of images this rank reads in each batch."""
        return shares(self.global_batch_size, self.world_size)[self.rank]

    def __len__(self) -> int:
        """Returns the number of batches from `images_seen` to `total_images`."""
        if self.total_images is None:
            raise TypeError("a sampler without total_images never stops, so it has no length")
        return -(-max(0, self.total_images - self.images_seen) // self.global_batch_size)

    def indices_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Returns the images (B,) read at any positions (B,) of the run, past or future, on any rank."""
        return self.order.images_at(positions)

    def __iter__(self) -> Iterator[SampledBatch]:
        # Whole chunks of batches are computed together: see POSITIONS_CHUNK.
        batch_size = self.batch_size_per_rank
        batches_per_chunk = max(1, POSITIONS_CHUNK // batch_size)
        batches_left = None if self.total_images is None else len(self)
        first = self.images_seen + sum(shares(self.global_batch_size, self.world_size)[: self.rank])
        while batches_left is None or batches_left > 0:
            count = batches_per_chunk if batches_left is None else min(batches_per_chunk, batches_left)
            starts = first + np.arange(count, dtype=np.int64) * self.global_batch_size
            positions = starts[:, None] + np.arange(batch_size, dtype=np.int64)
            indices = self.indices_at(positions)
            for batch_positions, batch_indices in zip(positions, indices, strict=True):
                yield SampledBatch(batch_positions, batch_indices)
            first += count * self.global_batch_size
            if batches_left is not None:
                batches_left -= count
