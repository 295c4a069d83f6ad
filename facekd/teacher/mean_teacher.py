"""Joins several teachers into one: the mean of the directions of their embeddings.

Shapes: B images of the batch, E the teachers' embedding size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from facekd.data.loading.loader import Batch
from facekd.distillation.checks import unit
from facekd.errors import TeacherError
from facekd.teacher.teacher import CachedTeacher, LiveTeacher


class MeanTeacher:
    """Embeds by several teachers: each embedding is scaled to length 1, then their weighted mean is.

    Args:
        teachers: two or more, live or cached, of one embedding size.
        weights: weight of each in the mean.

    Raises:
        TeacherError: teachers of different embedding sizes.
    """

    def __init__(self, teachers: Sequence[LiveTeacher | CachedTeacher], weights: Sequence[float]) -> None:
        sizes = [teacher.embedding_size for teacher in teachers]
        if len(set(sizes)) > 1:
            raise TeacherError(
                f"the teachers embed to {', '.join(map(str, sizes))} values, and embeddings of different sizes have no "
                "mean: set combine_teachers to 'each', which compares with one teacher after the other"
            )
        self._teachers, self._weights = list(teachers), list(weights)
        self.embedding_size: int = sizes[0]
        self.fingerprint: str = joined_fingerprint(teachers)

    def embed(self, batch: Batch) -> Tensor:
        """Embeds the images of a batch, mirrored as its `flip` says.

        Returns:
            float32 (B, E) of length 1, 0 where the teachers cancel out; on a GPU if any teacher's are.

        Raises:
            ModelError: an embedding is not finite, see `check_finite`.
        """
        found = [teacher.embed(batch) for teacher in self._teachers]
        device = next((rows.device for rows in found if rows.device.type != "cpu"), torch.device("cpu"))
        directions = [unit(rows.float()).to(device, non_blocking=True) for rows in found]
        return unit(torch.stack([w * rows for w, rows in zip(self._weights, directions, strict=True)]).sum(0))

    def check_finite(self) -> None:
        """Checks the last batch's embeddings, see `LiveTeacher.check_finite`."""
        for teacher in self._teachers:
            teacher.check_finite()


def joined_fingerprint(teachers: Sequence[LiveTeacher | CachedTeacher | MeanTeacher]) -> str:
    """Returns the fingerprint of one teacher, or a hash of those of several in their order; empty without any."""
    found = [teacher.fingerprint for teacher in teachers]
    return found[0] if len(found) == 1 else hashlib.sha256("+".join(found).encode()).hexdigest() if found else ""
