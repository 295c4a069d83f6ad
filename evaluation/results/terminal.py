"""Prints results on the terminal. Takes the plain values of `results.json` (docs/results.md) and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.groups.page import print_groups
from evaluation.provenance import describe_assumptions
from evaluation.results.pack_names import PACK_NAMES, pretty_name
from evaluation.results.quality import quality_table
from evaluation.results.tables import MAX_FOLDS
from evaluation.results.transferred import transferred_table
from facekd.pages.numbers import interval, percent, threshold
from facekd.pages.tables import Table
from facekd.utils.foreign import shown
from facekd.utils.terminal import console as make_console
from facekd.utils.terminal import say
from facekd.utils.wording import counted

if TYPE_CHECKING:
    from rich.console import Console


def print_ijb_results(result: dict[str, Any], console: Console | None = None) -> None:
    """Prints the results of `facekd evaluate ijbc`: the set, the protocol, TAR@FAR, TPIR@FPIR, and notes on them."""
    console = console or make_console()
    dataset = result["dataset"]
    name = dataset["published"] or f"a set in the layout of {dataset['target']}"
    say(console, f": {result['protocol']['text']}", bold=f"\n{shown(name)}")
    say(
        console,
        f"{counted(dataset['num_faces'], 'face')}, {counted(dataset['num_templates'], 'template')}, "
        f"{counted(dataset['num_subjects'], 'subject')} (from {dataset['subjects_from']})",
    )
    if assumptions := describe_assumptions(result.get("model")):
        say(console, assumptions)
    if result["tar_at_far"] is not None:
        _print_verification(result, console)
        print_quality(result, console)
    if result["identification"] is not None:
        _print_identification(result["identification"], console)
    if result["protocols"]:
        _print_protocols(result["protocols"], console)
    if (transferred := transferred_table(result)) is not None:
        say(console, transferred.to_text())
    if result.get("groups"):
        print_groups(result, console)
    for note in result["notes"]:
        say(console, f"note: {note}")


def print_lfw_results(result: dict[str, Any], title: str, protocol: str, console: Console | None = None) -> None:
    """Prints accuracy, EER, AUC and TAR@FAR on one pack, with the folds, thresholds and comparisons behind them."""
    console = console or make_console()
    accuracy = result["accuracy"]
    low, high = min(accuracy["thresholds"]), max(accuracy["thresholds"])
    of_one, of_two = "", ""
    if (pair_set := result.get("pair_set", {})).get("num_genuine_people") is not None:
        of_one = f" of {counted(pair_set['num_genuine_people'], 'person')}"
        of_two = f" of {counted(pair_set['num_impostor_people_pairs'], 'pair of people')}"
    assumptions = describe_assumptions(result.get("model"))
    lines = [
        f"pairs     {result['num_genuine']:,} genuine{of_one}, {result['num_impostor']:,} impostor{of_two}",
        *([f"model     {assumptions}"] if assumptions else []),
        f"accuracy  {percent(accuracy['mean'])} % +- {percent(accuracy['std'])} over "
        f"{counted(len(accuracy['folds']), 'fold')}, thresholds {low:.4f} to {high:.4f}",
        f"folds     {_folds_text(accuracy['folds'])}",
        f"EER       {100 * result['eer']:.2f} %{_in_parentheses(result['eer_ci95'])} at threshold "
        f"{result['eer_threshold']:.4f}",
        f"AUC       {result['auc']:.6f}",
    ]
    say(console, f": {protocol}", bold=f"\n{shown(title)}")
    for line in lines:
        say(console, line)
    _print_operating_points(result["tar_at_far"], console)
    say(console, _how_intervals_were_made(result))
    print_quality(result, console)
    for note in result.get("notes", []):
        say(console, f"warning: {note}")


def print_quality(result: dict[str, Any], console: Console | None = None) -> None:
    """Prints what the quality of images is worth; nothing without one."""
    table = quality_table(result)
    if table is not None:
        console = console or make_console()
        say(console, result["quality"]["text"])
        table.print(console)


def accuracy_table(results: Sequence[dict[str, Any]], model: str) -> Table:
    """Returns the row of a paper's table: the accuracy on each pack, the usual packs first, and the mean."""
    order = list(PACK_NAMES)
    names = [result["pair_set"]["name"] for result in results]
    ranks = {name: order.index(name) if name in PACK_NAMES else len(order) + names.index(name) for name in names}
    ordered = sorted(results, key=lambda result: ranks[result["pair_set"]["name"]])
    means = [result["accuracy"]["mean"] for result in ordered]
    head = ["accuracy %", *(pretty_name(result["pair_set"]["name"]) for result in ordered), "mean"]
    cells = [*(percent(mean) for mean in means), percent(float(np.mean(means)))]
    return Table("Verification accuracy", head, [[model, *cells]])


