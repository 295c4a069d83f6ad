"""Reads and writes checkpoints: files of tensors and plain types, written atomically, read without running a pickle.

`facekd/checkpoints/contents.py` describes the fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from facekd.checkpoints.contents import FORMAT, VERSION, Checkpoint, from_plain_fields, to_plain_fields
from facekd.checkpoints.file_kinds import (
    OLD_TORCH_FILE,
    ONNX_FILE,
    SAFETENSORS,
    TORCH_FILE,
    TORCHSCRIPT,
    describe_file,
)
from facekd.checkpoints.run_folder import not_written, resolve_checkpoint
from facekd.checkpoints.torch_files import read_torch_file
from facekd.errors import CheckpointError
from facekd.files.writing import atomic_open
from facekd.utils.foreign import shown

# What to do with files of other kinds that hold a model.
INSTEAD = {
    ONNX_FILE: "; the evaluate verbs, cache-teacher and teacher.model take it as it is",
    OLD_TORCH_FILE: "; `facekd import` reads the weights of a face network of others from it",
    SAFETENSORS: "; `facekd import` reads the weights of a face network of others from it",
    TORCHSCRIPT: "; save the module's state_dict() and `facekd import` it, or export it to ONNX with torch.onnx.export",
}


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
    with atomic_open(path) as stream:
        # Through a stream, because torch would write the name of the file, which is random, into the file.
        output = _Output(stream)
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, output)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            # torch reports a failed write (a full disk above all) as a RuntimeError of its zip writer.
            raise not_written(Path(path), output.error or error) from error


class _Output:
    """Passes bytes on to a stream, and keeps the error of a failed write, in whose place torch reports another."""

    def __init__(self, stream: BinaryIO) -> None:
        self.error: OSError | None = None
        self._stream = stream
        self.flush = stream.flush

    def write(self, content: bytes) -> int:
        try:
            return self._stream.write(content)
        except OSError as error:
            self.error = error
            raise


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the plain fields of a checkpoint; `read_checkpoint` gives them their types.

    Raises:
        CheckpointError: the file is absent, damaged, not facekd's, or holds pickled code (which is never run).
    """
    # Name what is no torch file.
    file = resolve_checkpoint(path)
    kind = describe_file(file)
    if kind not in (TORCH_FILE, ""):
        raise CheckpointError(f"{file}: is {kind}, not a checkpoint{INSTEAD.get(kind, '')}")
    content = read_torch_file(file, "a checkpoint", CheckpointError, "use the checkpoint before it, or copy it again")

    # The file must be facekd's, and of a version that this facekd knows.
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: not a facekd checkpoint; import the weights of another trainer, such as InsightFace's or "
            "AdaFace's, with `facekd import WEIGHTS --output checkpoint.pt`"
        )
    if type(content.get("version")) is not int:
        raise CheckpointError(f"{file}: damaged: its version is {shown(content.get('version'))}, not a whole number")
    if content["version"] > VERSION:
        raise CheckpointError(f"{file}: checkpoint version {content['version']}, this facekd reads up to {VERSION}")
    return content
