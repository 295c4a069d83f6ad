"""Turns what was measured on degraded images into tables and CSV; takes values of results.json, computes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.robustness.degradations import DEGRADATIONS
from facekd.pages.numbers import interval, percent
from facekd.pages.tables import Table

CLEAN = "none"
SIDES_TEXT = {"probe": "the second image of each pair", "both": "both images of each pair"}
CSV_HEAD = ("model", "degradation", "strength", "degraded", "metric", "target", "value", "ci95_low", "ci95_high")
Entry = dict[str, Any]


def strictest_far(result: Entry) -> float | None:
    """Returns the lowest FAR that is measurable on the clean images; None if none is."""
    return min((point["far"] for point in result["models"][0]["clean"]["at_clean_threshold"]), default=None)


def summary_table(result: Entry) -> Table:
    """Returns for each degradation the mildest strength at which an EER is shown to be above that of clean images."""
    rows = []
    for name in result["protocol"]["degradations"]:
        degradation = DEGRADATIONS[name]
        cells = [_first_worse(model["degradations"][name]) for model in result["models"]]
        rows.append([f"{degradation.title} ({degradation.unit})", *cells])
    names = [model["name"] for model in result["models"]]
    names = names if len(names) > 1 else ["from"]  # the page has the name of a single model in its title
    return Table("Where the EER is shown to rise", ["degradation", *names], rows)


def level_table(result: Entry, name: str) -> Table:
    """Returns the measures of all models at each strength of a degradation."""
    rows = [
        [_strength_text(strength), *cells]
        for strength, measured in levels_of(result["models"][0], name)
        for cells in _cells_of_models(result, name, strength)
    ]
    return Table("", _head(result, "strength"), rows)


def controls_table(result: Entry) -> Table:
    """Returns the measures of models whose input was prepared wrongly."""
    rows = []
    for model in result["models"]:
        own = [model["name"]] if len(result["models"]) > 1 else []
        for control in model["controls"]:
            if "problem" in control:
                rows.append([control["name"], *own, *[""] * (len(_measures_head(result)) - 1), control["problem"]])
            else:
                text = f"{control['name']}, {SIDES_TEXT[control['degraded']]}"
                rows.append([text, *own, *_cells(control, strictest_far(result))])
    return Table("Controls: input prepared wrongly", _head(result, "what is wrong"), rows)


def terminal_table(result: Entry, model: Entry) -> Table:
    """Returns all measures of one model, a line for each strength and control."""
    far = strictest_far(result)
    rows = [["clean", "", *_cells(model["clean"], far)]]
    for name in result["protocol"]["degradations"]:
        rows += [[name, f"{one['strength']:g}", *_cells(one, far)] for one in model["degradations"][name]]
    for one in model["controls"]:
        if "problem" not in one:
            rows.append([one["name"], one["degraded"], *_cells(one, far)])
    return Table(model["name"], ["", "", *_measures_head(result)], rows)


def levels_of(model: Entry, name: str) -> list[tuple[float | None, Entry]]:
    """Returns each strength with its measures, the clean images first, whose strength is None."""
    return [(None, model["clean"]), *((one["strength"], one) for one in model["degradations"][name])]


def to_csv(result: Entry) -> str:
    """Returns every number, one line each, under `CSV_HEAD`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    sides = result["protocol"]["degraded"]
    for model in result["models"]:
        places = [(CLEAN, "", "", model["clean"])]
        for name in result["protocol"]["degradations"]:
            places += [(name, f"{one['strength']:g}", sides, one) for one in model["degradations"][name]]
        places += [(one["name"], "", one["degraded"], one) for one in model["controls"] if "problem" not in one]
        for *place, measured in places:
            writer.writerows([model["name"], *place, *row] for row in _csv_rows(measured))
    return text.getvalue()


def _csv_rows(measured: Entry) -> Iterator[list[Any]]:
    yield ["accuracy", "", measured["accuracy"]["mean"], *_bounds(measured["accuracy"]["ci95"])]
    yield ["eer", "", measured["eer"], *_bounds(measured["eer_ci95"])]
    if measured["eer_change"]:
        yield ["eer_change", "", measured["eer_change"]["difference"], *_bounds(measured["eer_change"]["ci95"])]
    for point in measured["tar_at_far"]:
        if point["tar"] is not None:
            yield ["tar", point["far"], point["tar"], *_bounds(point["ci95"])]
    for point in measured["at_clean_threshold"]:
        yield ["tar_at_clean_threshold", point["far"], point["tar"], *_bounds(point["tar_ci95"])]
        yield ["far_at_clean_threshold", point["far"], point["achieved_far"], *_bounds(point["achieved_far_ci95"])]


def _bounds(ci95: Sequence[float] | None) -> list[Any]:
    return ["", ""] if ci95 is None else list(ci95)


def _first_worse(levels: Sequence[Entry]) -> str:
    if any(one["eer_change"] is None for one in levels):
        return "not tested"
    worse = [one["strength"] for one in levels if one["eer_change"]["ci95"][0] > 0]
    return f"{worse[0]:g}" if worse else f"not up to {levels[-1]['strength']:g}"


def _cells_of_models(result: Entry, name: str, strength: float | None) -> Iterator[list[str]]:
    for model in result["models"]:
        measured = dict(levels_of(model, name))[strength]
        own = [model["name"]] if len(result["models"]) > 1 else []
        yield [*own, *_cells(measured, strictest_far(result))]


def _head(result: Entry, first: str) -> list[str]:
    return [first, *(["model"] if len(result["models"]) > 1 else []), *_measures_head(result)]


def _measures_head(result: Entry) -> list[str]:
    far = strictest_far(result)
    head = ["accuracy %", "EER %"]
    if far is not None:
        head += [f"TAR % at FAR {far:g}", "TAR % at the clean threshold", "FAR % there"]
    return head


def _cells(measured: Entry, far: float | None) -> list[str]:
    cells = [
        _with_interval(measured["accuracy"]["mean"], measured["accuracy"]["ci95"]),
        _with_interval(measured["eer"], measured["eer_ci95"]),
    ]
    for point in measured["tar_at_far"]:
        if far is not None and point["far"] == far:
            cells.append(_with_interval(point["tar"], point["ci95"]))
    for point in measured["at_clean_threshold"]:
        if point["far"] == far:
            cells += [
                _with_interval(point["tar"], point["tar_ci95"]),
                _with_interval(point["achieved_far"], point["achieved_far_ci95"]),
            ]
    return cells


def _with_interval(value: float | None, ci95: Sequence[float] | None) -> str:
    return percent(value) + (f" ({interval(ci95)})" if value is not None and ci95 is not None else "")


def _strength_text(strength: float | None) -> str:
    return CLEAN if strength is None else f"{strength:g}"
