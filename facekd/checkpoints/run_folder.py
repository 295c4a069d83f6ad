"""Finds, names and removes the checkpoints in a run's folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from facekd.checkpoints.contents import HEAD_SUFFIX, SUFFIX
from facekd.errors import CheckpointError
from facekd.files.reading import require_regular_file

NUMBERED = re.compile("[0-9]{12,15}")  # names sort by age; what people call otherwise, such as 5.pt, is none of a run


@dataclass(frozen=True)
class CheckpointConfig:
    """Says when checkpoints are written and how many are kept.

    Args:
        every_images: images between checkpoints; 0 goes by the clock alone. One is always written at the end.
        every_minutes: minutes between checkpoints, the most that a kill can cost; 0 goes by images alone.
        keep: number of newest checkpoints to keep, besides `best.pt`, the best by validation accuracy.
    """

    every_images: int = 0
    every_minutes: float = 15.0
    keep: int = 3


def not_written(path: Path, error: Exception) -> CheckpointError:
    """Returns the error for a checkpoint that could not be written; it says where the run will continue."""
    remedy = "is the disk full? Free some space and"
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "mend that and"
    why = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
    return CheckpointError(
        f"{path}: could not be written ({why}); {remedy} run the same command again: "
        f"{_what_is_left(path.parent.parent)}"
    )


def _what_is_left(run_folder: Path) -> str:
    found = list_checkpoints(run_folder)
    return f"it continues from {found[-1].name}" if found else "it starts anew, because there is no earlier checkpoint"


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Returns the checkpoint file that `path` means: the file itself, or the latest one in a run's folder."""
    file = Path(path)
    if file.is_dir():
        found = list_checkpoints(file)
        if not found:
            raise CheckpointError(f"{file}: no checkpoint in this folder (looked for checkpoints/*{SUFFIX})")
        return found[-1]
    if not file.exists():
        raise CheckpointError(f"{file}: no such checkpoint")
    require_regular_file(file)
    return file


def checkpoint_path(run_folder: Path, images_seen: int) -> Path:
    """Returns the path of the checkpoint taken after `images_seen` images; names sort by age."""
    return run_folder / "checkpoints" / f"{images_seen:012d}{SUFFIX}"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Lists the numbered checkpoints of a run, oldest first, without `best.pt` and other names."""
    return sorted(path for path in (run_folder / "checkpoints").glob(f"*{SUFFIX}") if NUMBERED.fullmatch(path.stem))


def keep_last(run_folder: Path, count: int) -> None:
    """Deletes all but the `count` newest numbered checkpoints."""
    for path in list_checkpoints(run_folder)[:-count]:
        path.unlink(missing_ok=True)
        forget_other_heads(path, None)


def forget_other_heads(path: Path, folder: str | None) -> None:
    """Deletes the head folders that earlier versions of a checkpoint, such as `best.pt`, left behind.

    Args:
        path: the checkpoint.
        folder: the folder that it names now, which is kept; None if it names none or was deleted.
    """
    for other in heads_of(path):
        if other.name != folder:
            shutil.rmtree(other, ignore_errors=True)


def heads_of(path: Path) -> list[Path]:
    """Lists the head folders beside a checkpoint, of this version and of earlier ones."""
    return [*path.parent.glob(f"{path.stem}{HEAD_SUFFIX}"), *path.parent.glob(f"{path.stem}-*{HEAD_SUFFIX}")]
