"""What each of two processes checks; for `test_distributed.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from evaluation.validators import PairSetValidator
from facekd.distributed import (
    World,
    broadcast_from_main,
    copy_buffers_from_main,
    gather_rows,
    make_scaler,
    mean_over_world,
    read_rows_of_all,
    write_rows_of_all,
)
from facekd.training.optim import OptimizerConfig, build_optimizer, set_learning_rate


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


def overflow(world: World) -> None:
    """An overflow, wherever, leaves the weights as they are everywhere and lowers the scale everywhere, once."""
    for implementation in ("loop", "foreach", "fused"):
        for overflowing in ({0}, {1}, {0, 1}):
            weight = nn.Parameter(torch.ones(3))
            config = OptimizerConfig(implementation=implementation)
            optimizer = build_optimizer(config, [{"params": [weight], "weight_decay": 5e-4}])
            set_learning_rate(optimizer, 0.1)
            scaler = make_scaler(world, enabled=True)
            for values, expected in ((overflowing, torch.equal), (set(), torch.not_equal)):
                scale, before = scaler.get_scale(), weight.detach().clone()
                weight.grad = None
                scaler.scale(weight.sum()).backward()
                assert weight.grad is not None
                if world.rank in values:
                    weight.grad[1] = torch.inf
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                is_as_expected = bool(torch.as_tensor(expected(weight.detach(), before)).all())
                assert is_as_expected, (implementation, overflowing, weight)
                assert scaler.get_scale() == (scale / 2 if values else scale)


def share_rows(world: World, folder: Path) -> None:
    """Rows come back as they were written, on a CPU beside a GPU too, and no process group is made for it."""
    rows = {name: torch.randn(3, size) + world.rank for name, size in (("weight", 4), ("momentum", 5))}
    found = {name: torch.empty_like(value) for name, value in rows.items()}
    make = DeviceMesh.__init__

    def make_beside_a_gpu(*arguments: Any, **options: Any) -> None:
        with mock.patch("torch.cuda.is_available", return_value=True):
            make(*arguments, **options)

    groups = mock.patch.object(dist.distributed_c10d, "_new_group_with_tag", side_effect=AssertionError("a new group"))
    with mock.patch.object(DeviceMesh, "__init__", make_beside_a_gpu), groups:
        write_rows_of_all(folder, rows, 6, world)
        read_rows_of_all(folder, found, 6, world)
    for name, value in rows.items():
        assert torch.equal(found[name], value)


def validate(world: World, pack: str) -> None:
    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, ::97].astype(np.float32) - 100

    validator = PairSetValidator(pack, folds=2)
    together = validator(embed, world.rank, world.size, lambda rows: gather_rows(rows, world))
    assert together == validator(embed)


def check(world: World, pack: str, rows: Path) -> None:
    """Checks all of it, in each of two processes."""
    assert world.size == 2
    exchange(world)
    overflow(world)
    share_rows(world, rows)
    validate(world, pack)
