"""Writes groups.html, and prints the same tables: error rates of groups of people, and how far they differ.

Takes the entry `groups` of `results.json` (docs/results.md) and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.provenance import describe_assumptions
from facekd.commands.command_line import command_text
from facekd.pages.figures import chart, draw_matrix, new_figure
from facekd.pages.html import write_page
from facekd.pages.numbers import threshold as threshold_text
from facekd.pages.tables import Table
from facekd.utils.foreign import shown
from facekd.utils.terminal import say
from facekd.utils.wording import agreeing

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "groups.html"
RATES = ("fmr", "fnmr")
MOST_PICTURES = 32  # of a page; each takes a fifth of a second or more
MEASURE_NAMES = {
    "worst_ratio": "worst rate / best rate",
    "geometric_mean_ratio": "worst rate / geometric mean",
    "gini": "Gini coefficient",
}
CAPTION = (
    "Non-mated comparisons of two groups: the share accepted, how many that is, and of how many. Hatched: fewer than "
    "30 errors, too few to tell the rate to within 30 % (rule of 30). Without any error among n independent "
    "comparisons, the rate is below 3 / n with 95 % confidence (rule of 3)."
)


def write_groups_page(folder: Path, result: Mapping[str, Any], title: str) -> None:
    """Writes the page of the groups.

    Args:
        folder: the output folder of the evaluation.
        result: the results, with `groups`.
        title: what was evaluated on what.
    """
    groups = result["groups"]
    write_page(
        folder / PAGE,
        "groups",
        title=f"{title}, by group",
        protocol=result["protocol"]["text"],
        source=f"{groups['path']} (by {groups['key']})",
        attributes=_attributes(groups["attributes"]),
        num_left_out=max(sum(len(one["points"]) for one in groups["attributes"]) - MOST_PICTURES, 0),
        command=result.get("command") or "",
        assumptions=[text] if (text := describe_assumptions(result.get("model"))) else [],
        next=[
            f"The results over all people: `{command_text('report', [str(folder)])}`, and report.html beside this page",
            "Another model by the same groups: the command above with another `--model` and `--output`",
        ],
    )


def print_groups(result: Mapping[str, Any], console: Console) -> None:
    """Prints the rates of each group, and what is to be known about them."""
    for attribute in result["groups"]["attributes"]:
        for point in attribute["points"]:
            say(console, _heading(point), bold=f"\n{shown(attribute['name'])}")
            for rate in RATES:
                rates_table(attribute, point, rate).print(console)
            own_table(point).print(console)
            differentials_table(point).print(console)
        if not attribute["points"]:
            say(console, ": no FAR could be measured", bold=f"\n{shown(attribute['name'])}")
        for note in attribute["notes"]:
            say(console, f"warning: {note}")
        for sentence in attribute["thin"]:
            say(console, f"too little data: {sentence}")


def rates_table(attribute: Mapping[str, Any], point: Mapping[str, Any], rate: str) -> Table:
    """Returns the `fmr` or `fnmr` within each group at the common threshold, and how it compares with the others'."""
    within = {pair["first"]: pair[rate] for pair in point["pairs"] if pair["first"] == pair["second"]}
    rows = [
        [entry["group"], f"{group['num_people']:,}", *_rate_cells(within[entry["group"]]), _to_others(entry[rate])]
        for group, entry in zip(attribute["groups"], point["groups"], strict=True)
    ]
    return Table("", ["group", "people", f"{rate.upper()} % (95 %)", "errors", "x others (95 %)"], rows)


def own_table(point: Mapping[str, Any]) -> Table:
    """Returns the threshold that each group would need to have the FAR by itself, and what it then refuses."""
    rows = []
    for entry in point["groups"]:
        own = entry["own"]
        if own["reason"]:
            rows.append([entry["group"], "-", "-", own["reason"]])
            continue
        refused = f"{_percent(own['fnmr'])} ({_bounds(own['ci95'])})"
        rows.append([entry["group"], threshold_text(own["threshold"]), f"{_percent(own['fmr'])}", refused])
    return Table("", ["group alone", "threshold it needs", "FMR % there", "FNMR % there (95 %)"], rows)


def differentials_table(point: Mapping[str, Any]) -> Table:
    """Returns the summary measures of the differences between groups, with intervals."""
    rows = [
        [name, *(_measure(point["differentials"][rate][key]) for rate in RATES)] for key, name in MEASURE_NAMES.items()
    ]
    return Table("", ["between groups", "of FMR", "of FNMR"], rows)


