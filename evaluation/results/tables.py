"""Turns results into tables of text and into CSV.

Takes the plain values of `results.json` (docs/results.md) and computes nothing. To show another number in every form
of the report, add it to a table here; `_csv_rows` is the same for `results.csv`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from evaluation.provenance import describe_assumptions
from facekd.pages.numbers import interval, percent, threshold
from facekd.pages.tables import LONGEST_CELL, Table
from facekd.results.schema import PROTOCOL_FORMAT
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

VERIFICATION, IDENTIFICATION, DATA = "1:1 verification", "1:N identification", "Data"  # titles of tables
MAX_FOLDS = 20  # shown one by one
FORMULA_STARTS = ("=", "+", "-", "@")
CSV_HEAD: Sequence[str] = (
    "protocol", "metric", "gallery", "target", "value", "ci95_low", "ci95_high", "threshold", "errors", "achieved",
    "note",
)  # fmt: skip


def verification_table(result: dict[str, Any]) -> Table:
    """Returns TAR@FAR with the comparisons behind each value."""
    rows = []
    for point in result["tar_at_far"]:
        if point["tar"] is None:
            rows.append([f"{point['far']:g}", "-", "-", "-", "-", "-", "not measurable"])
            continue
        rows.append(
            [
                f"{point['far']:g}",
                percent(point["tar"]),
                interval(point.get("ci95")),
                threshold(point["threshold"]),
                f"{point['false_accepts']:,} of {point['num_impostor']:,}",
                f"{point['achieved_far']:.3g}",
                point.get("interval") or "",
            ]
        )
    head = ["FAR", "TAR %", "95 % interval", "threshold", "false accepts", "achieved FAR", "interval by"]
    return Table(VERIFICATION, head, rows)


def folds_table(result: dict[str, Any]) -> Table | None:
    """Returns the accuracy of an LFW-style result, fold by fold, and its mean; None for other results."""
    accuracy = result.get("accuracy")
    if not isinstance(accuracy, dict):
        return None
    folds, thresholds = accuracy.get("folds") or [], accuracy.get("thresholds") or []
    rows = [["mean", percent(accuracy["mean"]), ""]]
    if accuracy.get("std") is not None:
        rows.append(["standard deviation", percent(accuracy["std"]), ""])
    if len(folds) == len(thresholds) <= MAX_FOLDS:
        rows += [
            [f"fold {number}", percent(share), threshold(limit)]
            for number, (share, limit) in enumerate(zip(folds, thresholds, strict=True), 1)
        ]
    return Table("Accuracy", ["", "accuracy %", "threshold"], rows)


def reasons_of(result: dict[str, Any]) -> list[str]:
    """Says why some points are missing, one sentence for each reason."""
    points = list(result.get("tar_at_far") or [])
    for gallery in (result.get("identification") or {}).values():
        points += gallery["tpir_at_fpir"]
    return list(dict.fromkeys(point["reason"] for point in points if point.get("reason")))


def identification_table(result: dict[str, Any]) -> Table | None:
    """Returns TPIR@FPIR and rank rates, one column for each gallery and one for their mean; None without 1:N."""
    galleries = result.get("identification")
    if not galleries:
        return None
    rows = []
    mean = galleries["mean"]
    for index, point in enumerate(mean["tpir_at_fpir"]):
        cells = [percent(gallery["tpir_at_fpir"][index]["tpir"]) for gallery in galleries.values()]
        rows.append([f"TPIR % at FPIR {point['fpir']:g}", *cells])
        thresholds = [threshold(gallery["tpir_at_fpir"][index].get("threshold")) for gallery in galleries.values()]
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
        rows.append(
            [label, *(f"{gallery[key]:,}" if gallery.get(key) is not None else "" for gallery in galleries.values())]
        )
    return Table(IDENTIFICATION, ["", *galleries], rows)


def rank_table(result: dict[str, Any]) -> Table | None:
    """Returns the rank rates of a closed-set identification; None without one."""
    if not result.get("rank"):
        return None
    rows = [[f"rank-{entry['rank']}", percent(entry["rate"]), interval(entry["ci95"])] for entry in result["rank"]]
    return Table("Closed-set identification", ["", "%", "95 % interval (Wilson)"], rows)


def summary_of(result: dict[str, Any]) -> str:
    """Says in one line what was compared, the EER and AUC, and what was assumed of the model."""
    assumptions = describe_assumptions(result.get("model"))
    return _what_was_compared(result) + (f" The {assumptions}." if assumptions else "")


def _what_was_compared(result: dict[str, Any]) -> str:
    people, images = counted(result.get("num_people") or 0, "person"), counted(result.get("num_images") or 0, "image")
    text = f"{people}, {images}; " if result.get("num_images") is not None else ""
    if result.get("rank"):
        text += f"{people}, {counted(result['num_gallery'], 'gallery image')}, "
        return text + f"{counted(result['num_distractors'], 'distractor')}, {counted(result['num_probes'], 'probe')}."
    if result.get("eer") is None and result.get("identification") and result["format"] == PROTOCOL_FORMAT:
        about = result["dataset"]
        keys = [key for key in about if key.startswith("num_gallery") and "subjects" not in key]
        entries = sum(about[key] for key in keys)
        probes, distractors = counted(about["num_probes"], "probe"), counted(about["num_distractors"], "distractor")
        return f"{probes}, {counted(entries, 'gallery entry')}, {distractors}."
    if result.get("eer") is None:
        return "1:N alone was evaluated."
    if isinstance(result.get("accuracy"), dict):
        text += f"Accuracy {percent(result['accuracy']['mean'])} %; "
    text += f"EER {percent(result['eer'])} %"
    if result.get("eer_ci95"):
        text += f" (95 % interval {interval(result['eer_ci95'])})"
    text += f", AUC {result['auc']:.6f}; {counted(result['num_genuine'], 'genuine pair')}"
    impostor = counted(result["num_impostor"], "impostor pair")
    if result.get("num_genuine_people") is None:
        return text + f" and {impostor}."
    pairs_of_people = counted(result["num_impostor_people_pairs"], "pair of people")
    return text + f" of {counted(result['num_genuine_people'], 'person')}, and {impostor} of {pairs_of_people}."


def protocols_table(result: dict[str, Any]) -> Table | None:
    """Returns one row for each combination of the IJB switches; None if only one was run."""
    protocols = result.get("protocols")
    if not protocols:
        return None
    measured = [entry for entry in protocols if entry.get("tar_at_far")]
    if not measured:
        return None
    fars = [point["far"] for point in measured[0]["tar_at_far"]]
    rows = [
        [
            _name_of(entry["protocol"]),
            *(percent(point["tar"]) for point in entry["tar_at_far"]),
            percent(entry.get("eer")),
        ]
        for entry in measured
    ]
    return Table(
        "The same embeddings under every protocol", ["TAR % at FAR", *(f"{far:g}" for far in fars), "EER %"], rows
    )


def pairs_of(title: str, values: dict[str, Any]) -> Table:
    """Lists names and values; nested dictionaries get dotted names, and values that are None are left out."""
    rows: list[list[str]] = []

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                add(f"{prefix}.{key}" if prefix else key, entry)
        elif value is not None and value != []:
            rows.append([prefix.removeprefix("num_").replace("_", " ").replace(".num ", ", "), _shown(value)])

    add("", values)
    return Table(title, ["", "value"], rows)


def to_csv(result: dict[str, Any]) -> str:
    """Returns every number of a result, one line each, under `CSV_HEAD`; unknown values are empty.

    Texts are facekd's own words, so one that a spreadsheet would compute was put there: it gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_HEAD, lineterminator="\n")
    writer.writeheader()
    written = set()
    for run in [result, *(result.get("protocols") or [])]:
        protocol = run["protocol"]
        name = _name_of(protocol)
        if name not in written:  # the result itself is one of its protocols
            written.add(name)
            writer.writerows(_for_spreadsheets({"protocol": name, **row}) for row in _csv_rows(run))
    return text.getvalue()


