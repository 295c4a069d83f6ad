"""Opens a model for a command that writes down which model it used."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.embedder.model_options import open_model
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged

if TYPE_CHECKING:
    from facekd.embedder import Embedder


def find_model(path: str) -> str:
    """Returns the model file: `path` itself, or the latest checkpoint if `path` is the folder of a run."""
    if not Path(path).is_dir():
        return path
    from facekd.checkpoints.run_folder import resolve_checkpoint

    return str(resolve_checkpoint(path))


def open_described_model(
    path: str, options: argparse.Namespace, resize: bool | None = None
) -> tuple[Embedder, dict[str, Any]]:
    """Opens a model, and returns it with the entry `model` of a result (docs/results.md).

    Args:
        path: the file, or the folder of a run, of which the newest checkpoint is taken.
        options: the options of `add_model_options`.
        resize: overrides `options.resize`.

    Raises:
        ModelError: see `open_model`.
        DataError: the file was replaced meanwhile, so that the checksum would be of another model.
    """
    file = find_model(path)  # once, because a run that still trains may write a newer checkpoint
    with unchanged(file):
        embedder = open_model(file, options, resize)
        return embedder, _describe_model(file, embedder)


def _describe_model(path: str, embedder: Embedder) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256_of_file(path),
        "fingerprint": embedder.fingerprint,
        "embedding_size": embedder.embedding_size,
        "normalized": embedder.normalized,
        "preprocessing": asdict(embedder.preprocessing),
        "assumed": list(getattr(embedder, "assumed", ())),
        "input_arithmetic": getattr(embedder, "input_arithmetic", None),
        "output": getattr(embedder, "output", None),
        "prelu_rewritten": getattr(embedder, "prelu_rewritten", False),
    }
