"""Writes faces, detectors and commands as text and as plain values for JSON, the same for every verb."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from facekd import __version__
from facekd.commands.command_line import command_text
from facekd.faces.options import detector_sha256


def face_entry(box: np.ndarray, landmarks: np.ndarray, score: float) -> dict[str, Any]:
    """Returns where a face is; values are None for an aligned crop, of which that is not known.

    Args:
        box: (4,), left, top, right, bottom in pixels, or NaN.
        landmarks: (5, 2) in pixels, or NaN.
        score: score of the detector, or NaN.
    """
    is_known = bool(np.isfinite(box).all())
    return {
        "box": [round(float(value), 3) for value in box] if is_known else None,
        "landmarks": np.round(landmarks.astype(float), 3).tolist() if bool(np.isfinite(landmarks).all()) else None,
        "score": float(score) if math.isfinite(score) else None,
    }


def place_text(box: np.ndarray) -> str:
    """Returns where a face is, to tell it from others of its image: `[12,30 88,121]`, left, top, right, bottom."""
    left, top, right, bottom = box
    return f"[{left:.0f},{top:.0f} {right:.0f},{bottom:.0f}]"


def detector_entry(arguments: argparse.Namespace) -> dict[str, str] | None:
    """Returns the detector's file and its digest; None if there is none."""
    sha256 = detector_sha256(arguments)
    return None if sha256 is None else {"path": str(arguments.detector), "sha256": sha256}


def command_entry(verb: str, argv: Sequence[str] | None) -> dict[str, str]:
    """Returns the version of facekd and the command, to run it again."""
    return {"facekd": __version__, "command": command_text(verb, argv)}
