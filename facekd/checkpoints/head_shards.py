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
from typing import Any

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
    parts_in_folder,
    read_rows_of_all,
    write_rows_of_all,
)
from facekd.errors import CheckpointError
from facekd.files.syncing import sync_folder, sync_tree
from facekd.files.temporaries import temporary_folder
from facekd.head.class_shards import ClassShards
from facekd.head.classifier import MarginClassifier
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

ROW_DTYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16}


def detach_rows(checkpoint: Checkpoint, head: MarginClassifier, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Removes the tensors that have one row per class from a checkpoint and returns them, for `write_rows`.

    Args:
        checkpoint: has `head` and `training`; changed in place.
        head: the run's classifier, which is sharded.
        optimizer: the run's optimiser.
    """
    assert checkpoint.head is not None and checkpoint.training is not None
    rows = {"weight": checkpoint.head.pop("weight")}
    states = checkpoint.training.optimizer.get("state", {})
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
    kept = checkpoint.training.optimizer.get("state", {}).get(_place_in(optimizer, head), {})
    if checkpoint.head_shards is not None:
        rows = read_rows(path, checkpoint.head_shards, head.shards)
        checkpoint.head["weight"] = rows.pop("weight")
        kept.update({name.removeprefix("optimizer."): value for name, value in rows.items()})
    elif head.shards is not None and "weight" in checkpoint.head:
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
        for file in _row_files(folder)[world.rank :: world.size]:
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
    world = ALONE if shards is None else shards.world
    try:
        # Check that all rows are there, before memory is taken for any.
        with failing_together(world):
            count, size = _check_description(path, stored, shards)
            folder = path.with_name(stored.folder)
            if not folder.is_dir():
                raise CheckpointError(f"{path}: its head is in {shown(stored.folder)} beside it, which is missing")
            _check_files(folder, stored)
            parts = parts_in_folder(folder)
            dtypes = {key: _check_rows(folder, key, parts.get(key, []), count, size) for key in stored.shapes}
            held = count if shards is None else shards.stop - shards.start
            rows = {key: torch.empty(held, size, dtype=dtype) for key, dtype in dtypes.items()}

        # Verify the checksums before reading anything.
        for name, checksum in _checksums(folder, world).items():
            if stored.checksums.get(name, checksum) != checksum:
                raise CheckpointError(f"{folder}: damaged: the bytes of {name} do not match their checksum")
        with failing_together(world):
            read_rows_of_all(folder, rows, count, world)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors has its own errors, which torch wraps in others
        if is_lost_peer(error):
            raise  # the checkpoint is not at fault
        place = path.with_name(shown(stored.folder))
        raise CheckpointError(f"{place}: damaged: {shown(_last_line(error))}") from error
    return rows


def _check_description(path: Path, stored: HeadShards, shards: ClassShards | None) -> tuple[int, int]:
    """Checks what a checkpoint says of its head; returns the numbers of rows and of columns."""
    if Path(stored.folder).name != stored.folder or not stored.folder.endswith(HEAD_SUFFIX):
        raise CheckpointError(
            f"{path}: damaged: its head is said to be in '{shown(stored.folder)}', expected a folder beside it, named "
            f"*{HEAD_SUFFIX}"
        )
    shape = stored.shapes.get("weight")
    others = [key for key, other in stored.shapes.items() if other != shape or not _is_row_name(key)]
    if not isinstance(shape, list | tuple) or [type(n) for n in shape] != [int, int] or min(shape) < 1 or others:
        raise CheckpointError(
            f"{path}: damaged: its head has tensors of the shapes {shown(stored.shapes)}, expected 'weight' with a row "
            "for each class, and the optimiser's with as many"
        )
    count, size = shape
    if shards is not None and count != shards.num_classes:
        raise CheckpointError(f"{path}: its head has {counted(count, 'class')}, this run's has {shards.num_classes:,}")
    return count, size


def _is_row_name(key: object) -> bool:
    return key == "weight" or (isinstance(key, str) and key.startswith("optimizer."))


def _row_files(folder: Path) -> list[Path]:
    """Lists the files that hold rows, by name; torch reads those with this suffix."""
    return sorted(folder.glob("*.safetensors"))


def _check_files(folder: Path, stored: HeadShards) -> None:
    """Checks that a folder holds nothing to read but regular files that the checkpoint names."""
    for file in _row_files(folder):
        if not file.is_file():
            raise CheckpointError(f"{folder}: damaged: {shown(file.name)} is no regular file")
        if stored.checksums and file.name not in stored.checksums:
            raise CheckpointError(
                f"{folder}: holds {shown(file.name)}, which is not of this checkpoint; move it out of the folder"
            )


def _check_rows(folder: Path, key: str, parts: list[Any], count: int, size: int) -> torch.dtype:
    """Checks that the parts of a tensor are its rows, each once; returns their type."""
    parts = [part for part in parts if 0 not in part[1]]
    held = sum(sizes[0] if sizes else 0 for _, sizes, _ in parts)
    if held < count:
        raise CheckpointError(
            f"{folder}: incomplete: {held:,} of {counted(count, 'row')} of '{shown(key)}' found; files are missing"
        )

    # Rows that lie in no part would be whatever was in memory.
    row, kinds = 0, {dtype for _, _, dtype in parts}
    for first, sizes, _ in parts:
        if first != (row, 0) or sizes[1:] != (size,):
            raise CheckpointError(
                f"{folder}: damaged: a part of '{shown(key)}' begins at {shown(first)} and is of size {shown(sizes)}, "
                f"expected rows of {size:,} from row {row:,} on"
            )
        row += sizes[0]
    if row != count or len(kinds) != 1 or not kinds <= ROW_DTYPES:
        listed = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise CheckpointError(
            f"{folder}: damaged: it has {counted(row, 'row')} of '{shown(key)}', of type {listed}; expected "
            f"{counted(count, 'row')} of one type of real numbers"
        )
    return kinds.pop()
