"""Finds the quality of images: lengths of embeddings, scores of a detector, what the model says, or a file of numbers.

Higher is better. Shapes: N images, D embedding values.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_npy, read_npz
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.utils.wording import agreeing, counted

NORM, DETECTOR, MODEL = "norm", "detector", "model"
EQUAL_LENGTHS = 1e-3  # relative spread; float16 embeddings of unit length differ by less
Source = dict[str, Any]  # entry `source` of results.json


def add_quality_option(
    parser: argparse.ArgumentParser, rows_are: str, detector: str = "", several: bool = False
) -> None:
    """Adds `--quality`.

    Args:
        parser: gets the option.
        rows_are: what the rows of a file go by.
        detector: where scores of a detector come from; empty if there are none.
        several: whether it takes a file for each pack.
    """
    by_detector = f", `{DETECTOR}` for {detector}" if detector else ""
    parser.add_argument(
        "--quality",
        metavar=f"norm|model|{'detector|' if detector else ''}X.npy",
        nargs="+" if several else None,
        help=f"draw error-versus-discard curves by the quality of images: `{NORM}` for the lengths of embeddings, "
        f"`{MODEL}` for what a model with a quality head says (`facekd train-quality`){by_detector}, or a file of "
        f"numbers, higher is better, {rows_are}",
    )


def lengths_as_quality(embeddings: np.ndarray, where: str) -> np.ndarray:
    """Returns the lengths (N,) of embeddings (N, D), float64.

    Raises:
        DataError: all are equal, so that they say nothing.
    """
    return checked_lengths(np.linalg.norm(embeddings.astype(np.float64), axis=1), where)


def checked_lengths(lengths: np.ndarray, where: str) -> np.ndarray:
    """Returns lengths (N,) as they are.

    Raises:
        DataError: all are equal.
    """
    if np.ptp(lengths) <= EQUAL_LENGTHS * np.max(lengths):
        raise DataError(
            f"{where}: all embeddings have length {lengths[0]:.4g}, so --quality {NORM} says nothing: the model "
            "normalises them itself; export it without --normalize, or give a file X.npy"
        )
    return lengths


def read_quality(path: str, num_rows: int, rows_are: str) -> tuple[np.ndarray, Source]:
    """Reads the qualities (N,) of a .npy file.

    Args:
        path: the file.
        num_rows: N.
        rows_are: what the rows go by, for messages.

    Returns:
        float64 (N,), and the entry for results.json.

    Raises:
        DataError: not such a file, another number of values, or values that are not finite.
    """
    if Path(path).suffix != ".npy":
        raise DataError(
            f"--quality {path}: expected {NORM}, {DETECTOR}, {MODEL} or a file X.npy of numbers, one for each row"
        )
    with unchanged(path):
        array, digest = read_npy(path, "write it by np.save"), sha256_of_file(path)
    return checked_qualities(array, path, num_rows, rows_are), {"kind": "file", "path": path, "sha256": digest}


def refuse_quality_of_model(parser: argparse.ArgumentParser, quality: str | None, has_model: bool) -> None:
    """Exits with a message of the parser for `--quality model` where embeddings are given in the place of a model."""
    if quality == MODEL and not has_model:
        parser.error(f"--quality {MODEL} asks the model, and --embeddings gives embeddings that are made already")


def read_named_array(path: str, name: str, rows: np.ndarray, what: str) -> np.ndarray:
    """Returns some rows (N,) of an array of a .npz file, as `facekd embed` writes them beside embeddings.

    Raises:
        DataError: it has no such array, or values that are not finite.
    """
    arrays = read_npz(path, "make it again by `facekd embed`", (name,))
    if name not in arrays or arrays[name].ndim != 1 or len(arrays[name]) <= rows.max():
        raise DataError(f"{path}: holds no {what} (an array `{name}`, one for each row), as files of `facekd embed` do")
    return checked_qualities(arrays[name][rows], path, len(rows), f"the {what} of the images")


def checked_qualities(array: np.ndarray, path: str, num_rows: int, rows_are: str) -> np.ndarray:
    """Returns qualities as float64 (N,).

    Raises:
        DataError: naming the file, what was expected and the first bad row.
    """
    if array.dtype.kind not in "fiu" or array.shape != (num_rows,):
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}; expected {counted(num_rows, 'number')} ({num_rows:,},): "
            f"{rows_are}"
        )
    values = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(
            f"{path}: {bad.size:,} of {counted(num_rows, 'quality')} "
            f"{agreeing(bad.size, 'is no finite number', 'are no finite numbers')}, the first in row {bad[0]} "
            f"({values[bad[0]]}); give every image a number, the lowest to those that cannot be judged"
        )
    if num_rows and np.ptp(values) == 0:
        raise DataError(
            f"{path}: all {counted(num_rows, 'quality is', 'qualities are')} {values[0]:g}, so they say nothing"
        )
    return values


def describe_quality(
    source: Source, samples: str, num_samples: int, curves: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the entry `quality` of results.json.

    Args:
        source: where the qualities are from.
        samples: what has a quality: "images" or "templates".
        num_samples: how many of them.
        curves: see `facekd.verification.error_versus_discard.measure_quality`.
    """
    names = {
        NORM: "the length of the embedding",
        DETECTOR: "the detector's score",
        MODEL: "what the model says",
        "file": source.get("path", ""),
    }
    text = f"quality: {names[source['kind']]}; of a pair, the lower of its two {samples}; area: 0 is ideal, 1 random"
    return {"source": source, "text": text, "samples": samples, "num_samples": num_samples, "curves": list(curves)}
