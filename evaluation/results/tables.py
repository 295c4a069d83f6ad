"""Results as tables of text, once, for every form they are written in: CSV, Markdown and HTML.

Takes the plain values of `results.json` (docs/results.md) and computes nothing.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facekd.utils import html as html_page

CSV_HEAD = (
    "protocol", "metric", "gallery", "target", "value", "ci95_low", "ci95_high", "threshold", "errors", "achieved",
    "note",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A heading, and rows of text under column names; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """A pipe table under its heading."""
        lines = [f"## {self.title}", "", _pipes(self.head), "|" + "---|" * len(self.head), *map(_pipes, self.rows), ""]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The same as HTML, every cell escaped."""
        rows = [[html.escape(cell) for cell in row] for row in self.rows]
        return f"<h2>{html.escape(self.title)}</h2>" + html_page.table([html.escape(cell) for cell in self.head], rows)


def percent(value: float | None) -> str:
    """`0.98765` -> `98.77`; `-` for what is not known."""
    return "-" if value is None else f"{100 * value:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
    """`(0.98, 0.99)` -> `98.00 .. 99.00`."""
    return "-" if bounds is None else f"{100 * bounds[0]:.2f} .. {100 * bounds[1]:.2f}"


def verification_table(result: dict[str, Any]) -> Table:
    """TAR@FAR, each with what it rests on, and the threshold with all its digits: it is to be deployed."""
    rows = []
    for point in result["tar_at_far"]:
        if point["tar"] is None:
            rows.append([f"{point['far']:g}", "-", "-", "-", "-", "-", "not measurable"])
            continue
        rows.append(
            [
                f"{point['far']:g}",
                percent(point["tar"]),
                interval(point["ci95"]),
                repr(point["threshold"]),
                f"{point['false_accepts']:,} of {point['num_impostor']:,}",
                f"{point['achieved_far']:.3g}",
                point["interval"] or "",
            ]
        )
    head = ["FAR", "TAR %", "95 % interval", "threshold", "false accepts", "achieved FAR", "interval by"]
    return Table("1:1 verification", head, rows)


def reasons_of(result: dict[str, Any]) -> list[str]:
    """Why some points are missing, a sentence each."""
    points = list(result.get("tar_at_far") or [])
    for gallery in (result.get("identification") or {}).values():
        points += gallery["tpir_at_fpir"]
    return list(dict.fromkeys(point["reason"] for point in points if point.get("reason")))


def identification_table(result: dict[str, Any]) -> Table | None:
    """TPIR@FPIR and rank rates, a column a gallery and one for their mean; None without 1:N."""
    galleries = result.get("identification")
    if not galleries:
        return None
    rows = []
    mean = galleries["mean"]
    for index, point in enumerate(mean["tpir_at_fpir"]):
        cells = [percent(gallery["tpir_at_fpir"][index]["tpir"]) for gallery in galleries.values()]
        rows.append([f"TPIR % at FPIR {point['fpir']:g}", *cells])
        thresholds = [_number(gallery["tpir_at_fpir"][index].get("threshold")) for gallery in galleries.values()]
        rows.append(["its threshold", *thresholds])
    for index, point in enumerate(mean["rank"]):
        rows.append(
            [f"rank-{point['rank']} %", *(percent(gallery["rank"][index]["rate"]) for gallery in galleries.values())]
        )
    for key, label in (
        ("num_gallery", "gallery templates"),
        ("num_mated", "mated probes"),
        ("num_nonmated", "non-mated probes"),
    ):
        rows.append([label, *(f"{gallery[key]:,}" if key in gallery else "" for gallery in galleries.values())])
    return Table("1:N identification", ["", *galleries], rows)


def rank_table(result: dict[str, Any]) -> Table | None:
    """Rank rates of a closed-set identification; None without one."""
    if not result.get("rank"):
        return None
    rows = [[f"rank-{entry['rank']}", percent(entry["rate"]), interval(entry["ci95"])] for entry in result["rank"]]
    return Table("Closed-set identification", ["", "%", "95 % interval (Wilson)"], rows)


