"""Writes the report of an evaluation on a set, a folder or a pack: `results.csv`, `report.md` and `report.html`.

The report is made from the files that `facekd evaluate ijbc`, `folder`, `protocol` and `lfw` leave (docs/results.md),
at any time and without the model. The images of the worst pairs of an IJB-style set are added if it is at its place.
"""

from __future__ import annotations

import os
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.page import PAGE as GROUPS_PAGE
from evaluation.groups.page import write_groups_page
from evaluation.provenance import describe_assumptions, name_with_assumptions
from evaluation.results.figures import Curve, draw_histograms, draw_identification, draw_verification
from evaluation.results.quality import CAPTION, QUALITY, draw_quality, quality_table
from evaluation.results.search_tables import search_table
from evaluation.results.standard_summary import standard_table
from evaluation.results.tables import (
    DATA,
    IDENTIFICATION,
    VERIFICATION,
    folds_table,
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
from facekd.commands.command_line import command_text
from facekd.errors import DataError
from facekd.files.writing import write_text
from facekd.pages import embedding_map
from facekd.pages.embedding_map import draw_embedding_map
from facekd.pages.figures import MOST_LINES, chart
from facekd.pages.html import Picture, png_beside, write_page
from facekd.pages.markdown import code_block, markdown_text
from facekd.pages.tables import Table
from facekd.results.reading import name_of_set, read_curves, read_result
from facekd.results.schema import FOLDER_FORMAT, IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT, check_result
from facekd.utils.foreign import shown
from facekd.verification.groups.cell_rates import RULE_OF_30

FOLDER_COUNTS = ("num_images", "num_people", "num_gallery", "num_distractors", "num_probes")
FILES = ("results.csv", "report.md", "report.html")
REPORTED = (IJB_FORMAT, FOLDER_FORMAT, PROTOCOL_FORMAT, LFW_FORMAT)
TOLD_OF_MODEL = ("--mean", "--std", "--color", "--image-size", "--embedding-output")
CAPTIONS = {  # of the pictures that `facekd evaluate lfw` leaves
    "roc.png": "The ROC: true accept rate against false accept rate, and how the scores of both kinds are distributed.",
    "quality.png": "Error versus discard: the false reject rate without the pairs of the lowest quality.",
    "hardest_pairs.png": "The pairs that the model finds hardest. Look for wrong labels, bad crops and relatives.",
}


def write_report(folder: str | os.PathLike[str], result: dict[str, Any] | None = None) -> list[Path]:
    """Writes CSV, Markdown and HTML into the output folder of an evaluation.

    Args:
        folder: the output folder, with the curves in it.
        result: what its results.json will hold, before that is written; None reads the file.

    Returns:
        The files written.

    Raises:
        DataError: the folder holds no results of an IJB-style evaluation, of a folder, or of one pack.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    result = read_result(folder) if result is None else result
    if result["format"] not in REPORTED:
        known = f"{', '.join(REPORTED[:-1])} and {REPORTED[-1]}"
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
        assumptions=[text] if (text := describe_assumptions(result.get("model"))) else [],
        protocol=result["protocol"]["text"],
        summary=summary_of(result),
        notes=result.get("notes") or [],
        tables=tables,
        titles={"verification": VERIFICATION, "data": DATA},
        compared=_compared(result),
        pictures=_pictures(folder, result),
        worst=show_worst_pairs(result),
        max_images=MAX_IMAGES,
        reasons=reasons_of(result),
        command=result.get("command") or "",
        next=_next_steps(folder, result),
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


def _compared(result: dict[str, Any]) -> str:
    """Says what has the cosine that a threshold is held against."""
    what = "templates, made by the protocol above," if result["format"] == IJB_FORMAT else "images"
    return f"{what.rstrip(',')}, normalised by the same cohort," if result.get("score_norm") else what


def _title(result: dict[str, Any]) -> str:
    return f"{name_of(result)} on {name_of_set(result)}"


def _next_steps(folder: Path, result: dict[str, Any]) -> list[str]:
    """Says what to type next: another model on the same data, and decisions by one of the thresholds."""
    steps = []
    if result["format"] == FOLDER_FORMAT:
        other = ["--model", "OTHER.onnx", "--images", result["images"], "--output", "OTHER"]
        steps.append(f"Another model on the same people: `{command_text('evaluate folder', other)}`")
    elif result["format"] == PROTOCOL_FORMAT:
        other = [result["protocol"]["kind"], "--root", result["dataset"]["root"], "--model", "OTHER.onnx"]
        steps.append(f"Another model: `{command_text('evaluate protocol', [*other, '--output', 'OTHER'])}`")
    else:
        compared = command_text("report", [str(folder), "OTHER", "--output", "COMPARISON"])
        steps.append(f"Compared with another model that was evaluated alike, in its folder OTHER: `{compared}`")
    # The strictest threshold that enough false accepts stand behind.
    points = [point for point in result.get("tar_at_far") or [] if point["tar"] is not None]
    known = {point["far"] for point in points if (point["false_accepts"] or 0) >= RULE_OF_30}
    model = result.get("model")  # without one, nobody can tell whose thresholds they are
    if model and points and result["format"] != PROTOCOL_FORMAT and not result.get("score_norm"):
        far = min(known, default=max(point["far"] for point in points))
        opened = [model.get("path") or "MODEL.onnx", *_told_of_model(str(result.get("command")))]
        words = ["A.jpg", "B.jpg", "--model", *opened, "--thresholds", str(folder), "--far", f"{far:g}"]
        steps.append(f"Are two photographs of one person? `{command_text('compare', words)}`")
    return steps


def _told_of_model(command: str) -> list[str]:
    """Returns the options of a command that say how a model takes images: with others its thresholds are refused."""
    try:
        words = shlex.split(command)
    except ValueError:  # what others put there
        return []
    return [part for name, value in pairwise(words) if name in TOLD_OF_MODEL for part in (name, value)]


def _tables(result: dict[str, Any]) -> list[Table]:
    """Returns the tables of the report, in the order in which they are read."""
    if result["format"] == FOLDER_FORMAT:
        dataset = {"folder": result["images"], **{key: result[key] for key in FOLDER_COUNTS if key in result}}
    else:
        dataset = result["pair_set"] if result["format"] == LFW_FORMAT else result["dataset"]
    tables = [
        verification_table(result) if result.get("tar_at_far") else None,
        transferred_table(result),
        folds_table(result),
        search_table(result) if result["format"] == PROTOCOL_FORMAT else identification_table(result),
        rank_table(result),
        quality_table(result),
        protocols_table(result),
        pairs_of(DATA, dataset),
        pairs_of("Images without an embedding", result["failures"]) if result.get("failures") else None,
        _problems(result),
        pairs_of("Left out", result["dropped"]) if any((result.get("dropped") or {}).values()) else None,
        pairs_of("Model", result.get("model") or result.get("embeddings") or {}),
        pairs_of("Protocol", result["protocol"]),
        pairs_of("Score normalisation", result.get("score_norm") or {}),
        pairs_of("Calibration to log-likelihood ratios", result["calibration"]) if result.get("calibration") else None,
        pairs_of("Intervals", result["bootstrap"]) if result.get("bootstrap") else None,
        pairs_of("Intervals of searches", {"made by": result.get("search_intervals")}),
        pairs_of("Time, seconds", result.get("seconds") or {}),
        pairs_of("Software", result.get("software") or {}),
        standard_table(result),
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
    title, protocol = markdown_text(_title(result)), markdown_text(result["protocol"]["text"])
    parts = [f"# {title}", "", f"Protocol: {protocol}.", "", markdown_text(summary_of(result)), ""]
    parts += [f"- {markdown_text(note)}" for note in [*(result.get("notes") or []), *reasons_of(result)]]
    parts += ["", *(table.to_markdown() for table in tables)]
    parts += ["## Command", "", code_block(result.get("command") or ""), ""]
    return "\n".join(parts)


def _pictures(folder: Path, result: dict[str, Any]) -> dict[str, list[Picture]]:
    """Draws the figures of the page, or takes those beside it, by the title of the table that each follows."""
    if result["format"] == LFW_FORMAT:
        return {VERIFICATION: pictures_beside(folder)}
    return _draw(result, read_curves(folder, result))


def pictures_beside(folder: Path) -> list[Picture]:
    """Returns the pictures that `facekd evaluate lfw` left in a folder, as far as `png_beside` takes them."""
    found = [(name, png_beside(folder / name)) for name in CAPTIONS]
    return [
        Picture(content, CAPTIONS[name], is_chart=name != "hardest_pairs.png")
        for name, content in found
        if content is not None
    ]


def _left_out(count: int, what: str) -> str:
    """Says that a figure shows the first of some things alone, if it does."""
    return f" Of {count:,} {what} the first {MOST_LINES} are drawn." if count > MOST_LINES else ""


def _draw(result: dict[str, Any], curves: dict[str, np.ndarray]) -> dict[str, list[Picture]]:
    name = name_of(result)
    model = Curve(name, curves, result.get("tar_at_far") or [])
    # A picture may be shown without its page, so it says itself what was assumed.
    named = name_with_assumptions(name, result.get("model"))
    title = named if named != name else ""
    verification, identification = [], []
    if result.get("tar_at_far") and "roc_far" in curves:
        caption = "Grey: fewer than one false accept. The exact operating points, thinned; nothing is interpolated."
        verification.append(chart(draw_verification([model], title), caption))
    if result.get("tar_at_far") and "histogram_edges" in curves:
        thresholds = [
            (f"FAR {point['far']:g}", point["threshold"])
            for point in result["tar_at_far"]
            if point["threshold"] is not None
        ]
        figure = draw_histograms(curves, thresholds, (result["num_genuine"], result["num_impostor"]), title)
        caption = f"Scores of both kinds, each with unit area.{_left_out(len(thresholds), 'thresholds')}"
        verification.append(chart(figure, caption))
    if result.get("map") and "map_person" in curves:
        verification.append(chart(draw_embedding_map(result["map"]["people"], curves, title), embedding_map.CAPTION))
    within = result["protocol"].get("within", 1)
    figure = draw_identification([model], title, within) if result.get("identification") else None
    if figure is not None:
        is_open = any(name.startswith("dir_") for name in curves)
        caption = (
            f"{'Left: the' if is_open else 'The'} share of mated probes whose mate is among the first."
            f"{' Right: with a threshold, against the false alarms of probes without a mate.' if is_open else ''}"
            f"{_left_out(sum(name.startswith('cmc_') for name in curves), 'galleries')}"
        )
        identification.append(chart(figure, caption))
    quality = []
    if result.get("quality") and result["quality"]["curves"]:
        caption = f"{result['quality']['text']}. {CAPTION}{_left_out(len(result['quality']['curves']), 'curves')}"
        quality.append(chart(draw_quality(result["quality"], title), caption))
    return {VERIFICATION: verification, IDENTIFICATION: identification, QUALITY: quality}
