"""Writes the report of an IJB-style evaluation, or of a folder: `results.csv`, `report.md` and `report.html`.

The report is made from the files that `facekd evaluate ijbc` and `folder` leave (docs/results.md), at any time and
without the model. The images of the worst pairs of an IJB-style set are added if the set is still at its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.page import PAGE as GROUPS_PAGE
from evaluation.groups.page import write_groups_page
from evaluation.provenance import name_with_assumptions
from evaluation.results.figures import Curve, draw_histograms, draw_identification, draw_verification
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
from evaluation.results.transferred import transferred_table
from facekd.errors import DataError
from facekd.files.writing import write_text
from facekd.pages.figures import to_png
from facekd.pages.html import Picture, write_page
from facekd.pages.tables import Table
from facekd.results.reading import read_curves, read_result
from facekd.results.schema import FOLDER_FORMAT, IJB_FORMAT, check_result
from facekd.utils.foreign import shown

FOLDER_COUNTS = ("num_images", "num_people", "num_gallery", "num_distractors", "num_probes")
FILES = ("results.csv", "report.md", "report.html")


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
    written = [folder / name for name in FILES]
    if result.get("groups"):
        write_groups_page(folder, result, _title(result))
        written.append(folder / GROUPS_PAGE)
    return written


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
        transferred_table(result),
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