def _print_verification(result: dict[str, Any], console: Console) -> None:
    """Prints the 1:1 part of an IJB-style evaluation."""
    say(
        console,
        f"1:1  {result['num_genuine']:,} genuine, {counted(result['num_impostor'], 'impostor pair')}; "
        f"EER {percent(result['eer'])} %{_in_parentheses(result['eer_ci95'])}; AUC {result['auc']:.6f}",
    )
    _print_operating_points(result["tar_at_far"], console)
    kinds = _interval_kinds(result)
    bootstrap = result["bootstrap"]
    if bootstrap and bootstrap["num_subjects"]:
        kinds.append(f"{counted(bootstrap['num_subjects'], 'subject')}, {counted(bootstrap['replicates'], 'draw')}")
    if kinds:
        note = f" ({bootstrap['note']})" if bootstrap and bootstrap["note"] else ""
        say(console, f"intervals: {', '.join(kinds)}{note}")
    if result["calibration"]:
        found = result["calibration"]
        say(
            console,
            f"log-likelihood ratio = {found['slope']:.3f} x score {found['intercept']:+.3f}; Cllr {found['cllr']:.4f}, "
            f"at best {found['min_cllr']:.4f} bits",
        )


def _print_operating_points(points: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints TAR@FAR as a table, and below it why some FARs could not be measured."""
    rows = [
        [
            f"{point['far']:g}",
            percent(point["tar"]),
            interval(point["ci95"]),
            threshold(point["threshold"]),
            f"{point['false_accepts']:,}",
            f"{point['achieved_far']:.3g}",
        ]
        for point in points
        if point["tar"] is not None
    ]
    if rows:
        Table("", ["FAR", "TAR %", "95 % interval", "threshold", "false accepts", "achieved FAR"], rows).print(console)
    for point in points:
        if point["reason"]:
            say(console, point["reason"])


def _print_identification(identification: dict[str, Any], console: Console) -> None:
    """Prints TPIR@FPIR and rank rates of each gallery and of their mean."""
    mean = identification["mean"]
    headings = [f"TPIR % at FPIR {point['fpir']:g}" for point in mean["tpir_at_fpir"]]
    headings += [f"rank {entry['rank']} %" for entry in mean["rank"]]
    rows = []
    for name, measured in identification.items():
        values = [point["tpir"] for point in measured["tpir_at_fpir"]] + [entry["rate"] for entry in measured["rank"]]
        rows.append([name, *map(percent, values)])
    Table("", ["1:N", *headings], rows).print(console)
    for name, measured in identification.items():
        for point in measured["tpir_at_fpir"]:
            if point["reason"] and name != "mean":
                say(console, f"{name}: {point['reason']}")


def _print_protocols(protocols: list[dict[str, Any]], console: Console) -> None:
    """Prints one row for each combination of the IJB switches."""
    points = protocols[0]["tar_at_far"] or []
    has_search = bool(protocols[0]["identification"])
    rows = []
    for entry in protocols:
        values = [point["tar"] for point in entry["tar_at_far"] or []]
        if has_search:  # at the last FPIR
            values.append(entry["identification"]["mean"]["tpir_at_fpir"][-1]["tpir"])
        rows.append([entry["protocol"]["name"], *map(percent, values)])
    head = ["TAR % at FAR", *(f"{point['far']:g}" for point in points), *(["TPIR %"] if has_search else [])]
    Table("", head, rows).print(console)


def _folds_text(folds: Sequence[float]) -> str:
    if len(folds) > MAX_FOLDS:
        return f"{100 * min(folds):.2f} to {100 * max(folds):.2f}; each is in results.json"
    return ", ".join(f"{100 * value:.2f}" for value in folds)


def _in_parentheses(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f" ({interval(ci95)})"


def _interval_kinds(result: dict[str, Any]) -> list[str]:
    return sorted({point["interval"] for point in result["tar_at_far"] if point["interval"]})


def _how_intervals_were_made(result: dict[str, Any]) -> str:
    kinds = _interval_kinds(result)
    bootstrap = result["bootstrap"]
    if not kinds:
        return "intervals: none, since no FAR could be measured"
    text = f"intervals: {', '.join(kinds)}"
    if bootstrap and bootstrap["resampled"] and kinds == ["wilson"]:
        text += f" (TAR), {bootstrap['resampled'].removesuffix('s')} bootstrap (EER)"
    if bootstrap and bootstrap["resampled"] == "subjects":
        text += f", {counted(bootstrap['num_subjects'], 'subject')}, {counted(bootstrap['replicates'], 'draw')}"
    elif bootstrap:
        text += (
            f", {counted(bootstrap['replicates'], 'draw')}; subjects are not known, so honest intervals would be wider"
        )
    if bootstrap and bootstrap["note"]:
        text += f" ({bootstrap['note']})"
    return text
