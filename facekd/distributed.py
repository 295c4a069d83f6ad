"""Processes that train together. The only file that names a collective.

A run started by `python -m torch.distributed.run --nproc_per_node N -m facekd train CONFIG` finds its rank in the
environment; a plain `facekd train CONFIG` is a world of one, for which every function here is the identity.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from facekd.errors import FacekdError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among those that train together: `rank` of `size`, on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the other processes of this run, and leave them at the end.

    Args:
        device: `"auto"` is the GPU of this process's local rank if there is one, else the CPU.

    Raises:
        FacekdError: a GPU is asked for and there is none for this rank.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if size == 1:
        yield World(0, 1, chosen)
        return
    if re.fullmatch(r"cuda:\d+", device):
        raise FacekdError(f"device {device} is one GPU for {size} processes; use --device cuda, one for each")
    is_gpu = chosen.type == "cuda"
    dist.init_process_group(
        "nccl" if is_gpu else "gloo", rank=rank, world_size=size, device_id=chosen if is_gpu else None
    )
    try:
        yield World(rank, size, chosen)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or _LOST_PEER.search(str(error)):
            raise FacekdError(
                "another process of this run is gone, and what it said tells why; the same command resumes "
                f"({str(error).splitlines()[0].split('. ')[0]})"
            ) from error
        raise
    # Left in peace only: to leave in an error would break the others' exchanges, and hide the cause behind theirs.
    dist.destroy_process_group()


# How gloo puts it, in a plain RuntimeError.
_LOST_PEER = re.compile(r"connection (was )?(closed|reset|refused)", re.IGNORECASE)


def _choose_device(device: str, local_rank: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FacekdError(f"device {device} was asked for, but torch {torch.__version__} sees no GPU; use --device cpu")
    chosen = torch.device("cuda", local_rank) if device in ("auto", "cuda") else torch.device(device)
    if (chosen.index or 0) >= torch.cuda.device_count():
        raise FacekdError(
            f"local rank {local_rank} has no GPU {chosen.index}: this machine has {torch.cuda.device_count()}, counted "
            "from 0; start at most as many processes per node as there are GPUs"
        )
    torch.cuda.set_device(chosen)
    torch.backends.cudnn.benchmark = True  # batches keep their shape, so the search for the best kernels pays
    return chosen


def replicate(module: nn.Module, world: World, same_everywhere: tuple[str, ...] = ()) -> nn.Module:
    """The module with its gradients averaged over the world (DistributedDataParallel); itself in a world of one.

    Args:
        module: on the device of this process.
        world: who trains together.
        same_everywhere: beginnings of the names of buffers that every process keeps equal by itself; the main one's
            are not sent to the others before each step, which for a memory of every image would be gigabytes.
    """
    if world.size == 1:
        return module
    names = [name for name, _ in module.named_buffers() if name.removeprefix("_orig_mod.").startswith(same_everywhere)]
    if same_everywhere:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
    return DistributedDataParallel(module, device_ids=[world.device.index] if world.device.type == "cuda" else None)


def without_gradient_exchange(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients local: for all but the last of the micro-batches that make up one step."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def mean_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Element-wise mean over the processes, the same on each."""
    if world.size > 1:
        dist.all_reduce(values)
        values /= world.size
    return values


def gather_rows(rows: np.ndarray, world: World) -> np.ndarray:
    """Concatenate (n_rank, ...) arrays over the ranks, in rank order, on every rank; n may differ between ranks."""
    if world.size == 1:
        return rows
    gathered: list[np.ndarray | None] = [None] * world.size
    dist.all_gather_object(gathered, rows)
    return np.concatenate([part for part in gathered if part is not None])


def gather_tensor_rows(rows: torch.Tensor, world: World) -> torch.Tensor:
    """Concatenate tensors (n, ...) over the ranks, in rank order, on every rank; n is the same on all, no gradient."""
    if world.size == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world.size)]
    dist.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


def broadcast_from_main(value: Value, world: World) -> Value:
    """What the main process holds, on every process; for small plain objects."""
    if world.size == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def copy_buffers_from_main(module: nn.Module, world: World) -> None:
    """Give every process the main one's buffers (the statistics of batch normalisation), in place."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all(world: World) -> None:
    """Return once every process is here."""
    if world.size > 1:
        dist.barrier()
