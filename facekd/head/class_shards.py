"""Which process holds which classes, where a head is too large for each to hold all.

A head of 2 million identities, its gradient and its momentum are 12 GB in float32; shared out over n processes, each
holds an n-th, and no gradient of it is exchanged. The split is that of `torch.chunk` and of a `DTensor` sharded along
its first dimension: equal counts, the last shards smaller, or empty where there are fewer classes than that takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facekd.distributed import World, gather_tensor_rows, gather_with_gradient


@dataclass(frozen=True)
class ClassShards:
    """The classes of a head, shared out over a world.

    Args:
        num_classes: C, of the whole head.
        world: who shares it.
    """

    num_classes: int
    world: World

    @property
    def start(self) -> int:
        """The first class of this process."""
        return min(self.world.rank * self._size, self.num_classes)

    @property
    def stop(self) -> int:
        """One past its last class."""
        return min(self.start + self._size, self.num_classes)

    @property
    def _size(self) -> int:
        return -(-self.num_classes // self.world.size)

    def own(self, rows: Tensor) -> Tensor:
        """Of rows (C, ...) of all classes, those of this process; a view."""
        return rows[self.start : self.stop]

    def columns(self, labels_B: Tensor, sample_S: Tensor | None = None) -> Tensor:
        """Where this process holds each label's class: places (B,) among its classes, -1 for those of others.

        Args:
            labels_B: (B,) int64, of the whole head.
            sample_S: (S,) ascending places of the classes in use, where not all are; the result then counts in it, and
                a class that is left out is nobody's.
        """
        place_B = labels_B - self.start
        is_own_B = (place_B >= 0) & (place_B < self.stop - self.start)
        if sample_S is not None:
            if not len(sample_S):
                return torch.full_like(labels_B, -1)
            found_B = torch.searchsorted(sample_S, place_B).clamp_(max=len(sample_S) - 1)
            is_own_B &= sample_S[found_B] == place_B
            place_B = found_B
        return place_B.masked_fill(~is_own_B, -1)

    def gather(self, rows: Tensor) -> Tensor:
        """(n, ...) of each process to (world * n, ...) on every one; a gradient comes back summed over processes."""
        return gather_with_gradient(rows, self.world) if rows.requires_grad else gather_tensor_rows(rows, self.world)

    def own_rows(self, count: int) -> slice:
        """Which of `count` gathered rows came from this process."""
        size = count // self.world.size
        return slice(self.world.rank * size, (self.world.rank + 1) * size)
