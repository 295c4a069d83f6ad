"""Memory that batches of images are decoded into, over and over, by the workers and in the main process.

A fresh batch costs more than its pixels: the kernel hands over new pages one by one, cleared, in the process that
writes them and again in the one that reads them. Here a few batches' worth of memory is shared with the workers once.
A batch lies in one of its slots until nobody holds it any more, and then another takes its place.
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
    """What main process and workers share: N slots for batches of B images of S pixels. Goes to a spawned worker.

    What is small is here as well, so that the messages between them are a number and never wait for each other.
    """

    def __init__(self, num_slots: int, batch_size: int, image_size: int, shared: bool) -> None:
        shape = (num_slots, batch_size, image_size, image_size, 3)
        # By numpy, which asks the kernel for large pages where there are any; what is shared has pages of its own.
        self.pixels = torch.empty(shape, dtype=torch.uint8) if shared else torch.from_numpy(np.empty(shape, np.uint8))
        self.numbers = torch.empty((num_slots, 3, batch_size), dtype=torch.int64)
        self.flips = torch.empty((num_slots, batch_size), dtype=torch.bool)
        if shared:
            _share(self.pixels, self.numbers, self.flips)

    def __getstate__(self) -> dict[str, Any]:
        # The arrays are views of the tensors, and would be copied.
        return {"pixels": self.pixels, "numbers": self.numbers, "flips": self.flips}

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """(N, B, S, S, 3)."""
        return self.pixels.numpy()

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """(N, B), the images asked for."""
        return self.numbers[:, 0].numpy()

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(N, B), where in the run."""
        return self.numbers[:, 1].numpy()

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N, B), found with the images."""
        return self.numbers[:, 2].numpy()

    @cached_property
    def flip(self) -> NDArray[np.bool_]:
        """(N, B), which to mirror."""
        return self.flips.numpy()


def _share(*tensors: torch.Tensor) -> None:
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:  # torch takes the memory at once, and so finds out here
        needed = sum(tensor.nbytes for tensor in tensors) / 1e6
        raise TrainingError(
            f"the batches of the loader need {needed:,.0f} MB of shared memory, which is not to be had ({error}). "
            f"{MEMORY_ADVICE}"
        ) from error


class BatchMemory:
    """Which slots are free: each until it is taken, and again when its batch is no longer held. For the main process.

    Args:
        slots: the memory.
    """

    def __init__(self, slots: BatchSlots) -> None:
        self.slots = slots
        self._free = deque(range(len(slots.pixels)))
        self._held: dict[int, weakref.ref] = {}

    def take(self) -> int:
        """A free slot. There is one as long as each taken is given away by `hand_out` before the next is asked for."""
        return self._free.pop()

    def hand_out(self, slot: int) -> torch.Tensor:
        """The images (B, S, S, 3) of a slot, which is free again as soon as no view of this tensor is left.

        Where it is the last one not held, they are copied out of it, so that the loader can go on.
        """
        if not self._free:
            copy = self.slots.pixels[slot].clone()
            self._free.append(slot)
            return copy
        array = self.slots.images[slot]
        free = self._free
        self._held[slot] = weakref.ref(array, lambda _: free.append(slot))
        return torch.from_numpy(array)  # keeps `array`, this very object, as long as its storage
