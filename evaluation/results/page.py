"""Writes the report of an IJB-style evaluation, or of a folder: `results.csv`, `report.md` and `report.html`.

The report is made from the files that `facekd evaluate ijbc` and `folder` leave (docs/results.md), at any time and
without the model. The images of the worst pairs of an IJB-style set are added if the set is still at its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import name_with_assumptions
from evaluation.result_files import FOLDER_FORMAT, IJB_FORMAT
from evaluation.results.figures import Curve, draw_histograms, draw_identification, draw_verification
from evaluation.results.schema import check_result
from evaluation.results.tables import (
    DATA,
    IDENTIFICATION,
    VERIFICATION,
    identification_table,
    pairs_of,
    protocols_table,
    rank_table,
    reasons_of,
    summary_of,
    to_csv,
    verification_table,
)
from evaluation.results.template_strips import MAX_IMAGES, show_worst_pairs
from facekd.errors import DataError
from facekd.files.npy_files import read_npz
from facekd.files.reading import read_json
from facekd.files.result_folder import is_unfinished
from facekd.files.writing import write_text
from facekd.pages.figures import to_png
from facekd.pages.html import Picture, write_page
from facekd.pages.tables import Table
from facekd.utils.foreign import shown
from facekd.verification.kept_scores import check_curves

NEWEST_VERSION = 1
FOLDER_COUNTS = ("num_images", "num_people", "num_gallery", "num_distractors", "num_probes")
FILES = ("results.csv", "report.md", "report.html")


def read_result(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the `results.json` of a folder.

    Raises:
        DataError: there is none, it is not JSON, or it is of a later version than this program knows.
    """
    path = Path(folder) / "results.json"
    try:
        result = read_json(path, "the results of an evaluation", "run the evaluation again")
    except FileNotFoundError:
        if is_unfinished(Path(folder)):
            raise DataError(
                f"{folder}: its evaluation was stopped before all files were written; run the evaluation again"
            ) from None
        raise DataError(f"{path}: no results there; give the --output folder of a finished evaluation") from None
    if not str(result.get("format", "")).startswith("facekd-"):
        raise DataError(f"{path}: names no format, so it was not written by `facekd evaluate`")
    version = result.get("version", 0)
    if not isinstance(version, int) or version > NEWEST_VERSION:
        raise DataError(f"{path}: version {shown(version)} of {shown(result['format'])}; this facekd reads up to 1")
    return result


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
    _check_kinds(path, curves)
    check_curves(curves, result, Path(folder))
    return curves


def _check_kinds(path: Path, curves: dict[str, np.ndarray]) -> None:
    """Refuses arrays that no curve has: those of a file that was not written by an evaluation."""
    for name, array in curves.items():
        if array.dtype.kind not in "fiu" or array.ndim != 1 or not array.size or not np.isfinite(array).all():
            raise DataError(f"{path}: {shown(name)} is {array.dtype} {array.shape}; expected finite numbers in a row")
    # Curves are two arrays of one length, and histograms have an edge more than counts.
    sizes = {name: array.size for name, array in curves.items()}
    pairs = [("roc_far", "roc_tar", 0)]
    pairs += [("histogram_edges", f"histogram_{kind}", 1) for kind in ("genuine", "impostor")]
    galleries = [name.removeprefix("cmc_") for name in sizes if name.startswith("cmc_")]
    pairs += [(f"dir_{gallery}_fpir", f"dir_{gallery}_tpir", 0) for gallery in galleries]
    for first, second, more in pairs:
        needed = first.startswith("dir") or first in sizes or second in sizes
        if needed and (first not in sizes or sizes[first] - more != sizes.get(second)):
            raise DataError(
                f"{path}: {shown(first)} and {shown(second)} do not belong together; run the evaluation again"
            )


