"""Writes the page of a robustness evaluation: for each degradation its faces, curves and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.provenance import describe_assumptions
from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.robustness.plan import Comparisons
from evaluation.robustness.tables import (
    CLEAN,
    controls_table,
    level_table,
    levels_of,
    strictest_far,
    summary_table,
)
from facekd.images.encoding import encode_jpeg
from facekd.pages.figures import LINE_WIDTH, MARKER_SIZE, chart, color_of, in_legend, label_axes, new_figure
from facekd.pages.html import Picture, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = 2  # faces shown at each strength
EXAMPLE_QUALITY = 92  # of the JPEGs that show them
GAP = 4  # pixels between them
SIZE = (4.6, 3.6)  # inches of one of the three curves
SPREAD = 0.12  # by which the points of several models stand apart; strengths are 1 apart
Entry = dict[str, Any]
Point = tuple[float, Sequence[float] | None]  # a measure, and its interval


def write_robustness_page(path: Path, result: Entry, compared: Comparisons) -> None:
    """Writes the page.

    Args:
        path: where it goes.
        result: the content of results.json.
        compared: the pairs, for examples of their faces.
    """
    names = [model["name"] for model in result["models"]]
    parts = [
        {
            "title": DEGRADATIONS[name].title,
            "about": f"{DEGRADATIONS[name].about} Strength: {DEGRADATIONS[name].unit}.",
            "faces": example_faces(compared, name, result["protocol"]["seed"]),
            "curves": draw_curves(result, name),
            "table": level_table(result, name),
        }
        for name in result["protocol"]["degradations"]
    ]
    write_page(
        path,
        "robustness",
        title=f"Robustness of {' and '.join(names)} on {result['pair_set']['name']}",
        protocol=result["protocol"]["text"],
        notes=result["notes"],
        summary=summary_table(result),
        parts_of_page=parts,
        about_curves=_about_curves(result),
        controls=controls_table(result),
        command=result["command"],
        assumptions=[f"{model['name']}: {text}" for model in result["models"] if (text := describe_assumptions(model))],
        next=[
            "Another model, or stronger degradations: the command above with another `--output`; "
            "`facekd evaluate robustness --help`",
            "The same pairs without degradation, with folds and thresholds: `facekd evaluate lfw --help`",
        ],
    )


def example_faces(compared: Comparisons, name: str, seed: int) -> list[Picture]:
    """Returns a picture for each strength, the same faces below each other in each; the first is not degraded."""
    # The second images of the first genuine pairs: those that are degraded in any case.
    places = np.flatnonzero(compared.is_same)[:EXAMPLES]
    decoded = [compared.pair_set.decode(2 * pair + 1, 2 * pair + 2)[0] for pair in compared.pairs[places].tolist()]
    pictures = [_stack(decoded, CLEAN)]
    for strength in DEGRADATIONS[name].strengths:
        images = compared.degraded_images(name, strength, "probe", seed)
        faces = [images.decode(place, place + 1)[0] for place in places.tolist()]
        pictures.append(_stack(faces, f"{strength:g}"))
    return pictures


def draw_curves(result: Entry, name: str) -> list[Picture]:
    """Draws accuracy, EER and TAR over the strength of a degradation, with 95 % intervals, a line for each model."""
    far = strictest_far(result)
    measures: list[tuple[str, Callable[[Entry], Point]]] = [
        ("accuracy", lambda one: (one["accuracy"]["mean"], one["accuracy"]["ci95"])),
        ("EER", lambda one: (one["eer"], one["eer_ci95"])),
    ]
    if far is not None:
        measures.append((f"TAR at FAR {far:g}", lambda one: _tar(one, far)))
    return [
        chart(_draw_measure(result, name, title, read), f"{title} by {DEGRADATIONS[name].unit}")
        for title, read in measures
    ]


def _draw_measure(result: Entry, name: str, title: str, read: Callable[[Entry], Point]) -> Figure:
    """Draws one measure of all models."""
    figure, [axes] = new_figure(SIZE)
    models = result["models"]
    for number, model in enumerate(models):
        points = [read(measured) for _, measured in levels_of(model, name)]
        _draw_line(axes, points, SPREAD * (number - (len(models) - 1) / 2), color_of(number), model["name"])
    labels = [CLEAN if strength is None else f"{strength:g}" for strength, _ in levels_of(models[0], name)]
    axes.set_xticks(range(len(labels)), labels)
    label_axes(axes, title, DEGRADATIONS[name].unit, "%", "below" if len(models) > 1 else None)
    return figure


def _draw_line(axes: Axes, points: Sequence[Point], offset: float, color: str, label: str) -> None:
    """Draws one measure of one model, in percent, with bars for the intervals."""
    values = 100 * np.array([value for value, _ in points])
    bounds = 100 * np.array([ci95 or (value, value) for value, ci95 in points])
    bars = np.maximum([values - bounds[:, 0], bounds[:, 1] - values], 0)  # rounding may leave a hair below 0
    axes.errorbar(
        np.arange(len(values)) + offset,
        values,
        bars,
        fmt="o-",
        ms=MARKER_SIZE,
        lw=LINE_WIDTH,
        elinewidth=1,
        capsize=3,
        color=color,
        label=in_legend(label),
    )


def _tar(measured: Entry, far: float) -> Point:
    point = next(point for point in measured["tar_at_far"] if point["far"] == far)
    return point["tar"], point["ci95"]


def _about_curves(result: Entry) -> str:
    resampled = (result["models"][0]["clean"]["bootstrap"] or {}).get("resampled")
    bars = (
        f"Bars in the curves: 95 % intervals, by resampling {resampled}."
        if resampled
        else "Bars in the curves: Wilson's 95 % intervals."
    )
    return f"{bars} Thresholds are chosen anew at each strength."


def _stack(faces: Sequence[np.ndarray], caption: str) -> Picture:
    """Puts faces (S, S, 3) below each other, with white between them."""
    size = max(max(face.shape[:2]) for face in faces)
    canvas = np.full((len(faces) * (size + GAP) - GAP, size, 3), 255, np.uint8)
    for row, face in enumerate(faces):
        top = row * (size + GAP)
        canvas[top : top + face.shape[0], : face.shape[1]] = face
    return Picture(encode_jpeg(canvas, EXAMPLE_QUALITY), caption)
