"""Processes that train together. The only file that names a collective.

A run started by `python -m torch.distributed.run --nproc_per_node N -m facekd train CONFIG` finds its rank in the
environment; a plain `facekd train CONFIG` is a world of one, for which every function here is the identity.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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


ALONE = World(0, 1, torch.device("cpu"))  # for what asks only who else is there


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
    try:
        dist.init_process_group(
            "nccl" if is_gpu else "gloo", rank=rank, world_size=size, device_id=chosen if is_gpu else None
        )
    except RuntimeError as error:
        raise FacekdError(f"rank {rank} did not reach the others: {str(error).splitlines()[0]}{_RESTARTED}") from error
    try:
        yield World(rank, size, chosen)
    except RuntimeError as error:
        if is_lost_peer(error):
            raise FacekdError(
                "another process of this run is gone, and what it said tells why; the same command resumes "
                f"({str(error).splitlines()[0].split('. ')[0]})"
            ) from error
        raise
    # Left in peace only: to leave in an error would break the others' exchanges, and hide the cause behind theirs.
    dist.destroy_process_group()


# Of https://github.com/pytorch/pytorch/issues/135712: processes started again find the addresses of those before them.
_RESTARTED = (
    ". Processes that the launcher starts again find each other only if TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set "
    "for it: set that, and run the same command again"
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    else ""
)
# How gloo puts it, in a plain RuntimeError.
_LOST_PEER = re.compile(r"connection (was )?(closed|reset|refused)", re.IGNORECASE)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an exchange failed because another process is gone."""
    return isinstance(error, dist.DistError) or bool(isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)))


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


def replicate(
    module: nn.Module, world: World, rank_invariant_buffers: tuple[str, ...] = (), own: tuple[str, ...] = ()
) -> nn.Module:
    """Wraps a module so that its gradients are averaged over the world; returns it unchanged in a world of one.

    Args:
        module: on the device of this process.
        world: the processes that train together.
        rank_invariant_buffers: prefixes of the names of buffers that every process computes alike. The main process
            does not send them to the others before each step; a memory of every image would be gigabytes.
        own: names of parameters that belong to this process alone, such as its shard of the classes: neither they nor
            their gradients are exchanged.
    """
    if world.size == 1:
        return module
    buffers = [
        name for name, _ in module.named_buffers() if rank_invariant_buffers and name.startswith(rank_invariant_buffers)
    ]
    if buffers or own:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, [*buffers, *own])
    return DistributedDataParallel(
        module,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # or what is exchanged is held twice: gigabytes, for a whole head of millions
    )


def make_scaler(world: World, *, enabled: bool) -> torch.amp.GradScaler:
    """A scaler of the loss for fp16; in a world of several, one overflow anywhere skips the update everywhere.

    Replicated gradients overflow together, those of a class shard only where it is held.
    """
    scaler = torch.amp.GradScaler if world.size == 1 else _ScalerOfAll
    return scaler(world.device.type, enabled=enabled)


class _ScalerOfAll(torch.amp.GradScaler):
    """One whose finding that gradients overflowed is that of all processes.

    By the maximum: torch's `ShardedGradScaler` adds the findings up, and fused optimisers skip an update at exactly 1.
    """

    def _unscale_grads_(self, *args: Any, **kwargs: Any) -> dict[torch.device, torch.Tensor]:
        found = super()._unscale_grads_(*args, **kwargs)
        for found_inf in found.values():
            dist.all_reduce(found_inf, dist.ReduceOp.MAX)
        return found


