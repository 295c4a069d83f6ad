"""Joins processes that train together. No other file names a collective operation.

A run started by `python -m torch.distributed.run --nproc_per_node N -m facekd train CONFIG` finds its rank in the
environment. A plain `facekd train CONFIG` is a world of one, in which every function here returns its input.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from facekd.errors import FacekdError
from facekd.utils.gpu_driver import require_gpu
from facekd.utils.processes.children import PATIENCE_VARIABLE, launched_as, saying_that_it_waits, seconds_until_given_up
from facekd.utils.wording import counted

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """Says which process this is among those that train together: `rank` of `size`, on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tells whether this process writes the files and the log."""
        return self.rank == 0


ALONE = World(0, 1, torch.device("cpu"))  # for callers outside a run


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Joins the other processes of this run, and leaves them at the end.

    Args:
        device: `"auto"` takes the GPU of this process's local rank if there is one, else the CPU.

    Raises:
        FacekdError: the environment describes no place among processes, this rank has no GPU of its own although the
            device asks for one, or the others cannot be reached.
    """
    launched = launched_as()
    rank, size = launched.rank, launched.size
    chosen = _choose_device(device, launched.local_rank)
    if size == 1:
        yield World(0, 1, chosen)
        return
    if re.fullmatch(r"cuda:\d+", device):
        raise FacekdError(f"device {device} is one GPU for {counted(size, 'process')}; use --device cuda, one for each")

    # Find the others, at the address that the launcher gives.
    is_gpu = chosen.type == "cuda"
    try:
        with saying_that_it_waits(launched):
            dist.init_process_group(
                "nccl" if is_gpu else "gloo",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=seconds_until_given_up()),
                device_id=chosen if is_gpu else None,
            )
    except (RuntimeError, ValueError) as error:
        raise FacekdError(f"rank {rank} did not reach the others: {str(error).splitlines()[0]}{_RESTARTED}") from error

    # A lost process shows up as a RuntimeError of an exchange: report it as a lost process.
    try:
        yield World(rank, size, chosen)
    except RuntimeError as error:
        if _SILENT_PEER.search(str(error)):
            raise FacekdError(
                f"another process of this run has not answered for {seconds_until_given_up():,} s: it is stopped, or "
                "its machine, disk or network does not answer. End it, and run the same command again, which resumes "
                f"(to wait longer, set {PATIENCE_VARIABLE})"
            ) from error
        if is_lost_peer(error):
            raise FacekdError(
                "another process of this run is gone, and what it said tells why; the same command resumes "
                f"({str(error).splitlines()[0].split('. ')[0]})"
            ) from error
        raise
    # Leave only without an error: otherwise the others' exchanges fail, and their errors hide the cause.
    dist.destroy_process_group()


# See https://github.com/pytorch/pytorch/issues/135712: restarted processes find the addresses of the dead ones.
_RESTARTED = (
    ". Processes that the launcher starts again find each other only if TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set "
    "for it: set that, and run the same command again"
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")
    else ""
)
# gloo reports a lost peer by these words, in a plain RuntimeError.
_LOST_PEER = re.compile(r"connection (was )?(closed|reset|refused)|pair closure|broken pipe", re.IGNORECASE)
_SILENT_PEER = re.compile(r"timed out waiting", re.IGNORECASE)


def is_lost_peer(error: BaseException) -> bool:
    """Tells whether an exchange failed because another process is gone, or does not answer."""
    if isinstance(error, dist.DistError):
        return True
    said = str(error) if isinstance(error, RuntimeError) else ""
    return bool(_LOST_PEER.search(said) or _SILENT_PEER.search(said))


