"""The report of an IJB-style evaluation, or of a folder: `results.csv`, `report.md` and one page, `report.html`.

Made from the files that `facekd evaluate ijbc` and `folder` leave (docs/results.md), at any time and without the model;
the images of the worst pairs of an IJB-style set are added where it is still at its place.
"""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ijb.protocol import IjbProtocol, load_protocol
from evaluation.results.figures import (
    MOST_OF_A_TEMPLATE,
    Curve,
    draw_histograms,
    draw_identification,
    draw_verification,
    join_templates,
)
from evaluation.results.tables import (
    Table,
    identification_table,
    pairs_of,
    protocols_table,
    rank_table,
    reasons_of,
    summary_of,
    to_csv,
    verification_table,
)
from facekd.errors import DataError, FacekdError
from facekd.images.alignment import align
from facekd.images.decoding import decode_rgb
from facekd.utils import html as html_page
from facekd.utils.files import write_text

FORMAT, FOLDER_FORMAT, NEWEST_VERSION = "facekd-ijb", "facekd-folder", 1
ONE_FOLDER = ("num_images", "num_people", "num_gallery", "num_distractors", "num_probes")
FILES = ("results.csv", "report.md", "report.html")
MOST_STRIPS = 8


def read_result(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The `results.json` of a folder.

    Raises:
        DataError: there is none, it is not JSON, or of a later version than this program knows.
    """
    path = Path(folder) / "results.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no results there; give the --output folder of a finished evaluation") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); run the evaluation again") from error
    if not isinstance(result, dict) or not str(result.get("format", "")).startswith("facekd-"):
        raise DataError(f"{path}: was not written by `facekd evaluate`, for it names no format")
    if result.get("version", 0) > NEWEST_VERSION:
        raise DataError(f"{path}: version {result['version']} of {result['format']}; this facekd reads up to 1")
    return result


def read_curves(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of `curves.npz`; empty where the file is absent.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(folder) / "curves.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the evaluation again") from error


def write_report(folder: str | os.PathLike[str]) -> list[Path]:
    """Write CSV, Markdown and HTML into the output folder of an evaluation.

    Returns:
        The files written.

    Raises:
        DataError: no results of an IJB-style evaluation, or of a folder, there.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    result = read_result(folder)
    if result["format"] not in (FORMAT, FOLDER_FORMAT):
        known = f"{FORMAT} and {FOLDER_FORMAT}"
        raise DataError(f"{folder}: holds results of {result['format']}; this report is for those of {known}")
    write_text(folder / "results.csv", to_csv(result))
    tables = _tables(result)
    write_text(folder / "report.md", _markdown(result, tables))
    write_text(folder / "report.html", _html(result, tables, read_curves(folder)))
    return [folder / name for name in FILES]


def name_of(result: dict[str, Any]) -> str:
    """What was judged, in a few characters: the file's name."""
    source = result.get("model") or result.get("embeddings") or {}
    return Path(source.get("path", "embeddings")).name


def _title(result: dict[str, Any]) -> str:
    dataset = result.get("dataset") or {"published": None, "root": result["images"]}
    return f"{name_of(result)} on {dataset['published'] or Path(dataset['root']).name}"


def _tables(result: dict[str, Any]) -> list[Table]:
    """In the order in which they are read."""
    dataset = result.get("dataset") or {
        "folder": result["images"],
        **{key: result[key] for key in ONE_FOLDER if key in result},
    }
    tables = [
        verification_table(result) if result.get("tar_at_far") else None,
        identification_table(result),
        rank_table(result),
        protocols_table(result),
        pairs_of("Data", dataset),
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
        [f"{problem['kind']} ({problem['severity']})", f"{problem['count']:,}", problem["text"]] for problem in problems
    ]
    return Table("What was odd about the data", ["", "count", "what"], rows)


def _markdown(result: dict[str, Any], tables: list[Table]) -> str:
    parts = [f"# {_title(result)}", "", f"Protocol: {result['protocol']['text']}.", "", summary_of(result), ""]
    parts += [f"- {note}" for note in [*(result.get("notes") or []), *reasons_of(result)]]
    parts += ["", *(table.to_markdown() for table in tables)]
    parts += ["## Command", "", "```", result.get("command", ""), "```", ""]
    return "\n".join(parts)


def _html(result: dict[str, Any], tables: list[Table], curves: dict[str, np.ndarray]) -> str:
    protocol = html.escape(result["protocol"]["text"])
    parts = [f"<p>Protocol: {protocol}.</p><p>{html.escape(summary_of(result))}</p>"]
    parts += _list(result.get("notes") or [])
    model = Curve(name_of(result), curves, result.get("tar_at_far") or [])
    for table in tables:
        parts.append(table.to_html())
        if table.title == "1:1 verification":
            parts += _verification_pictures(result, model)
        elif table.title == "1:N identification":
            figure = draw_identification([model])
            if figure is not None:
                caption = (
                    "Left: the share of mated probes whose mate is among the first. Right: with a threshold, against "
                    "the false alarms of probes that have no mate in the gallery."
                )
                parts.append(html_page.picture(html_page.to_png(figure), caption))
        elif table.title == "Data":
            parts += _strips(result)
    parts += ["<h2>Why some points are missing</h2>", *_list(reasons_of(result))] if reasons_of(result) else []
    parts.append(f"<h2>Command</h2><p><code>{html.escape(result.get('command', ''))}</code></p>")
    return html_page.page(_title(result), parts)


def _list(sentences: list[str]) -> list[str]:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return [f"<ul>{items}</ul>"] if items else []


def _verification_pictures(result: dict[str, Any], model: Curve) -> list[str]:
    compared = "templates, made by the protocol above," if "dataset" in result else "images"
    parts = [
        f"<p>To deploy one of these points, accept when the cosine of two {compared} is at least the threshold. A "
        "threshold holds for this model, this protocol and people like these.</p>"
    ]
    if "roc_far" in model.curves:
        caption = "Grey: fewer than one false accept. The exact operating points, thinned; nothing is interpolated."
        parts.append(html_page.picture(html_page.to_png(draw_verification([model])), caption))
    if "histogram_edges" in model.curves:
        thresholds = [
            (f"FAR {point['far']:g}", point["threshold"])
            for point in result["tar_at_far"]
            if point["threshold"] is not None
        ]
        figure = draw_histograms(model.curves, thresholds, (result["num_genuine"], result["num_impostor"]))
        parts.append(html_page.picture(html_page.to_png(figure), "Scores of both kinds, each with unit area."))
    return parts


def _strips(result: dict[str, Any]) -> list[str]:
    """The worst pairs as images, where the set is at its place and has any."""
    worst = result.get("worst") or {}
    if not (worst.get("genuine") or worst.get("impostor")):
        return []
    dataset = result["dataset"]
    try:
        protocol = load_protocol(dataset["root"], dataset["target"])
    except (FacekdError, OSError) as error:
        return [_worst_as_table(worst), f"<p>Images left out: {html.escape(str(error))}</p>"]
    if protocol.fingerprint != dataset["fingerprint"]:
        text = "Images left out: the lists of the set are others than those that were evaluated."
        return [_worst_as_table(worst), f"<p>{text}</p>"]
    templates = _TemplateImages(protocol)
    about = (
        f"Up to {MOST_OF_A_TEMPLATE} aligned images of each template. Look for wrong labels, bad crops and relatives."
    )
    parts = []
    for kind, heading in (("genuine", "Genuine pairs, lowest scores"), ("impostor", "Impostor pairs, highest scores")):
        rows = []
        for pair in worst.get(kind, [])[:MOST_STRIPS]:
            sides = [templates.images(pair["first"]), templates.images(pair["second"])]
            if all(sides):
                text = f"{pair['score']:.4f}: templates {pair['first']} and {pair['second']}, pair {pair['pair']:,}"
                rows.append(html_page.picture(join_templates(*sides), text))
        if rows:
            parts += [f"<h3>{heading}</h3>", *rows]
    return ["<h2>The worst pairs</h2>", f"<p>{about}</p>", *parts] if parts else [_worst_as_table(worst)]


def _worst_as_table(worst: dict[str, Any]) -> str:
    rows = [
        [kind, f"{pair['pair']:,}", f"{pair['score']:.4f}", f"{pair['first']}, {pair['second']}"]
        for kind in ("genuine", "impostor")
        for pair in worst.get(kind, [])[:MOST_STRIPS]
    ]
    return Table("The worst pairs", ["", "row of the pair file", "score", "templates"], rows).to_html()


class _TemplateImages:
    """Aligned images of a template, those that can be had."""

    def __init__(self, protocol: IjbProtocol) -> None:
        self._protocol = protocol
        self._order = np.argsort(protocol.face_templates, kind="stable")
        self._sorted = protocol.face_templates[self._order]

    def images(self, template_id: int) -> list[np.ndarray]:
        row = int(np.searchsorted(self._protocol.template_ids, template_id))
        left, right = np.searchsorted(self._sorted, [row, row + 1])
        faces = self._order[left:right]
        if len(faces) > MOST_OF_A_TEMPLATE:  # spread over the template: neighbours are frames of one video
            faces = faces[np.linspace(0, len(faces) - 1, MOST_OF_A_TEMPLATE).round().astype(int)]
        found = []
        for image in self._protocol.face_images[faces].tolist():
            if not 0 <= image < self._protocol.num_listed:
                continue
            try:
                pixels = decode_rgb(self._protocol.image_path(image).read_bytes())
                found.append(align(pixels, self._protocol.landmarks[image]))
            except (FacekdError, OSError):
                continue  # the evaluation has reported it; here it is only not shown
        return found
