"""Reads and writes checkpoints: files of tensors and plain types, written atomically, read without running a pickle.

`facekd/checkpoints/contents.py` describes the fields.
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
        CheckpointError: the file could not be written.
    """
    save_checkpoint(path, to_plain_fields(checkpoint))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint onto the CPU; for the folder of a run, its latest checkpoint.

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
        CheckpointError: the file is absent, damaged, not facekd's, or holds pickled code (which is never run).
    """
    # Verify the checksums first: torch reads a damaged archive without looking at them.
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

    # The file must be facekd's, and of a version that this facekd knows.
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: not a facekd checkpoint; import the weights of an InsightFace backbone with "
            "`facekd import BACKBONE.pth --name iresnet50 --output checkpoint.pt`"
        )
    if not isinstance(content.get("version"), int):
        raise CheckpointError(f"{file}: damaged: its version is {content.get('version')!r}, not a number")
    if content["version"] > VERSION:
        raise CheckpointError(f"{file}: checkpoint version {content['version']}, this facekd reads up to {VERSION}")
    return content


def _is_sound(file: Path) -> bool:
    """Tells whether the archive's bytes match its checksums, which torch writes but does not check."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def _refused_name(error: Exception) -> str:
    """Returns the name that torch refused to load, as `: posix.mkdir`; empty if its message names none."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": {found[1]}" if found else ""
