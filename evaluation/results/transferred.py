"""Applies the thresholds that another set gave: what false match and false non-match rates they achieve on this one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from facekd.errors import ConfigError
from facekd.pages.numbers import threshold
from facekd.pages.tables import Table
from facekd.results.thresholds import MeasuredThresholds, read_thresholds
from facekd.verification.groups.cell_rates import CellErrors, cell_rates, draw_weights, resolves

TRANSFERRED = "Thresholds of another set"  # title of the table
VERDICTS = {"kept": "kept", "exceeded": "exceeded", "open": "not decided"}


def add_transfer_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--thresholds-from`."""
    parser.add_argument(
        "--thresholds-from",
        metavar="RESULTS",
        help="also apply the thresholds that another evaluation of this model found, its output folder or "
        "results.json: reports the false match and non-match rates that they achieve here, with intervals",
    )


def read_transferred(arguments: argparse.Namespace) -> MeasuredThresholds | None:
    """Reads the thresholds that `--thresholds-from` names; None if it names none.

    Raises:
        ConfigError: embeddings are given in place of a model.
        DataError: see `read_thresholds`.
    """
    if arguments.thresholds_from is None:
        return None
    if arguments.model is None:
        raise ConfigError(
            "--thresholds-from needs --model: whether thresholds are of the model that made the embeddings is not known"
        )
    return read_thresholds(arguments.thresholds_from)


def describe_transferred(
    measured: MeasuredThresholds, source: CellErrors, replicates: int, seed: int
) -> dict[str, Any]:
    """Returns the entry `transferred` of results.json (docs/results.md).

    Args:
        measured: the thresholds of the other set, whose settings have been checked.
        source: the comparisons of this set, in one cell.
        replicates: number of draws of the intervals; 0 leaves Wilson's.
        seed: random seed of the draws.
    """
    drawn = draw_weights(source.num_units, replicates, seed)
    points = []
    for point in measured.points:
        if point.tar is None or point.threshold is None:
            continue
        fmr, fnmr = (cell_rates(source, kind, point.threshold, drawn).entry(0) for kind in ("impostor", "genuine"))
        points.append(
            {
                "far": point.far,
                "threshold": point.threshold,
                "there": {"fmr": point.achieved_far, "fnmr": 1 - point.tar, "num_impostor": point.num_impostor},
                "fmr": fmr,
                "fnmr": fnmr,
                "resolved": resolves(point.far, fmr["num"]),
                "verdict": _verdict(point.far, fmr["ci95"]),
            }
        )
    return {"path": str(measured.path), "set": measured.data, "points": points, "remarks": list(measured.remarks)}


def _verdict(far: float, bounds: list[float]) -> str:
    """Says whether the false match rate here exceeds the one aimed at: "exceeded", "kept", or "open"."""
    return "exceeded" if bounds[0] > far else "kept" if bounds[1] <= far else "open"


def transferred_table(result: Mapping[str, Any]) -> Table | None:
    """Returns what the thresholds of another set achieve on this one; None without `--thresholds-from`."""
    found = result.get("transferred")
    if not found:
        return None
    rows = [
        [
            f"{point['far']:g}",
            threshold(point["threshold"]),
            _percent(point["there"]["fmr"]),
            _rate(point["fmr"]),
            f"{point['fmr']['errors']:,} of {point['fmr']['num']:,}",
            VERDICTS[point["verdict"]],
            _percent(point["there"]["fnmr"]),
            _rate(point["fnmr"]),
        ]
        for point in found["points"]
    ]
    head = ["FMR aimed at", "threshold", "FMR % there", "FMR % here (95 %)", "false matches", "aim", "FNMR % there",
            "FNMR % here (95 %)"]  # fmt: skip
    return Table(f"{TRANSFERRED}: {found['set']}", head, rows)


def _rate(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{_percent(entry['rate'])} ({_percent(low)} to {_percent(high)})"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}"
