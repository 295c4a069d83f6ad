"""Saves a head that is sharded over processes: each writes its own classes, and any number of processes reads them.

Beside `checkpoints/000.pt` lies the folder `000.head/`. It holds the centres and their optimiser state as logical
(C, D) tensors, written by `torch.distributed.checkpoint` into safetensors files, because that library's own format is a
pickle and a checkpoint must not run code.

The `.pt` is written last and names the folder under `head_shards`, so a folder that no file names is a leftover. When a
checkpoint is saved again it names a new folder, and the old one stays whole until then. The files do not depend on the
number of processes: 4 may write them and 1, 2 or 3 read them, and so may a run whose head is not sharded.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facekd.checkpoints.contents import HEAD_SUFFIX, Checkpoint, HeadShards
from facekd.distributed import (
    ALONE,
    World,
    broadcast_from_main,
    failing_together,
    gather_rows,
    is_lost_peer,
    read_rows_of_all,
    rows_in_folder,
    write_rows_of_all,
)
from facekd.errors import CheckpointError
from facekd.head.class_shards import ClassShards
from facekd.head.classifier import MarginClassifier
from facekd.utils.files import sync_folder, sync_tree
from facekd.utils.temporaries import temporary_folder


def detach_rows(checkpoint: Checkpoint, head: MarginClassifier, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Removes the tensors that have one row per class from a checkpoint and returns them, for `write_rows`.

    Args:
        checkpoint: has `head` and `training`; changed in place.
        head: the run's classifier, which is sharded.
        optimizer: the run's optimiser.
    """
    assert checkpoint.head is not None and checkpoint.training is not None
    rows = {"weight": checkpoint.head.pop("weight")}
    states = checkpoint.training.optimizer["state"]
    index = _place_in(optimizer, head)
    if index in states:
        by_row = {
            name: value
            for name, value in states[index].items()
            if isinstance(value, Tensor) and value.shape == head.weight.shape
        }
        rows |= {f"optimizer.{name}": value for name, value in by_row.items()}
        # A new dict, because the old one is the optimiser's own.
        states[index] = {name: value for name, value in states[index].items() if name not in by_row}
    return rows


def attach_rows(path: Path, checkpoint: Checkpoint, head: MarginClassifier, optimizer: torch.optim.Optimizer) -> None:
    """Puts the rows that this process needs back into a checkpoint, whether or not the file or the run is sharded.

    Args:
        path: the checkpoint's file, for the folder beside it and for messages.
        checkpoint: has `head` and `training`; changed in place.
        head: the run's classifier.
        optimizer: the run's optimiser.

    Raises:
        CheckpointError: see `read_rows`.
    """
    assert checkpoint.head is not None and checkpoint.training is not None
    kept = checkpoint.training.optimizer["state"].get(_place_in(optimizer, head), {})
    if checkpoint.head_shards is not None:
        rows = read_rows(path, checkpoint.head_shards, head.shards)
        checkpoint.head["weight"] = rows.pop("weight")
        kept.update({name.removeprefix("optimizer."): value for name, value in rows.items()})
    elif head.shards is not None:
        whole = checkpoint.head["weight"].shape
        checkpoint.head["weight"] = head.shards.own(checkpoint.head["weight"])
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == whole:
                kept[name] = head.shards.own(value).clone()  # a view would keep all classes in memory


