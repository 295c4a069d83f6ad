"""Memory that batches of images are decoded into, over and over, by the workers and in the main process.

A fresh batch costs more than its pixels: the kernel hands over new pages one by one, cleared, in the process that
writes them and again in the one that reads them. Here a few batches' worth of memory is shared with the workers once.
A batch lies in one of its slots until nobody holds it any more, and then another takes its place.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch


class BatchMemory:
    """Slots for batches, each free until it is taken, and again when its batch is no longer held.

    Args:
        num_slots: batches that may exist at once in here; those beyond find no slot.
        shape: (B, S, S, 3) of a batch.
        shared: whether worker processes write it.
    """

    def __init__(self, num_slots: int, shape: tuple[int, ...], shared: bool) -> None:
        self.slots = torch.empty((num_slots, *shape), dtype=torch.uint8)
        if shared:
            self.slots.share_memory_()
        self._free = deque(range(num_slots))

    def take(self) -> int | None:
        """A free slot; None where all are held, and the batch needs memory of its own."""
        return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """The slot is free again."""
        self._free.append(slot)

    def hold(self, slot: int) -> torch.Tensor:
        """The batch in a taken slot, which is free again as soon as no view of this tensor is left."""
        array = self.slots[slot].numpy()
        weakref.finalize(array, self.give_back, slot).atexit = False
        return torch.from_numpy(array)  # keeps `array`, this very object, as long as its storage


def as_array(slots: torch.Tensor, slot: int | None) -> np.ndarray | None:
    """The slot as an array to write, or None for none."""
    return None if slot is None else slots[slot].numpy()