def summary_of(result: dict[str, Any]) -> str:
    """One line: what was compared, EER and AUC."""
    text = f"{result['num_people']:,} people, {result['num_images']:,} images; " if "num_images" in result else ""
    if result.get("rank"):
        text += f"{result['num_people']:,} people, {result['num_gallery']:,} gallery images, "
        return text + f"{result['num_distractors']:,} distractors, {result['num_probes']:,} probes."
    if result.get("eer") is None:
        return "1:N alone was evaluated."
    text += f"EER {percent(result['eer'])} %"
    if result.get("eer_ci95"):
        text += f" (95 % interval {interval(result['eer_ci95'])})"
    return text + (
        f", AUC {result['auc']:.6f}; {result['num_genuine']:,} genuine and {result['num_impostor']:,} impostor pairs."
    )


def protocols_table(result: dict[str, Any]) -> Table | None:
    """One row a combination of the switches, where all were run."""
    protocols = result.get("protocols")
    if not protocols:
        return None
    measured = [entry for entry in protocols if entry.get("tar_at_far")]
    if not measured:
        return None
    fars = [point["far"] for point in measured[0]["tar_at_far"]]
    rows = [
        [
            entry["protocol"]["name"] if isinstance(entry["protocol"], dict) else str(entry["protocol"]),
            *(percent(point["tar"]) for point in entry["tar_at_far"]),
            percent(entry["eer"]),
        ]
        for entry in measured
    ]
    return Table(
        "The same embeddings under every protocol", ["TAR % at FAR", *(f"{far:g}" for far in fars), "EER %"], rows
    )


def pairs_of(title: str, values: dict[str, Any]) -> Table:
    """A table of names and values; nested dictionaries by dotted names, what is None left out."""
    rows: list[list[str]] = []

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                add(f"{prefix}.{key}" if prefix else key, entry)
        elif value is not None:
            rows.append([prefix.removeprefix("num_").replace("_", " ").replace(".num ", ", "), _shown(value)])

    add("", values)
    return Table(title, ["", "value"], rows)


def to_csv(result: dict[str, Any]) -> str:
    """Every number of a result, a line each, under `CSV_HEAD`; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    runs = [result, *(result.get("protocols") or [])]
    seen = set()
    for run in runs:
        protocol = run["protocol"]
        name = protocol.get("name") or protocol["text"] if isinstance(protocol, dict) else str(protocol)
        if name in seen:
            continue
        seen.add(name)
        writer.writerows([name, *("" if cell is None else cell for cell in row)] for row in _csv_rows(run))
    return text.getvalue()


def _csv_rows(run: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for point in run.get("tar_at_far") or []:
        low, high = point["ci95"] or (None, None)
        rows.append(
            ["tar", None, point["far"], point["tar"], low, high, point["threshold"], point["false_accepts"],
             point["achieved_far"], point["reason"]]
        )  # fmt: skip
    for metric in ("eer", "auc"):
        if run.get(metric) is not None:
            low, high = (run.get(f"{metric}_ci95") or (None, None))[:2]
            threshold = run.get(f"{metric}_threshold")
            rows.append([metric, None, None, run[metric], low, high, threshold, None, None, None])
    rows += [
        ["rank", None, entry["rank"], entry["rate"], *entry["ci95"], *[None] * 4] for entry in run.get("rank") or []
    ]
    if isinstance(run.get("accuracy"), dict):
        rows.append(["accuracy", None, None, run["accuracy"]["mean"], *[None] * 6])
    for name, gallery in (run.get("identification") or {}).items():
        for point in gallery["tpir_at_fpir"]:
            low, high = point.get("ci95") or (None, None)
            rows.append(
                ["tpir", name, point["fpir"], point["tpir"], low, high, point.get("threshold"),
                 point.get("false_positives"), point.get("achieved_fpir"), point.get("reason")]
            )  # fmt: skip
        rows += [["rank", name, point["rank"], point["rate"], *[None] * 6] for point in gallery["rank"]]
    return rows


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
