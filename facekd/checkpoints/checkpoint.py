"""Checkpoints: one file of tensors and plain types, written atomically, read without running a pickle.

A checkpoint is a dict:

    format         "facekd-checkpoint"
    version        1
    config         {"backbone": {"name", "embedding_size", "image_size", "width", "dropout"}, ...} plain types
    preprocessing  {"mean": [3], "std": [3], "color": "rgb"} in units of 0..255
    backbone       state dict, as trained
    ema            state dict of the moving average, or absent
    projection     (E, D), where embeddings are projected before they are compared; folded into the backbone on loading,
                   or kept behind it where the backbone has no embedding layer
    ema_projection its moving average, or absent
    head           state dict of the classifier, or absent for an imported backbone
    head_shards    where the classifier's centres lie, if not under `head`: `facekd/checkpoints/head_shards.py`
    training       optimiser, AMP scaler, images_seen and the rest of what an exact resume needs, or absent
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from facekd.checkpoints.contents import FORMAT, VERSION
from facekd.checkpoints.run_folder import not_written, resolve_checkpoint
from facekd.errors import CheckpointError
from facekd.utils.files import atomic_path


def save_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a crash or a full disk leaves the previous file as it was."""
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, temporary)
        except RuntimeError as error:
            # torch reports a failed write (a full disk above all) as a RuntimeError of its zip writer.
            raise not_written(Path(path), error) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; a run's folder stands for its latest checkpoint.

    Raises:
        CheckpointError: absent, damaged, not facekd's, or holding pickled code (which is never run).
    """
    file = resolve_checkpoint(path)
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file}: not a checkpoint, or a truncated one (torch's files are zip archives)")
    if not _is_sound(file):
        raise CheckpointError(f"{file}: damaged: its bytes do not match their checksums")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused, for it holds more than tensors and plain types, and loading it could run code"
            f"{_refused_name(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: damaged: {str(error).splitlines()[0]}") from error
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
    """Whether the archive's checksums hold; torch writes them, and does not look at them when it reads."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def _refused_name(error: Exception) -> str:
    """What torch refused to load, where its long advice names it: `: posix.mkdir`."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": {found[1]}" if found else ""
