"""Keeps the memory that batches are decoded into, and reuses it for later batches.

New memory for each batch would cost more than writing the pixels: the kernel clears and maps page by page, in the
process that writes and again in the one that reads. Here the memory of a few batches is shared with the workers once. A
batch stays in its slot until nobody holds it any more; then another takes its place.
"""

from __future__ import annotations

import weakref
from collections import deque
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facekd.errors import TrainingError

MEMORY_ADVICE = (
    "In a container start it with --ipc=host or a larger --shm-size; fewer workers, less prefetch or smaller batches "
    "need less"
)


class BatchSlots:
    """Holds N slots for batches of B images of S pixels, shared by main process and workers; can be pickled to them.

    Labels and the like are here as well, so that a message between the processes is one number.
    """

    def __init__(self, num_slots: int, batch_size: int, image_size: int, shared: bool) -> None:
        shape = (num_slots, batch_size, image_size, image_size, 3)
        # numpy asks the kernel for large pages if it can; shared memory has pages of its own.
        self.pixels: torch.Tensor = (
            torch.empty(shape, dtype=torch.uint8) if shared else torch.from_numpy(np.empty(shape, np.uint8))
        )
        self.numbers: torch.Tensor = torch.empty((num_slots, 3, batch_size), dtype=torch.int64)
        self.flips: torch.Tensor = torch.empty((num_slots, batch_size), dtype=torch.bool)
        if shared:
            _share(self.pixels, self.numbers, self.flips)

    def __getstate__(self) -> dict[str, Any]:
        # Without the arrays: they are views of the tensors, and would be copied.
        return {"pixels": self.pixels, "numbers": self.numbers, "flips": self.flips}

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """The pixels, (N, B, S, S, 3)."""
        return self.pixels.numpy()

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """The numbers of the images asked for, (N, B)."""
        return self.numbers[:, 0].numpy()

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """Their positions in the run, (N, B)."""
        return self.numbers[:, 1].numpy()

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Their labels, (N, B), which are read with the images."""
        return self.numbers[:, 2].numpy()

    @cached_property
    def flip(self) -> NDArray[np.bool_]:
        """Whether to mirror them, (N, B)."""
        return self.flips.numpy()


def _share(*tensors: torch.Tensor) -> None:
    """Moves tensors into shared memory; raises TrainingError if there is too little of it."""
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:  # torch takes all of the memory at once, so it fails here and not later
        needed = sum(tensor.nbytes for tensor in tensors) / 1e6
        raise TrainingError(
            f"the batches of the loader need {needed:,.0f} MB of shared memory, and there is not enough ({error}). "
            f"{MEMORY_ADVICE}"
        ) from error


class BatchBuffers:
    """Tracks in the main process which slots are free: those not taken, and those whose batch is no longer held.

    Args:
        slots: the memory.
    """

    def __init__(self, slots: BatchSlots) -> None:
        self.slots = slots
        self._free = deque(range(len(slots.pixels)))
        self._held: dict[int, weakref.ref] = {}

    def take(self) -> int:
        """Returns a free slot. There always is one if each slot taken is handed out before the next is taken."""
        return self._free.pop()

    def hand_out(self, slot: int) -> torch.Tensor:
        """Returns the images (B, S, S, 3) of a slot, which is free again when no view of this tensor is left.

        If no other slot is free, the images are copied, so that the loader can go on.
        """
        if not self._free:
            copy = self.slots.pixels[slot].clone()
            self._free.append(slot)
            return copy
        array = self.slots.images[slot]
        free = self._free
        self._held[slot] = weakref.ref(array, lambda _: free.append(slot))
        return torch.from_numpy(array)  # the tensor keeps this very object alive as long as its storage