def _choose_device(device: str, local_rank: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    takes_own = device in ("auto", "cuda")
    chosen = torch.device("cuda", local_rank) if takes_own else torch.device(device)
    require_gpu(torch.device("cuda") if takes_own else chosen)
    if (chosen.index or 0) >= torch.cuda.device_count():
        raise FacekdError(
            f"local rank {local_rank} has no GPU {chosen.index}: this machine has {torch.cuda.device_count()}, counted "
            "from 0; start at most as many processes per node as there are GPUs (or unset LOCAL_RANK, if no launcher "
            "set it)"
        )
    torch.cuda.set_device(chosen)
    torch.backends.cudnn.benchmark = True  # batches keep their shape, so searching for the best kernels pays off
    return chosen


def replicate(
    module: nn.Module, world: World, rank_invariant_buffers: tuple[str, ...] = (), own: tuple[str, ...] = ()
) -> nn.Module:
    """Wraps a module so that its gradients are averaged over the world.

    Returns it unchanged in a world of one, and where no gradient is to be exchanged: all is frozen or in `own`.

    Args:
        module: on the device of this process.
        world: the processes that train together.
        rank_invariant_buffers: prefixes of the names of buffers that every process computes alike. The main process
            does not send them to the others before each step; a memory of every image would be gigabytes.
        own: names of parameters that belong to this process alone, such as its shard of the classes: neither they nor
            their gradients are exchanged.
    """
    if world.size == 1 or not any(p.requires_grad for name, p in module.named_parameters() if name not in own):
        return module
    buffers = [
        name for name, _ in module.named_buffers() if rank_invariant_buffers and name.startswith(rank_invariant_buffers)
    ]
    if buffers or own:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, [*buffers, *own])
    return DistributedDataParallel(
        module,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # else gradients are held twice: gigabytes for a whole head of millions
    )


def make_scaler(world: World, *, enabled: bool) -> torch.amp.GradScaler:
    """Builds the loss scaler for fp16; with several processes, an overflow in one skips the update in all.

    Replicated gradients overflow on all processes together, those of a class shard only where the shard is.
    """
    scaler = torch.amp.GradScaler if world.size == 1 else _ScalerOfAll
    return scaler(world.device.type, enabled=enabled)


class _ScalerOfAll(torch.amp.GradScaler):
    """Skips an update if the gradients of any process overflowed.

    It takes the maximum of the findings: torch's `ShardedGradScaler` adds them up, but fused optimisers skip an update
    only where the finding is exactly 1.
    """

    def _unscale_grads_(self, *args: Any, **kwargs: Any) -> dict[torch.device, torch.Tensor]:
        found = super()._unscale_grads_(*args, **kwargs)
        for found_inf in found.values():
            dist.all_reduce(found_inf, dist.ReduceOp.MAX)
        return found


