"""Puts together and writes what an evaluation leaves in its output folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import describe_software
from facekd.utils.files import atomic_open, write_json


def make_result(
    kind: str,
    version: int,
    content: Mapping[str, Any],
    verb: str,
    argv: Sequence[str] | None,
    software: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the content of results.json: what was measured, between its format and how it was made.

    Args:
        kind: name of the format, such as "facekd-verification".
        version: version of the format.
        content: model, data, protocol and measures.
        verb: the command without its options, such as "evaluate lfw".
        argv: its options; None takes those of this process.
        software: versions of the libraries; None lists those of an evaluation of embeddings.
    """
    # Software and command come last, so that a reader sees the measures first.
    words = sys.argv[1:] if argv is None else argv
    return {
        "format": kind,
        "version": version,
        **content,
        "software": describe_software() if software is None else dict(software),
        "command": shlex.join(["facekd", *verb.split(), *words]),
    }


def write_results(
    folder: Path,
    result: Mapping[str, Any],
    scores: np.ndarray | None = None,
    curves: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes scores.npy and curves.npz, where given, then results.json: where that is, the rest is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        with atomic_open(folder / "scores.npy") as stream:
            np.save(stream, scores)
    if curves is not None:
        with atomic_open(folder / "curves.npz") as stream:
            np.savez(stream, **curves)  # type: ignore[arg-type]
    write_json(folder / "results.json", result)
