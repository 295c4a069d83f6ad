"""Presents the results of `facekd evaluate protocol` as tables, for the page and the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.provenance import describe_assumptions
from evaluation.results.tables import IDENTIFICATION, verification_table
from facekd.pages.numbers import interval, percent, threshold
from facekd.pages.tables import Table
from facekd.utils.foreign import shown
from facekd.utils.terminal import console as make_console
from facekd.utils.terminal import say

if TYPE_CHECKING:
    from rich.console import Console


def search_table(result: dict[str, Any]) -> Table | None:
    """Returns rank rates, average precision and FNIR@FPIR with intervals, a column for each gallery; None without."""
    galleries = dict(result.get("identification") or {})
    if not galleries:
        return None
    if len(galleries) == 2:  # a gallery and its mean, which is the same
        del galleries["mean"]
    first = next(iter(galleries.values()))
    rows = [
        [f"rank-{entry['rank']} %", *(_with_interval(one["rank"][at], "rate") for one in galleries.values())]
        for at, entry in enumerate(first["rank"])
    ]
    if first.get("mean_average_precision"):
        of_all = [one.get("mean_average_precision") or {"value": None} for one in galleries.values()]
        rows.append(["mAP %", *(_with_interval(one, "value") for one in of_all)])
    within = result["protocol"].get("within", 1)
    for at, point in enumerate(first["tpir_at_fpir"]):
        name = f"FNIR % at FPIR {point['fpir']:g}" + (f", rank {within}" if within > 1 else "")
        rows.append([name, *(_missed(one["tpir_at_fpir"][at]) for one in galleries.values())])
        rows.append(
            ["its threshold", *(threshold(one["tpir_at_fpir"][at].get("threshold")) for one in galleries.values())]
        )
    for key, label in (
        ("num_gallery", "gallery entries"),
        ("num_mated", "mated searches"),
        ("num_nonmated", "non-mated searches"),
    ):
        rows.append([label, *(f"{one[key]:,}" if one.get(key) is not None else "" for one in galleries.values())])
    return Table(IDENTIFICATION, ["", *galleries], rows)


def print_protocol_results(result: dict[str, Any], console: Console | None = None) -> None:
    """Prints the set, the protocol, both tables and the notes."""
    console = console or make_console()
    dataset = result["dataset"]
    say(console, f": {result['protocol']['text']}", bold=f"\n{shown(dataset['published'] or dataset['target'])}")
    if assumptions := describe_assumptions(result.get("model")):
        say(console, assumptions)
    tables = [search_table(result), verification_table(result) if result.get("tar_at_far") else None]
    for table in tables:
        if table is not None:
            table.print(console)
    if result["search_intervals"]:
        say(console, f"intervals of searches: {result['search_intervals']}")
    lost = result["failures"]["num_images"]
    if lost:
        by_role = ", ".join(f"{count:,} {role}" for role, count in result["failures"]["by_role"].items())
        say(console, f"images without an embedding: {lost:,} ({by_role}); they are left out")
    for note in result["notes"]:
        say(console, f"note: {note}")


def _with_interval(entry: dict[str, Any], key: str) -> str:
    return percent(entry[key]) + (f" ({interval(entry['ci95'])})" if entry.get("ci95") else "")


def _missed(point: dict[str, Any]) -> str:
    """Writes a TPIR as the share of mated probes that were missed, FNIR."""
    if point["tpir"] is None:
        return "not measurable"
    bounds = point.get("ci95")
    return percent(1 - point["tpir"]) + (f" ({interval([1 - bounds[1], 1 - bounds[0]])})" if bounds else "")
