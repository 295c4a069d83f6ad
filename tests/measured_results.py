"""Makes the results of an evaluation of all pairs from scores, as `facekd evaluate folder` measures and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facekd.verification.measures import measure_verification
from facekd.verification.ranked_scores import RankedScores

MODEL: Mapping[str, Any] = {
    "path": "m.onnx",
    "sha256": "aa",
    "fingerprint": "ff",
    "preprocessing": {"color": "rgb", "mean": [1.0, 2.0]},
    "output": "y",
}


def folder_result(
    genuine: np.ndarray,
    impostor: np.ndarray,
    fars: Sequence[float],
    model: Mapping[str, Any] = MODEL,
    flip: bool = True,
) -> dict[str, Any]:
    """Returns the content of results.json."""
    measured = measure_verification(RankedScores(genuine, impostor), fars, "exact")
    protocol = {"text": "all pairs", "kind": "all pairs", "flip": flip}
    about = {"format": "facekd-folder", "version": 1, "model": dict(model), "images": "in/people", "protocol": protocol}
    return {**about, **measured}


def write_result(path: Path, result: Mapping[str, Any]) -> Path:
    """Writes results to a file, whose folder is made; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path