def without_gradient_exchange(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients local: for all but the last of the micro-batches that make up one step."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def mean_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Element-wise mean over the processes, the same on each."""
    if world.size > 1:
        dist.all_reduce(values)
        values /= world.size
    return values


def sum_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Element-wise sum over the processes, in place, the same on each."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def max_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Element-wise maximum over the processes, in place, the same on each."""
    if world.size > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
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


def gather_with_gradient(rows: torch.Tensor, world: World) -> torch.Tensor:
    """`gather_tensor_rows`, differentiable: the gradient of a row is the sum of what every process has for it."""
    if world.size == 1:
        return rows
    gathered = _GatherRows.apply(rows, world)
    assert isinstance(gathered, torch.Tensor)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor, world: World) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.world = world
        return gather_tensor_rows(rows, world)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = [part.contiguous() for part in grad.chunk(ctx.world.size)]
        summed = torch.empty_like(parts[0])
        dist.reduce_scatter(summed, parts)
        return summed, None


def write_rows_of_all(folder: Path, rows: dict[str, torch.Tensor], count: int, world: World) -> None:
    """Write tensors of `count` rows into a folder, each process its own; the split is that of `torch.chunk`.

    Args:
        folder: made if need be.
        rows: by name, (n, ...) of this process.
        count: of all processes.
        world: who holds rows.

    Raises:
        OSError: on every process, where one of them could not write its own.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    logical = {name: _as_part(value, count, world) for name, value in rows.items()}
    with _quietly(), _failures_as_os_errors():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(logical, storage_writer=writer, no_dist=world.size == 1)


def read_rows_of_all(folder: Path, rows: dict[str, torch.Tensor], count: int, world: World) -> None:
    """Fill tensors with the rows of this process, in place, from what any number of processes wrote.

    Args:
        folder: that `write_rows_of_all` wrote.
        rows: by name, (n, ...) of this process.
        count: of all processes.
        world: who reads; each does so by itself.

    Raises:
        OSError: they could not be read, or are of another shape.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    logical = {name: _as_part(value, count, world) for name, value in rows.items()}
    with _quietly(), _failures_as_os_errors():
        load(logical, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def rows_in_folder(folder: Path) -> dict[str, tuple[int, torch.dtype]]:
    """How many rows of each tensor lie in a folder that `write_rows_of_all` wrote, and of which type."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (sum(chunk.sizes[0] for chunk in item.chunks), item.properties.dtype)
        for name, item in found.items()
        if isinstance(item, TensorStorageMetadata)
    }


def _as_part(rows: torch.Tensor, count: int, world: World) -> torch.Tensor:
    if world.size == 1:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    # Of the group there is: `init_device_mesh` makes another for each tensor where the run is on the CPU of a machine
    # with a GPU, and none is ever freed.
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, rows.device.type)
    shape = torch.Size((count, *rows.shape[1:]))
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=rows.stride())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's remarks that there is no process group, which is so where one process runs alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextlib.contextmanager
def _failures_as_os_errors() -> Iterator[None]:
    """torch's exception for failures of any process is no `Exception`: it would pass by whoever handles those."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise OSError(f"process {rank}: {cause}") from error


def broadcast_from_main(value: Value, world: World) -> Value:
    """What the main process holds, on every process; for small plain objects."""
    if world.size == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def failing_together(world: World) -> Iterator[None]:
    """A block that fails everywhere if it fails anywhere: none goes on, to wait for a process that has stopped.

    Processes wait for each other at its end, and must not within it.

    Raises:
        OSError | FacekdError: on every process, that of the first in which it failed. What is neither is raised as it
            is where it happened, and named to the others.
    """
    if world.size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    is_plain = error is None or isinstance(error, OSError | FacekdError)
    failures: list[Exception | None] = [None] * world.size
    dist.all_gather_object(failures, error if is_plain else FacekdError(f"process {world.rank}: {error!r}"))
    if error is not None and not is_plain:
        raise error
    first = next((failure for failure in failures if failure is not None), None)
    if first is not None:
        raise first from error


def copy_buffers_from_main(module: nn.Module, world: World) -> None:
    """Give every process the main one's buffers (the statistics of batch normalisation), in place."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all(world: World) -> None:
    """Return once every process is here."""
    if world.size > 1:
        dist.barrier()


AMP_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
