"""A shuffle that reads in long stretches, for packs on network disks, where a record here and a record there is slow.

What a shuffle buffer over a shuffled list of file pieces does, as a pure function of (seed, epoch, rank in the epoch),
so that there is no buffer to save and a run resumes anywhere:

1. the images lie on a circle, whose start is drawn anew for each epoch, and are cut into blocks of neighbours;
2. the blocks change places;
3. a window of some of them after another is shuffled through.

A window's images are near each other in time, so its blocks are read whole, once, one long read each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ConfigError
from facekd.utils.randomness import permute, random_words


@dataclass(frozen=True)
class BlockShuffle:
    """The shape of the shuffle.

    Args:
        block_size: neighbouring images read in one go.
        blocks_in_window: blocks shuffled through each other.

    Raises:
        ConfigError: one of the two below 1.
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
        """Images in a window."""
        return self.block_size * self.blocks_in_window

    def permute(
        self, seed: int, epochs: NDArray[np.int64], ranks: NDArray[np.int64], num_images: int
    ) -> NDArray[np.int64]:
        """The images at `ranks` of the orders that belong to `epochs`.

        Args:
            seed: of the run.
            epochs, ranks: of one shape; 0 <= rank < num_images.
            num_images: N.

        Returns:
            Image numbers of the same shape; for one epoch and all ranks, each image once.
        """
        epochs, ranks = np.broadcast_arrays(epochs, ranks)
        windows = ranks // self.window_size
        places = ranks.copy()
        last = num_images // self.window_size  # the window that is cut short by the end of the epoch
        for is_here, size in ((windows < last, self.window_size), (windows == last, num_images % self.window_size)):
            if is_here.any():
                here = windows[is_here]
                streams = epochs[is_here] * (last + 1) + here
                inside = permute(seed, streams, ranks[is_here] - here * self.window_size, size, "in a window")
                places[is_here] = here * self.window_size + inside
        return self._images_at(seed, epochs, places, num_images)

    def stretches(self, seed: int, epoch: int, window: int, num_images: int) -> list[tuple[int, int]]:
        """What a window reads: `(first, end)` of each stretch of neighbouring images, end not included."""
        first = window * self.window_size
        starts = np.arange(first, min(first + self.window_size, num_images), self.block_size, dtype=np.int64)
        images = self._images_at(seed, np.full_like(starts, epoch), starts, num_images)
        found = []
        for place, image in zip(starts.tolist(), images.tolist(), strict=True):
            end = image + min(self.block_size, num_images - place)
            found.append((image, min(end, num_images)))
            if end > num_images:  # the block goes on at the start of the data set
                found.append((0, end - num_images))
        return found

    def _images_at(
        self, seed: int, epochs: NDArray[np.int64], places: NDArray[np.int64], num_images: int
    ) -> NDArray[np.int64]:
        """Undo steps 2 and 1: from the place in the order of blocks to the image."""
        num_blocks = num_images // self.block_size
        blocks, inside = np.divmod(places, self.block_size)
        is_whole = blocks < num_blocks  # the rest, shorter than a block, stays last; the circle's start moves it about
        if num_blocks > 1 and is_whole.any():
            blocks[is_whole] = permute(seed, epochs[is_whole], blocks[is_whole], num_blocks, "blocks")
        starts = (random_words(seed, "start of the circle", epochs) % np.uint64(num_images)).astype(np.int64)
        return (blocks * self.block_size + inside + starts) % num_images