def write_report(folder: str | os.PathLike[str], result: dict[str, Any] | None = None) -> list[Path]:
    """Writes CSV, Markdown and HTML into the output folder of an evaluation.

    Args:
        folder: the output folder, with the curves in it.
        result: what its results.json will hold, before that is written; None reads the file.

    Returns:
        The files written.

    Raises:
        DataError: the folder holds no results of an IJB-style evaluation or of a folder.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    result = read_result(folder) if result is None else result
    if result["format"] not in (IJB_FORMAT, FOLDER_FORMAT):
        known = f"{IJB_FORMAT} and {FOLDER_FORMAT}"
        raise DataError(f"{folder}: holds results of {shown(result['format'])}; this report is for those of {known}")
    check_result(folder / "results.json", result)

    # The numbers as CSV and Markdown, then the page with pictures.
    write_text(folder / "results.csv", to_csv(result))
    tables = _tables(result)
    write_text(folder / "report.md", _markdown(result, tables))
    write_page(
        folder / "report.html",
        "evaluation",
        title=_title(result),
        protocol=result["protocol"]["text"],
        summary=summary_of(result),
        notes=result.get("notes") or [],
        tables=tables,
        titles={"verification": VERIFICATION, "data": DATA},
        compared="templates, made by the protocol above," if "dataset" in result else "images",
        pictures=_pictures(result, read_curves(folder, result)),
        worst=show_worst_pairs(result),
        max_images=MAX_IMAGES,
        reasons=reasons_of(result),
        command=result.get("command") or "",
    )
    return [folder / name for name in FILES]


def name_of(result: dict[str, Any]) -> str:
    """Returns the file name of the model, or of the embeddings, that was evaluated."""
    source = result.get("model") or result.get("embeddings") or {}
    return Path(source.get("path") or "embeddings").name


def _title(result: dict[str, Any]) -> str:
    dataset = result.get("dataset") or {"published": None, "root": result["images"]}
    return f"{name_of(result)} on {dataset.get('published') or Path(dataset['root']).name}"


def _tables(result: dict[str, Any]) -> list[Table]:
    """Returns the tables of the report, in the order in which they are read."""
    dataset = result.get("dataset") or {
        "folder": result["images"],
        **{key: result[key] for key in FOLDER_COUNTS if key in result},
    }
    tables = [
        verification_table(result) if result.get("tar_at_far") else None,
        identification_table(result),
        rank_table(result),
        protocols_table(result),
        pairs_of(DATA, dataset),
        _problems(result),
        pairs_of("Left out", result["dropped"]) if any((result.get("dropped") or {}).values()) else None,
        pairs_of("Model", result.get("model") or result.get("embeddings") or {}),
        pairs_of("Protocol", result["protocol"]),
        pairs_of("Calibration to log-likelihood ratios", result["calibration"]) if result.get("calibration") else None,
        pairs_of("Intervals", result["bootstrap"]) if result.get("bootstrap") else None,
        pairs_of("Time, seconds", result.get("seconds") or {}),
        pairs_of("Software", result.get("software") or {}),
    ]
    return [table for table in tables if table is not None and table.rows]


def _problems(result: dict[str, Any]) -> Table | None:
    problems = result.get("problems")
    if not problems:
        return None
    rows = [
        [
            f"{problem['kind']} ({problem['severity']})",
            f"{problem['count']:,}",
            problem["text"],
            "; ".join(problem["examples"]),
        ]
        for problem in problems
    ]
    return Table("Warnings about the data", ["", "count", "what", "the first"], rows)


def _markdown(result: dict[str, Any], tables: list[Table]) -> str:
    parts = [f"# {_title(result)}", "", f"Protocol: {result['protocol']['text']}.", "", summary_of(result), ""]
    parts += [f"- {note}" for note in [*(result.get("notes") or []), *reasons_of(result)]]
    parts += ["", *(table.to_markdown() for table in tables)]
    parts += ["## Command", "", "```", result.get("command") or "", "```", ""]
    return "\n".join(parts)


def _pictures(result: dict[str, Any], curves: dict[str, np.ndarray]) -> dict[str, list[Picture]]:
    """Draws the figures of the page, by the title of the table that each follows."""
    name = name_of(result)
    model = Curve(name, curves, result.get("tar_at_far") or [])
    # A picture may be shown without its page, so it says itself what was assumed.
    named = name_with_assumptions(name, result.get("model"))
    title = named if named != name else ""
    verification, identification = [], []
    if result.get("tar_at_far") and "roc_far" in curves:
        caption = "Grey: fewer than one false accept. The exact operating points, thinned; nothing is interpolated."
        verification.append(Picture(to_png(draw_verification([model], title)), caption))
    if result.get("tar_at_far") and "histogram_edges" in curves:
        thresholds = [
            (f"FAR {point['far']:g}", point["threshold"])
            for point in result["tar_at_far"]
            if point["threshold"] is not None
        ]
        figure = draw_histograms(curves, thresholds, (result["num_genuine"], result["num_impostor"]), title)
        verification.append(Picture(to_png(figure), "Scores of both kinds, each with unit area."))
    figure = draw_identification([model], title) if result.get("identification") else None
    if figure is not None:
        caption = (
            "Left: the share of mated probes whose mate is among the first. Right: with a threshold, against the false "
            "alarms of probes that have no mate in the gallery."
        )
        identification.append(Picture(to_png(figure), caption))
    return {VERIFICATION: verification, IDENTIFICATION: identification}
