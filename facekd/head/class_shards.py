"""Splits the classes of a head over processes, where the head is too large for each process to hold all of it.

A head of 2 million identities, its gradient and its momentum take 12 GB in float32. Split over n processes, each holds
1/n of that, and no gradient of the head is exchanged. The split is the one of `torch.chunk` and of a `DTensor` sharded
along its first dimension: equal counts, with the last shards smaller, or empty if there are too few classes.

Shapes: B batch, C classes of the whole head, S drawn classes of this process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facekd.distributed import World, gather_tensor_rows, gather_with_gradient, slices_of_ranks


@dataclass(frozen=True)
class ClassShards:
    """Says which classes of a head each process of a world holds.

    Args:
        num_classes: C, classes of the whole head.
        world: the processes that share it.
    """

    num_classes: int
    world: World

    @property
    def start(self) -> int:
        """Returns the number of this process's first class."""
        return min(self.world.rank * self._size, self.num_classes)

    @property
    def stop(self) -> int:
        """Returns the number of its last class plus one."""
        return min(self.start + self._size, self.num_classes)

    @property
    def _size(self) -> int:
        return -(-self.num_classes // self.world.size)

    def own(self, rows: Tensor) -> Tensor:
        """Returns this process's rows of a tensor (C, ...) with a row per class; a view."""
        return rows[self.start : self.stop]

    def columns(self, labels_B: Tensor, sample_S: Tensor | None = None) -> Tensor:
        """Finds each label's place (B,) among this process's classes; -1 where another process has the class.

        Args:
            labels_B: (B,) int64, labels of the whole head.
            sample_S: (S,) ascending places of the drawn classes, with partial FC; the result then counts within it, and
                is -1 for a class that was not drawn.
        """
        # Among all classes of this process.
        place_B = labels_B - self.start
        is_own_B = (place_B >= 0) & (place_B < self.stop - self.start)
        if sample_S is not None:
            # Among the drawn ones, which ascend.
            if not len(sample_S):
                return torch.full_like(labels_B, -1)
            found_B = torch.searchsorted(sample_S, place_B).clamp_(max=len(sample_S) - 1)
            is_own_B &= sample_S[found_B] == place_B
            place_B = found_B
        return place_B.masked_fill(~is_own_B, -1)

    def gather(self, rows: Tensor) -> Tensor:
        """Gathers (n, ...) rows to those of all processes, on each; gradients come back summed over processes."""
        return gather_with_gradient(rows, self.world) if rows.requires_grad else gather_tensor_rows(rows, self.world)

    def own_rows(self, count: int) -> slice:
        """Returns which of `count` gathered rows came from this process."""
        return slices_of_ranks(count, self.world)[self.world.rank]
