"""Turns the results of a study into tables, for its page, and into CSV and LaTeX, for spreadsheets and papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from facekd.experiments.classifier_table import centres_table
from facekd.experiments.studies.evaluation import measured_in
from facekd.pages.numbers import MINUS, interval_of_points, p_value, percent, points
from facekd.pages.tables import LONGEST_CELL, Table
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
CSV_HEAD = (
    *("pack", "method", "metric", "target", "seed", "value", "std", "n"),
    *("difference", "ci95_low", "ci95_high", "p_value", "p_holm"),
)
TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # behind the end of a row, a bracket would say how far down the next one begins
    "<": "$<$",
    ">": "$>$",
    MINUS: "$-$",
    PLUS_MINUS: r"$\pm$",
}


def describe_pack(pack: Mapping[str, Any]) -> str:
    """Says in a sentence what methods are evaluated on."""
    if "num_images" in pack:
        images = f"{counted(pack['num_images'], 'image')} of {counted(pack['num_classes'], 'class')}"
        return f"{pack['name']}: {images}, `{pack['split']}` of {pack['data']}; each model with its own classifier."
    people = f" of {counted(pack['num_subjects'], 'person')}" if pack.get("num_subjects") else ""
    pairs = (
        f"{counted(pack['num_genuine'], 'genuine pair')} and {counted(pack['num_impostor'], 'impostor pair')}{people}"
    )
    return f"{pack['name']}: {pairs}; {'; or '.join(pack['protocols'])}."


def pack_table(results: Mapping[str, Any], pack: str) -> Table:
    """Compares the methods on one pack; without rows if none is evaluated on it yet."""
    found = {method["name"]: method["packs"][pack] for method in results["methods"] if pack in method.get("packs", {})}
    if not found:
        return Table("", [], [])

    # Measures that every method evaluated here has, each followed by its difference to the baseline.
    others = {method["name"] for method in results["methods"] if method["verb"] == "results"}
    measured = {name: [values for _, values in measured_in(one)] for name, one in found.items()}
    measures = [measure for measure, _ in measured_in(next(iter(found.values())))]
    common = [
        place
        for place in range(len(measures))
        if all(values[place] for name, values in measured.items() if name not in others)
    ]
    head = ["method", "n"]
    for place in common:
        head += [measures[place].column, f"to {results['reference']}"]
    rows = []
    for method in results["methods"]:
        own = measured.get(method["name"])
        if own is None:
            continue
        remark = " (preprocessing assumed)" if method["assumed"] else ""
        remark += " (not trained here)" if method["name"] in others else ""
        row = [f"{method['name']}{remark}", str(next(one["n"] for one in own if one))]
        for place in common:
            one = own[place]
            row += ["-", ""] if one is None else [_value(one), _difference(one["difference"])]
        rows.append([*row, _images(method), _speed(method["cost"])])
    return Table("", [*head, "images seen", "training speed"], rows)


def _images(method: Mapping[str, Any]) -> str:
    """Says how many images a method saw, and in brackets how many with the stages before it."""
    seen = method.get("images")
    if not seen:
        return ""
    others = [name for name in seen["by_stage"] if name != method["name"]]
    if not others or seen["all_stages"] is None:
        return f"{seen['own']:,}"
    return f"{seen['own']:,} ({seen['all_stages']:,} with {', '.join(others)})"


def classifiers_table(results: Mapping[str, Any]) -> Table:
    """Compares the methods' classifiers with their class means, as means over seeds."""
    rows = {}
    for method in results["methods"]:
        if method.get("centres"):
            rows[method["name"]] = {key: found["mean"] for key, found in method["centres"].items()}
    return centres_table(rows, "method")


def _value(measure: Mapping[str, Any]) -> str:
    std = measure["std"]
    return percent(measure["mean"]) + (f" {PLUS_MINUS} {percent(std)}" if std is not None else "")


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    text = points(difference["mean"])
    if difference["ci95"] is not None:
        text += f" ({interval_of_points(difference['ci95'])})"
    if difference.get("p_value") is not None:
        text += f", p {p_value(difference['p_holm'])}"
    return text


def _speed(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return ""
    text = f"{cost['mean_images_per_second']:,.0f} images/s"
    return text + (f", {cost['relative_speed']:.2f}" if cost["relative_speed"] is not None else "")


def to_csv(results: Mapping[str, Any]) -> str:
    """Returns every number of a study to the last digit, one line for each mean and each seed, under `CSV_HEAD`.

    A line without a seed is the mean over the seeds, with its difference to the baseline.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_HEAD, lineterminator="\n")
    writer.writeheader()
    for method in results["methods"]:
        for pack, found in method.get("packs", {}).items():
            for measure, measured in measured_in(found):
                of_measure = {"metric": measure.metric, "target": "" if measure.far is None else measure.far}
                place = {"pack": pack, "method": method["name"], **of_measure}
                writer.writerows({**place, **row} for row in _csv_rows(measured))
    return text.getvalue()


def _csv_rows(measure: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    if measure is None:
        return
    difference = measure["difference"] or {}
    low, high = difference.get("ci95") or (None, None)
    yield {
        "value": measure["mean"],
        "std": measure["std"],
        "n": measure["n"],
        "difference": difference.get("mean"),
        "ci95_low": low,
        "ci95_high": high,
        "p_value": difference.get("p_value"),
        "p_holm": difference.get("p_holm"),
    }
    yield from ({"seed": seed, "value": value} for seed, value in measure["values"].items())


def to_latex(results: Mapping[str, Any]) -> str:
    """Returns a table for each pack, in the commands of booktabs and graphicx; images and speed are left out."""
    parts = ["% \\usepackage{booktabs,graphicx}"]
    for pack in results["packs"]:
        table = pack_table(results, pack["name"])
        if not table.rows:
            continue
        kept = [place for place, name in enumerate(table.head) if name not in ("images seen", "training speed")]
        columns = "".join("r" if table.is_number[place] else "l" for place in kept)
        rows = [" & ".join(_tex(row[place]) for place in kept) + r" \\" for row in (table.head, *table.rows)]
        parts += [
            f"% {shown(describe_pack(pack), LONGEST_CELL)}",
            r"\resizebox{\linewidth}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text)
