"""Describes what produced a result: the model and the software versions."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd import __version__
from facekd.embedder.model_options import open_model
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.utils.foreign import shown

if TYPE_CHECKING:
    from facekd.embedder import Embedder


def find_model(path: str) -> str:
    """Returns the model file: `path` itself, or the latest checkpoint if `path` is the folder of a run."""
    if not Path(path).is_dir():
        return path
    from facekd.checkpoints.run_folder import resolve_checkpoint

    return str(resolve_checkpoint(path))


def open_described_model(path: str, options: argparse.Namespace) -> tuple[Embedder, dict[str, Any]]:
    """Opens a model for an evaluation, and returns it with the entry `model` of a result (docs/results.md).

    Args:
        path: the file, or the folder of a run, of which the newest checkpoint is taken.
        options: the options of `add_model_options`.

    Raises:
        ModelError: see `open_model`.
        DataError: the file was replaced meanwhile, so that the checksum would be of another model.
    """
    file = find_model(path)  # once, because a run that still trains may write a newer checkpoint
    with unchanged(file):
        embedder = open_model(file, options)
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


def name_with_assumptions(name: str, model: Mapping[str, Any] | None) -> str:
    """Returns the name of a model as tables and pictures show it: with what was assumed of it, if anything.

    Args:
        name: the name.
        model: the entry `model` of a result, or None.
    """
    assumed = (model or {}).get("assumed")
    return f"{name} (assumed: {', '.join(assumed)})" if assumed else name


def describe_assumptions(model: Mapping[str, Any] | None) -> str:
    """Says which preprocessing of a model was assumed, beside the numbers that depend on it; empty if none was."""
    assumed = (model or {}).get("assumed")
    if model is None or not assumed:
        return ""
    values = [_as_text((model.get("preprocessing") or {}).get(name)) for name in assumed]
    used = "; ".join(f"{name} {value}" for name, value in zip(assumed, values, strict=True))
    return f"preprocessing assumed, not recorded: {used}; if that is wrong, the model may be better than these numbers"


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value))
    return f"{value:g}" if isinstance(value, int | float) else shown(value)


def describe_software() -> dict[str, str]:
    """Returns the entry `software` of a result: versions by package."""
    # OpenCV decodes and resizes, and its versions differ in both; the runtimes differ in the last digits.
    found = {"facekd": __version__}
    for name in ("numpy", "scipy", "opencv-python-headless", "simplejpeg", "onnxruntime", "torch"):
        with contextlib.suppress(PackageNotFoundError):  # another build of the same library, such as onnxruntime-gpu
            found[name] = version(name)
    return found