def _place_in(optimizer: torch.optim.Optimizer, head: MarginClassifier) -> int:
    """Returns the head's index in an optimiser's state dict; -1 if the head does not learn."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return next((index for index, parameter in enumerate(parameters) if parameter is head.weight), -1)


def write_rows(path: Path, rows: dict[str, Tensor], shards: ClassShards, images_seen: int) -> HeadShards:
    """Writes the rows of all processes into the folder beside a checkpoint; every process calls it.

    Args:
        path: the checkpoint's file, which the caller writes afterwards.
        rows: the rows of this process by name, each (its classes, D).
        shards: which process has which classes.
        images_seen: images the run has seen, to tell folders apart.

    Returns:
        The checkpoint's `head_shards`.

    Raises:
        CheckpointError: a process could not write its rows; raised on every process.
    """
    world = shards.world
    written: Path | None = None
    try:
        # The main process makes a temporary folder, which is renamed when every process has written its rows.
        with contextlib.ExitStack() as stack:
            name = staged_name = ""
            with failing_together(world):
                if world.is_main:
                    made = stack.enter_context(temporary_folder(path.with_suffix(HEAD_SUFFIX)))
                    staged_name = os.fspath(made.relative_to(path.parent))
                    name = _new_name(path, images_seen)
            name, staged_name = broadcast_from_main((name, staged_name), world)
            folder, staged = path.with_name(name), path.parent / staged_name
            write_rows_of_all(staged, rows, shards.num_classes, world)
            with failing_together(world):
                if world.is_main:
                    sync_tree(staged)
                    written = staged.rename(folder)
                    sync_folder(folder.parent)
        checksums = _checksums(folder, world)
    except OSError as error:  # a lost peer raises another error, which is not the disk's fault
        if written is not None:  # no process uses it any more, and a full disk needs its space
            shutil.rmtree(written, ignore_errors=True)
        raise CheckpointError(
            f"{path}: its head could not be written ({_last_line(error)}); is the disk full? Free some space and run "
            "the same command again: it continues from the last whole checkpoint"
        ) from error
    shapes = {key: [shards.num_classes, value.shape[1]] for key, value in rows.items()}
    return HeadShards(folder.name, shapes, checksums)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[-1]


def _new_name(path: Path, images_seen: int) -> str:
    """Returns an unused folder name, so that the present folder stays whole until the file is replaced."""
    name = path.stem if path.stem.isdigit() else f"{path.stem}-{images_seen:012d}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name + HEAD_SUFFIX for name in names if not path.with_name(name + HEAD_SUFFIX).exists())


def _checksums(folder: Path, world: World) -> dict[str, int]:
    """Computes the CRC-32 of each file by name, because safetensors has none; each process reads some files."""
    found = []
    with failing_together(world):
        for file in sorted(folder.iterdir())[world.rank :: world.size]:
            checksum = 0
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    checksum = zlib.crc32(block, checksum)
            found.append((file.name, checksum))
    return dict(gather_rows(np.array(found, dtype=object).reshape(-1, 2), world).tolist())


def read_rows(path: Path, stored: HeadShards, shards: ClassShards | None = None) -> dict[str, Tensor]:
    """Reads the rows that a checkpoint keeps in the folder beside it, by name.

    Args:
        path: the checkpoint's file.
        stored: the checkpoint's `head_shards`.
        shards: which classes to read; None reads all.

    Raises:
        CheckpointError: the folder is absent, incomplete or damaged; raised on every process, whichever found it.
    """
    folder, shapes = path.with_name(stored.folder), stored.shapes
    world = ALONE if shards is None else shards.world
    try:
        # Check that all rows are there, and allocate the tensors to read them into.
        with failing_together(world):
            if not folder.is_dir():
                raise CheckpointError(f"{path}: its head is in {folder.name} beside it, which is missing")
            found = rows_in_folder(folder)
            rows = {}
            for key, (count, size) in shapes.items():
                held, dtype = found.get(key, (0, torch.float32))
                if held != count:
                    raise CheckpointError(
                        f"{folder}: incomplete: {held:,} of {count:,} rows of {key!r} found; files are missing"
                    )
                rows[key] = torch.empty(count if shards is None else shards.stop - shards.start, size, dtype=dtype)

        # Verify the checksums before reading anything.
        for name, checksum in _checksums(folder, world).items():
            if stored.checksums.get(name, checksum) != checksum:
                raise CheckpointError(f"{folder}: damaged: the bytes of {name} do not match their checksum")
        with failing_together(world):
            read_rows_of_all(folder, rows, shapes["weight"][0], world)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors has its own errors, which torch wraps in others
        if is_lost_peer(error):
            raise  # the checkpoint is not at fault
        raise CheckpointError(f"{folder}: damaged: {_last_line(error)}") from error
    return rows
