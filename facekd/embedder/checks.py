"""Provides the checks that all embedders share, and the start of their fingerprints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facekd.checkpoints.file_kinds import ONNX_FILE, describe_file
from facekd.errors import ModelError
from facekd.files.reading import require_regular_file
from facekd.images.preprocessing import Preprocessing
from facekd.utils.wording import agreeing, counted


def is_onnx_file(path: Path) -> bool:
    """Tells whether a model is an ONNX file; returns False for a checkpoint and for a folder, which may be a run's.

    Raises:
        ModelError: the file does not exist, or is neither an ONNX file nor a checkpoint.
    """
    if path.is_dir():
        return False
    if not path.exists():
        raise ModelError(f"{path}: no such file; expected an ONNX file or a checkpoint")
    require_regular_file(path)
    with path.open("rb") as stream:
        head = stream.read(24)
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`")
    if head.startswith((b"PK\x03\x04", b"\x80")):  # torch.save writes a zip archive; before 1.6 it was a bare pickle
        return False
    kind = describe_file(path)
    if path.suffix.lower() == ".onnx" or kind == ONNX_FILE:
        return True
    found = f"is {kind}" if kind else f"is of an unknown kind (it starts with {head[:4].hex(' ')})"
    raise ModelError(f"{path}: {found}; expected an ONNX file or a checkpoint")


def check_finite(embeddings: np.ndarray, model: str, what: str = "embedding") -> np.ndarray:
    """Returns embeddings (B, D), or qualities (B,), or raises a ModelError that names the first that is not finite."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=tuple(range(1, embeddings.ndim))))
    if bad.size:
        raise ModelError(
            f"{model}: {bad.size:,} of {counted(len(embeddings), what)} {agreeing(bad.size, 'is', 'are')} not finite, "
            f"the first is that of image {bad[0]}; the weights hold NaN, or half precision overflows"
        )
    return embeddings


def probe_images(size: int, count: int = 7) -> np.ndarray:
    """Draws test images, uint8 (count, size, size, 3): noise over a gradient of another brightness in each image.

    Embeddings differ between the images of a batch, so a graph that mixes up or repeats its rows cannot pass.
    """
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 160, size)[None, :, None, None] * np.linspace(0.2, 1, count)[:, None, None, None]
    return (ramp + generator.integers(0, 96, (count, size, size, 3))).astype(np.uint8)


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest relative error |found - expected| / |expected| of the rows of two (B, D); NaN if one is."""
    difference = np.linalg.norm(found - expected, axis=1)
    return float(np.max(difference / np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)))


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch size below 1 with a ModelError."""
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}: expected at least 1")


def start_fingerprint(preprocessing: Preprocessing, *rest: Any) -> hashlib._Hash:
    """Starts an embedder's fingerprint with its preprocessing and options; the caller adds the weights."""
    return hashlib.sha256(json.dumps([asdict(preprocessing), *rest], sort_keys=True).encode())
