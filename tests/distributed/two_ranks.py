"""What each of two processes checks; run by `test_distributed.py`, which gives them their ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evaluation.validators import PairSetValidator
from facekd.distributed import (
    World,
    broadcast_from_main,
    copy_buffers_from_main,
    gather_rows,
    join_world,
    mean_over_world,
    wait_for_all,
)


def exchange(world: World) -> None:
    rank = world.rank
    assert torch.equal(mean_over_world(torch.tensor([1.0 + rank, 4.0]), world), torch.tensor([1.5, 4.0]))
    assert broadcast_from_main((rank, "main" if rank == 0 else "other"), world) == (0, "main")

    uneven = np.full((2 + rank, 3), rank, np.float32)
    assert gather_rows(uneven, world)[:, 0].tolist() == [0, 0, 1, 1, 1]
    words = np.array(["a record"] * rank, dtype=object)
    assert gather_rows(words, world).tolist() == ["a record"]

    norm = nn.BatchNorm1d(4)
    norm.train()(torch.randn(8, 4, generator=torch.Generator().manual_seed(rank)) + rank)
    mine = norm.running_mean.clone()  # type: ignore[union-attr]
    copy_buffers_from_main(norm, world)
    means = gather_rows(norm.running_mean.numpy()[None], world)  # type: ignore[union-attr]
    assert np.array_equal(means[0], means[1])
    assert torch.equal(mine, norm.running_mean) == (rank == 0)  # type: ignore[arg-type]


def validate(world: World, pack: str) -> None:
    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, ::97].astype(np.float32) - 100

    validator = PairSetValidator(pack, folds=2)
    together = validator(embed, world.rank, world.size, lambda rows: gather_rows(rows, world))
    assert together == validator(embed)


if __name__ == "__main__":
    with join_world("cpu") as joined:
        assert joined.size == 2
        exchange(joined)
        validate(joined, sys.argv[1])
        wait_for_all(joined)
        Path(sys.argv[2], str(joined.rank)).touch()
