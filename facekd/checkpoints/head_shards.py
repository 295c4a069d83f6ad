"""Checkpoints of a head that is shared out over processes: each writes its own classes, any number reads them back.

Beside `checkpoints/000.pt` lies the folder `000.head/`, with the centres and what the optimiser remembers of them as
logical (C, D) tensors, written by `torch.distributed.checkpoint`. It is kept in safetensors files, for that library's
own format is a pickle, and a checkpoint must not run code. The `.pt` is written last and names the folder under
`head_shards`: without it the folder is a leftover, and one that is saved again names a new folder, so that the old one
stays whole until then. On disk a head has no shards any more: 4 processes write it, 1, 2 or 3 read it, and so does a
run whose head is not shared out.
"""

from __future__ import annotations

import itertools
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekd.checkpoints.contents import HEAD_SUFFIX
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


def detach_rows(content: dict[str, Any], head: MarginClassifier, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Take what has a row for each class out of a checkpoint's content, for `write_rows`.

    Args:
        content: of a checkpoint, with `head` and `training`; changed in place.
        head: a sharded one.
        optimizer: that of the run.
    """
    rows = {"weight": content["head"].pop("weight")}
    states = content["training"]["optimizer"]["state"]
    index = _place_in(optimizer, head)
    if index in states:
        by_row = {
            name: value
            for name, value in states[index].items()
            if isinstance(value, Tensor) and value.shape == head.weight.shape
        }
        rows |= {f"optimizer.{name}": value for name, value in by_row.items()}
        # A new dict, for the old one is the optimiser's own.
        states[index] = {name: value for name, value in states[index].items() if name not in by_row}
    return rows


def attach_rows(path: Path, content: dict[str, Any], head: MarginClassifier, optimizer: torch.optim.Optimizer) -> None:
    """Put the rows that this process needs back into a checkpoint's content, however each of the two is shared out.

    Args:
        path: the checkpoint, for the folder beside it and for messages.
        content: from `load_checkpoint`, with `training`; changed in place.
        head: that of the run.
        optimizer: that of the run.

    Raises:
        CheckpointError: see `read_rows`.
    """
    remembered = content["training"]["optimizer"]["state"].get(_place_in(optimizer, head), {})
    if "head_shards" in content:
        rows = read_rows(path, content, head.shards)
        content["head"]["weight"] = rows.pop("weight")
        remembered.update({name.removeprefix("optimizer."): value for name, value in rows.items()})
    elif head.shards is not None:
        whole = content["head"]["weight"].shape
        content["head"]["weight"] = head.shards.own(content["head"]["weight"])
        for name, value in remembered.items():
            if isinstance(value, Tensor) and value.shape == whole:
                remembered[name] = head.shards.own(value).clone()  # a view would keep all classes in memory


def _place_in(optimizer: torch.optim.Optimizer, head: MarginClassifier) -> int:
    """The number under which an optimiser's state dict has the head; -1 where the head does not learn."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return next((index for index, parameter in enumerate(parameters) if parameter is head.weight), -1)


def write_rows(path: Path, rows: dict[str, Tensor], shards: ClassShards, images_seen: int) -> dict[str, Any]:
    """Write rows of all processes into the folder that goes with a checkpoint; to be called by every process.

    Args:
        path: the checkpoint, which is to be written afterwards.
        rows: by name, those of this process (C of it, D).
        shards: whose.
        images_seen: of the run, to tell folders apart.

    Returns:
        What the checkpoint has to say under `head_shards`.

    Raises:
        CheckpointError: it could not be written; on every process, whichever of them could not.
    """
    world = shards.world
    temporary = written = path.with_name(f".{path.stem}.tmp{HEAD_SUFFIX}")
    try:
        name = ""
        with failing_together(world):
            if world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
                name = _new_name(path, images_seen)
        folder = path.with_name(broadcast_from_main(name, world))
        write_rows_of_all(temporary, rows, shards.num_classes, world)
        with failing_together(world):
            if world.is_main:
                written = temporary.rename(folder)
        checksums = _checksums(folder, world)
    except OSError as error:  # a peer that is gone is another error, and not the disk's fault
        if world.is_main:  # every process is done with it by now; on a full disk its space is wanted
            shutil.rmtree(written, ignore_errors=True)
        raise CheckpointError(
            f"{path}: its head could not be written ({_last_line(error)}); is the disk full? Free some space and run "
            "the same command again: it goes on from the last whole checkpoint"
        ) from error
    return {
        "folder": folder.name,
        "shapes": {key: [shards.num_classes, value.shape[1]] for key, value in rows.items()},
        "checksums": checksums,
    }


def _last_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[-1]


def _new_name(path: Path, images_seen: int) -> str:
    """Of a folder that is not there yet: what the checkpoint as it was names stays whole until it is written over."""
    name = path.stem if path.stem.isdigit() else f"{path.stem}-{images_seen:012d}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name + HEAD_SUFFIX for name in names if not path.with_name(name + HEAD_SUFFIX).exists())


def _checksums(folder: Path, world: World) -> dict[str, int]:
    """CRC-32 by file name, which safetensors has none of; each process reads some of the files, and knows of all."""
    found = []
    with failing_together(world):
        for file in sorted(folder.iterdir())[world.rank :: world.size]:
            checksum = 0
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    checksum = zlib.crc32(block, checksum)
            found.append((file.name, checksum))
    return dict(gather_rows(np.array(found, dtype=object).reshape(-1, 2), world).tolist())


def read_rows(path: Path, content: dict[str, Any], shards: ClassShards | None = None) -> dict[str, Tensor]:
    """Rows that a checkpoint keeps in the folder beside it, by name.

    Args:
        path: the checkpoint.
        content: what is in it.
        shards: whose rows; None reads those of all classes.

    Raises:
        CheckpointError: the folder is absent, incomplete or damaged; on every process, whichever of them found it so.
    """
    folder, shapes = path.with_name(content["head_shards"]["folder"]), content["head_shards"]["shapes"]
    world = ALONE if shards is None else shards.world
    try:
        with failing_together(world):
            if not folder.is_dir():
                raise CheckpointError(f"{path}: its head lies in {folder.name} beside it, which is not there")
            found = rows_in_folder(folder)
            rows = {}
            for key, (count, size) in shapes.items():
                held, dtype = found.get(key, (0, torch.float32))
                if held != count:
                    raise CheckpointError(
                        f"{folder}: incomplete: {held:,} of {count:,} rows of {key!r} are there; files are missing"
                    )
                rows[key] = torch.empty(count if shards is None else shards.stop - shards.start, size, dtype=dtype)
        for name, checksum in _checksums(folder, world).items():
            if content["head_shards"].get("checksums", {}).get(name, checksum) != checksum:
                raise CheckpointError(f"{folder}: damaged: the bytes of {name} do not match their checksum")
        with failing_together(world):
            read_rows_of_all(folder, rows, shapes["weight"][0], world)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors has errors of its own, and torch wraps them in others
        if is_lost_peer(error):
            raise  # nothing is wrong with the checkpoint
        raise CheckpointError(f"{folder}: damaged: {_last_line(error)}") from error
    return rows