def without_gradient_exchange(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keeps gradients local, for all but the last micro-batch of a step."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def mean_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Returns the element-wise mean over the processes, the same on each."""
    if world.size > 1:
        dist.all_reduce(values)
        values /= world.size
    return values


def sum_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Sums element-wise over the processes, in place; the result is the same on each."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def max_over_world(values: torch.Tensor, world: World) -> torch.Tensor:
    """Takes the element-wise maximum over the processes, in place; the result is the same on each."""
    if world.size > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def gather_rows(rows: np.ndarray, world: World) -> np.ndarray:
    """Concatenates arrays (n, ...) over the ranks, in rank order, on every rank; n may differ between ranks."""
    if world.size == 1:
        return rows
    gathered: list[np.ndarray | None] = [None] * world.size
    dist.all_gather_object(gathered, rows)
    return np.concatenate([part for part in gathered if part is not None])


_rows_of_ranks: ContextVar[tuple[int, ...] | None] = ContextVar("rows of ranks", default=None)


@contextlib.contextmanager
def rows_of_ranks(counts: Sequence[int]) -> Iterator[None]:
    """Says how many rows each process has in the gathers of a block; elsewhere all have the same number.

    Telling each other instead would make a GPU wait in each gather.
    """
    token = _rows_of_ranks.set(tuple(counts))
    try:
        yield
    finally:
        _rows_of_ranks.reset(token)


def slices_of_ranks(count: int, world: World) -> list[slice]:
    """Returns which of `count` gathered rows came from each process."""
    counts = _rows_of_ranks.get() or (count // world.size,) * world.size
    assert len(counts) == world.size and sum(counts) == count, (counts, count, world)
    return [slice(stop - own, stop) for own, stop in zip(counts, itertools.accumulate(counts), strict=True)]


def gather_tensor_rows(rows: torch.Tensor, world: World) -> torch.Tensor:
    """Concatenates tensors (n, ...) over the ranks, in rank order, without gradient; for n see `rows_of_ranks`."""
    if world.size == 1:
        return rows
    counts = _rows_of_ranks.get() or (len(rows),) * world.size
    assert counts[world.rank] == len(rows), (counts, rows.shape, world)
    filled = _filled_up(rows.detach(), max(counts))
    gathered = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(gathered, filled)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def _filled_up(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Returns `count` contiguous rows, as exchanges need as many of all processes: those given, then zeros."""
    missing = count - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows.contiguous()


def gather_with_gradient(rows: torch.Tensor, world: World) -> torch.Tensor:
    """Does what `gather_tensor_rows` does, with gradient: a row's gradient is the sum over all processes."""
    if world.size == 1:
        return rows
    gathered = _GatherRows.apply(rows, world)
    assert isinstance(gathered, torch.Tensor)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor, world: World) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gathered = gather_tensor_rows(rows, world)
        ctx.world, ctx.slices = world, slices_of_ranks(len(gathered), world)
        return gathered

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = [grad[part] for part in ctx.slices]
        filled = [_filled_up(part, max(map(len, parts))) for part in parts]
        summed = torch.empty_like(filled[0])
        dist.reduce_scatter(summed, filled)
        return summed[: len(parts[ctx.world.rank])], None


def write_rows_of_all(folder: Path, rows: dict[str, torch.Tensor], count: int, world: World) -> None:
    """Writes tensors of `count` rows into a folder, each process its own rows, divided as `torch.chunk` does.

    Args:
        folder: created if it does not exist.
        rows: this process's rows (n, ...) by name.
        count: number of rows of all processes together.
        world: the processes that hold rows.

    Raises:
        OSError: a process could not write its rows; raised on every process.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    logical = {name: _as_part(value, count, world) for name, value in rows.items()}
    with _quietly(), _failures_as_os_errors():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(logical, storage_writer=writer, no_dist=world.size == 1)


def read_rows_of_all(folder: Path, rows: dict[str, torch.Tensor], count: int, world: World) -> None:
    """Fills tensors with this process's rows, in place, from a folder that any number of processes wrote.

    Args:
        folder: written by `write_rows_of_all`.
        rows: this process's rows (n, ...) by name.
        count: number of rows of all processes together.
        world: the processes that read, each by itself.

    Raises:
        OSError: the rows could not be read, or have another shape.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    logical = {name: _as_part(value, count, world) for name, value in rows.items()}
    with _quietly(), _failures_as_os_errors():
        load(logical, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def parts_in_folder(folder: Path) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]]:
    """Reads the headers in a folder that `write_rows_of_all` wrote: for each tensor where its parts begin, their sizes
    and types, in ascending order."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found = HuggingFaceStorageReader(str(folder)).read_metadata()
    places: dict[Any, Any] = found.storage_data
    dtypes = {(index.fqn, tuple(index.offset)): place.dtype for index, place in places.items()}
    parts = {
        name: [(tuple(part.offsets), tuple(part.sizes), dtypes[name, tuple(part.offsets)]) for part in item.chunks]
        for name, item in found.state_dict_metadata.items()
        if isinstance(item, TensorStorageMetadata)
    }
    return {name: sorted(items, key=lambda part: part[:2]) for name, items in parts.items()}


def _as_part(rows: torch.Tensor, count: int, world: World) -> torch.Tensor:
    if world.size == 1:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    # Use the existing group: for a CPU run on a machine with a GPU, `init_device_mesh` would make a group for each
    # tensor, and never free one.
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, rows.device.type)
    shape = torch.Size((count, *rows.shape[1:]))
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=rows.stride())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences torch's warnings that there is no process group: one process alone has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextlib.contextmanager
def _failures_as_os_errors() -> Iterator[None]:
    """Turns torch's `CheckpointException` into OSError: it is not an `Exception`, so handlers would miss it."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise OSError(f"process {rank}: {cause}") from error


def broadcast_from_main(value: Value, world: World) -> Value:
    """Returns the main process's value on every process; for small plain objects."""
    if world.size == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def failing_together(world: World) -> Iterator[None]:
    """Fails on every process if the block fails on one, so that none waits for a process that has stopped.

    Processes wait for each other at the end of the block, and must not do so inside it.

    Raises:
        OSError | FacekdError: on every process, the error of the first process that failed. Another kind of error is
            raised unchanged on its own process, and described in a FacekdError on the others.
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
    """Copies the main process's buffers (the statistics of batch normalisation) to every process, in place."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all(world: World) -> None:
    """Returns once every process has called it."""
    if world.size > 1:
        dist.barrier()


AMP_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