def pairs_table(point: Mapping[str, Any]) -> Table:
    """Returns every pair of groups with what is behind its rates; FNMR only if images of one person may differ."""
    is_mixed = any(pair["fnmr"]["num"] for pair in point["pairs"] if pair["first"] != pair["second"])
    rates = RATES if is_mixed else RATES[:1]
    rows = []
    for pair in point["pairs"]:
        cells = []
        for rate in rates:
            doubt = "" if pair[rate]["support"] == "enough" else pair[rate]["support"]
            cells += [*_rate_cells(pair[rate]), doubt]
        rows.append([pair["first"], pair["second"], *cells])
    names = [name for rate in rates for name in (f"{rate.upper()} % (95 %)", "errors", "too little data")]
    return Table("", ["group", "with", *names], rows)


def _attributes(attributes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what the page shows of each attribute; the first points of all get a picture."""
    shown_ones, num_pictures = [], 0
    for one in attributes:
        shown_ones.append(_attribute(one, MOST_PICTURES - num_pictures))
        num_pictures += len(one["points"])
    return shown_ones


def _attribute(attribute: Mapping[str, Any], num_pictures: int) -> dict[str, Any]:
    return {
        "name": attribute["name"],
        "notes": [*attribute["notes"], *(f"Too little data: {sentence}." for sentence in attribute["thin"])],
        "points": [
            {
                "heading": f"{attribute['name']}{_heading(point)}",
                "rates": [rates_table(attribute, point, rate) for rate in RATES],
                "own": own_table(point),
                "differentials": differentials_table(point),
                "pairs": pairs_table(point),
                "picture": chart(_heat_map(attribute, point), CAPTION) if number < num_pictures else None,
            }
            for number, point in enumerate(attribute["points"])
        ],
    }


def _heading(point: Mapping[str, Any]) -> str:
    return f": FAR {point['far']:g} over all comparisons, threshold {threshold_text(point['threshold'])}"


def _heat_map(attribute: Mapping[str, Any], point: Mapping[str, Any]) -> Any:
    """Draws the false match rate of every pair of groups."""
    names = [group["name"] for group in attribute["groups"]]
    count = len(names)
    place = {name: number for number, name in enumerate(names)}
    values, is_thin = np.full((count, count), np.nan), np.zeros((count, count), bool)
    texts = [[""] * count for _ in names]
    for pair in point["pairs"]:
        fmr = pair["fmr"]
        for row, column in ((pair["first"], pair["second"]), (pair["second"], pair["first"])):
            cell = place[row], place[column]
            values[cell] = np.nan if fmr["rate"] is None else fmr["rate"]
            is_thin[cell] = fmr["support"] != "enough"
            texts[cell[0]][cell[1]] = (
                "no data" if fmr["rate"] is None else f"{_percent(fmr['rate'])} %\n{fmr['errors']:,} / {fmr['num']:,}"
            )
    side = min(max(1.1 * count + 2.2, 4.6), 14)
    figure, [axes] = new_figure((side + 1.2, side * 0.8))
    draw_matrix(axes, values, names, texts, is_thin, f"FMR at threshold {point['threshold']:.4f}")
    return figure


def _rate_cells(rate: Mapping[str, Any]) -> tuple[str, str]:
    if rate["rate"] is None:
        return "-", "0 of 0"
    return f"{_percent(rate['rate'])} ({_bounds(rate['ci95'])})", f"{rate['errors']:,} of {rate['num']:,}"


def _to_others(entry: Mapping[str, Any]) -> str:
    """Writes a rate over that of the other groups; where they have no error, by how much it is larger."""
    ratio, difference = entry["ratio_to_others"], entry["minus_others"]
    if ratio["value"] is not None:
        return _measure({**ratio, "reason": None})
    if difference["value"] is None:
        return "-"
    points = float(f"{100 * difference['value']:.3g}")
    return f"{points:+.3g} {agreeing(abs(points), 'point')} ({_bounds(difference['ci95'])})"


def _measure(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return f"not defined: {entry['reason']}"
    bounds: Sequence[float] | None = entry["ci95"]
    return f"{entry['value']:.3g}" + (f" ({bounds[0]:.3g} to {bounds[1]:.3g})" if bounds else "")


def _bounds(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{_percent(bounds[0])} to {_percent(bounds[1])}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}"
