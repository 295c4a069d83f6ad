"""Shuffles so that the disk is read in long stretches, for packs on network disks that are slow at random access.

It does what a shuffle buffer over a shuffled list of file pieces does, but as a pure function of (seed, epoch, rank in
the epoch), so that there is no buffer to save and a run resumes anywhere:

1. the images are put on a circle, whose start is drawn anew for each epoch, and cut into blocks of neighbours;
2. the blocks are shuffled;
3. window after window, each of several blocks, the images within a window are shuffled.

The images of a window are needed at about the same time, so each of its blocks is read once, in one long read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ConfigError
from facekd.utils.randomness import permute, random_words


@dataclass(frozen=True)
class BlockShuffle:
    """Defines a block shuffle.

    Args:
        block_size: number of neighbouring images read together.
        blocks_in_window: number of blocks whose images are shuffled together.

    Raises:
        ConfigError: one of the two is less than 1.
    """

    block_size: int = 1024
    blocks_in_window: int = 64

    def __post_init__(self) -> None:
        if min(self.block_size, self.blocks_in_window) < 1:
            raise ConfigError(
                f"data.shuffle_block and data.shuffle_window must be at least 1, found {self.block_size} and "
                f"{self.blocks_in_window}"
            )

    @property
    def window_size(self) -> int:
        """The number of images in a window."""
        return self.block_size * self.blocks_in_window

    def permute(
        self, seed: int, epochs: NDArray[np.int64], ranks: NDArray[np.int64], num_images: int
    ) -> NDArray[np.int64]:
        """Returns the images at places `ranks` in the orders of `epochs`.

        Args:
            seed: random seed of the run.
            epochs: epochs, of the same shape as `ranks`.
            ranks: places in the epoch, 0 <= rank < num_images.
            num_images: N.

        Returns:
            Image numbers of the same shape; over all ranks of an epoch, each image occurs once.
        """
        # Step 3: shuffle within the window of each rank. The last window of an epoch may be shorter.
        epochs, ranks = np.broadcast_arrays(epochs, ranks)
        windows = ranks // self.window_size
        places = ranks.copy()
        last = num_images // self.window_size
        for is_here, size in ((windows < last, self.window_size), (windows == last, num_images % self.window_size)):
            if is_here.any():
                here = windows[is_here]
                streams = epochs[is_here] * (last + 1) + here
                inside = permute(seed, streams, ranks[is_here] - here * self.window_size, size, "in a window")
                places[is_here] = here * self.window_size + inside
        return self._images_at(seed, epochs, places, num_images)

    def stretches(self, seed: int, epoch: int, window: int, num_images: int) -> list[tuple[int, int]]:
        """Returns `(first, end)`, end not included, of each stretch of neighbouring images that a window reads."""
        first = window * self.window_size
        starts = np.arange(first, min(first + self.window_size, num_images), self.block_size, dtype=np.int64)
        images = self._images_at(seed, np.full_like(starts, epoch), starts, num_images)
        found = []
        for place, image in zip(starts.tolist(), images.tolist(), strict=True):
            end = image + min(self.block_size, num_images - place)
            found.append((image, min(end, num_images)))
            if end > num_images:  # the circle continues at the start of the data set
                found.append((0, end - num_images))
        return found

    def _images_at(
        self, seed: int, epochs: NDArray[np.int64], places: NDArray[np.int64], num_images: int
    ) -> NDArray[np.int64]:
        """Applies steps 2 and 1: returns the images at places in the order of the blocks."""
        num_blocks = num_images // self.block_size
        blocks, inside = np.divmod(places, self.block_size)
        is_whole = blocks < num_blocks  # the rest, shorter than a block, stays last; the random start varies it
        if num_blocks > 1 and is_whole.any():
            blocks[is_whole] = permute(seed, epochs[is_whole], blocks[is_whole], num_blocks, "blocks")
        starts = (random_words(seed, "start of the circle", epochs) % np.uint64(num_images)).astype(np.int64)
        return (blocks * self.block_size + inside + starts) % num_images