def _for_spreadsheets(row: dict[str, Any]) -> dict[str, Any]:
    texts = {key: shown(value, LONGEST_CELL) for key, value in row.items() if isinstance(value, str)}
    return row | {key: f"'{text}" if text.lstrip()[:1] in FORMULA_STARTS else text for key, text in texts.items()}


def _csv_rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the lines of one protocol, by the names of `CSV_HEAD`; the csv module writes None as nothing."""
    rows: list[dict[str, Any]] = []

    # 1:1 verification.
    for point in run.get("tar_at_far") or []:
        rows.append(
            {
                "metric": "tar",
                "target": point["far"],
                "value": point["tar"],
                **_bounds(point.get("ci95")),
                "threshold": point["threshold"],
                "errors": point["false_accepts"],
                "achieved": point["achieved_far"],
                "note": point.get("reason"),
            }
        )
    for metric in ("eer", "auc"):
        if run.get(metric) is not None:
            bounds = _bounds(run.get(f"{metric}_ci95"))
            rows.append({"metric": metric, "value": run[metric], **bounds, "threshold": run.get(f"{metric}_threshold")})

    # What a quality of images is worth: areas under error-versus-discard curves, between ideal (0) and random (1).
    for curve in (run.get("quality") or {}).get("curves", []):
        for area in curve["areas"]:
            bounds = _bounds(area["relative_pairs_ci95"])
            value = {"target": curve["far"], "value": area["relative_pairs"], **bounds}
            rows.append({"metric": f"discard_area_to_{area['limit']:g}", **value})

    # Closed-set identification, and the accuracy of LFW-style packs.
    for entry in run.get("rank") or []:
        rows.append({"metric": "rank", "target": entry["rank"], "value": entry["rate"], **_bounds(entry["ci95"])})
    if isinstance(run.get("accuracy"), dict):
        rows.append({"metric": "accuracy", "value": run["accuracy"]["mean"]})

    # 1:N identification, gallery by gallery.
    for name, gallery in (run.get("identification") or {}).items():
        for point in gallery["tpir_at_fpir"]:
            rows.append(
                {
                    "metric": "tpir",
                    "gallery": name,
                    "target": point["fpir"],
                    "value": point["tpir"],
                    **_bounds(point.get("ci95")),
                    "threshold": point.get("threshold"),
                    "errors": point.get("false_positives"),
                    "achieved": point.get("achieved_fpir"),
                    "note": point.get("reason"),
                }
            )
        for point in gallery["rank"]:
            found = {"metric": "rank", "gallery": name, "target": point["rank"], "value": point["rate"]}
            rows.append({**found, **_bounds(point.get("ci95"))})
        if precision := gallery.get("mean_average_precision"):
            found = {"metric": "map", "gallery": name, "value": precision["value"]}
            rows.append({**found, **_bounds(precision["ci95"])})
    return rows


def _name_of(protocol: Any) -> str:
    return protocol.get("name") or protocol["text"] if isinstance(protocol, dict) else str(protocol)


def _bounds(ci95: Sequence[float] | None) -> dict[str, float]:
    return {} if ci95 is None else {"ci95_low": ci95[0], "ci95_high": ci95[1]}


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
