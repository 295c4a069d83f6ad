"""Reads the results.json and the curves.npz that an evaluation left, wherever they lie now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_npz
from facekd.files.reading import read_json
from facekd.files.result_folder import MARK, is_unfinished
from facekd.results.kept_scores import check_curves
from facekd.results.schema import IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT
from facekd.results.shape import MAX_NUMBER, MIN_SHARE, ROUNDING
from facekd.utils.foreign import shown

NEWEST_VERSION = 1


def results_file(place: str | os.PathLike[str]) -> Path:
    """Returns the file that a place stands for: `results.json` in a folder, or a file by its own name."""
    path = Path(place)
    is_file = not path.is_dir() and (path.suffix == ".json" or path.exists())
    return path if is_file else path / MARK


def read_result(place: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the results of an evaluation.

    Args:
        place: the output folder of the evaluation, or its `results.json`, under any name.

    Raises:
        DataError: there are none, they are not JSON, or of a later version than this program knows.
    """
    path = results_file(place)
    try:
        result = read_json(path, "the results of an evaluation", "run the evaluation again")
    except FileNotFoundError:
        if path.name == MARK and is_unfinished(path.parent):
            raise DataError(
                f"{path.parent}: its evaluation was stopped before all files were written; run the evaluation again"
            ) from None
        raise DataError(f"{path}: no results there; give the --output folder of a finished evaluation") from None
    if not str(result.get("format", "")).startswith("facekd-"):
        raise DataError(f"{path}: names no format, so it was not written by `facekd evaluate`")
    version = result.get("version", 0)
    if not isinstance(version, int) or version > NEWEST_VERSION:
        raise DataError(f"{path}: version {shown(version)} of {shown(result['format'])}; this facekd reads up to 1")
    return result


def name_of_set(result: Mapping[str, Any]) -> str:
    """Returns the name of the set of pairs that was evaluated, as the results have it.

    Args:
        result: results of `evaluate lfw`, `folder` or `ijbc` that `check_result` has looked at.
    """
    if result["format"] in (IJB_FORMAT, PROTOCOL_FORMAT):
        return result["dataset"].get("published") or Path(result["dataset"]["root"]).name
    return result["pair_set"]["name"] if result["format"] == LFW_FORMAT else Path(result["images"]).name


def read_curves(folder: str | os.PathLike[str], result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads the arrays of `curves.npz`, which belong to a result; returns none if the file is absent.

    Raises:
        DataError: it cannot be read, or is of other results.
    """
    path = Path(folder) / "curves.npz"
    try:
        curves = read_npz(path, "run the evaluation again")
    except FileNotFoundError:
        return {}
    # A closed set, with no probes of strangers, has no DIR.
    galleries = result.get("identification") or {}
    closed = {f"dir_{name}_fpir" for name, gallery in galleries.items() if not gallery["tpir_at_fpir"]}
    _check_kinds(path, curves, closed)
    check_curves(curves, result, Path(folder))
    return curves


def _check_kinds(path: Path, curves: dict[str, np.ndarray], closed: set[str]) -> None:
    """Refuses arrays that no curve has: those of a file that was not written by an evaluation.

    `closed` names the arrays that may be absent.
    """
    for name, array in curves.items():
        is_sound = array.dtype.kind in "fiu" and array.itemsize <= 8 and array.ndim == 1 and array.size > 0
        values = array.astype(np.float64) if is_sound else array
        if not is_sound or not (np.abs(values) < MAX_NUMBER).all():  # what is no number is not
            raise DataError(f"{path}: {shown(name)} is {array.dtype} {array.shape}; expected finite numbers in a row")
        is_rate = name.startswith("cmc_") or name.endswith(("_far", "_tar", "_fpir", "_tpir"))
        if is_rate and not (array.min() >= -ROUNDING and array.max() <= 1 + ROUNDING):
            raise DataError(f"{path}: {shown(name)} is from {array.min():g} to {array.max():g}; expected shares")
        if is_rate and ((values > 0) & (values < MIN_SHARE)).any():
            raise DataError(f"{path}: {shown(name)} has a rate below {MIN_SHARE:g}, which no comparisons give")
        has_edges = name == "histogram_edges"
        if name.startswith("histogram_") and ((np.diff(values) if has_edges else values) < 0).any():
            what = "edges that go back" if has_edges else "a count below 0"
            raise DataError(f"{path}: {shown(name)} has {what}; run the evaluation again")
    # Curves are two arrays of one length, and histograms have an edge more than counts.
    sizes = {name: array.size for name, array in curves.items()}
    pairs = [("roc_far", "roc_tar", 0), ("map_person", "map_x", 0), ("map_person", "map_y", 0)]
    pairs += [("histogram_edges", f"histogram_{kind}", 1) for kind in ("genuine", "impostor")]
    galleries = [name.removeprefix("cmc_") for name in sizes if name.startswith("cmc_")]
    pairs += [(f"dir_{gallery}_fpir", f"dir_{gallery}_tpir", 0) for gallery in galleries]
    for first, second, more in pairs:
        needed = (first.startswith("dir") and first not in closed) or first in sizes or second in sizes
        if needed and (first not in sizes or sizes[first] - more != sizes.get(second)):
            raise DataError(
                f"{path}: {shown(first)} and {shown(second)} do not belong together; run the evaluation again"
            )
