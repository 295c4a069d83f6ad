"""Reads and writes checkpoints: one file of tensors and plain types, written atomically, read without running a pickle.

What the file holds is described in `facekd/checkpoints/contents.py`.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from facekd.checkpoints.contents import FORMAT, VERSION, Checkpoint, from_plain_fields, to_plain_fields
from facekd.checkpoints.run_folder import not_written, resolve_checkpoint
from facekd.errors import CheckpointError
from facekd.utils.files import atomic_path


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically: a crash or a full disk leaves the previous file as it was.

    Raises:
        CheckpointError: it could not be written.
    """
    save_checkpoint(path, to_plain_fields(checkpoint))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint onto the CPU; the folder of a run means its latest checkpoint.

    Raises:
        CheckpointError: see `load_checkpoint`; also when a field is missing or of another type.
    """
    file = resolve_checkpoint(path)
    return from_plain_fields(load_checkpoint(file), str(file))


def save_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes the plain fields of a checkpoint, see `write_checkpoint`."""
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, temporary)
        except RuntimeError as error:
            # torch reports a failed write (a full disk above all) as a RuntimeError of its zip writer.
            raise not_written(Path(path), error) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the plain fields of a checkpoint; `read_checkpoint` gives them their types.

    Raises:
        CheckpointError: absent, damaged, not facekd's, or holding pickled code (which is never run).
    """
    # Checks that torch leaves out: it reads a damaged archive without looking at the checksums.
    file = resolve_checkpoint(path)
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file}: not a checkpoint, or a truncated one (torch's files are zip archives)")
    if not _is_sound(file):
        raise CheckpointError(f"{file}: damaged: its bytes do not match their checksums")

    # Only tensors and plain types are unpickled.
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused, because it holds more than tensors and plain types, and loading it could run code"
            f"{_refused_name(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: damaged: {str(error).splitlines()[0]}") from error

    # Check that it is facekd's, and of a known version.
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: not a facekd checkpoint; the weights of an InsightFace backbone come in by "
            "`facekd import BACKBONE.pth --name iresnet50 --output checkpoint.pt`"
        )
    if not isinstance(content.get("version"), int):
        raise CheckpointError(f"{file}: damaged: its version is {content.get('version')!r}, not a number")
    if content["version"] > VERSION:
        raise CheckpointError(f"{file}: checkpoint version {content['version']}, this facekd reads up to {VERSION}")
    return content


def _is_sound(file: Path) -> bool:
    """Checks the archive's checksums, which torch writes but does not read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def _refused_name(error: Exception) -> str:
    """Returns the name that torch refused to load, `: posix.mkdir`, or nothing where its long advice has none."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": {found[1]}" if found else ""
