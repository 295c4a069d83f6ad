"""IJB results on the terminal: tables for eyes, computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.results.tables import Table as ResultTable

if TYPE_CHECKING:
    pass


def print_ijb_results(result: dict[str, Any], console: Console | None = None) -> None:
    """Print what `facekd evaluate ijbc` found: the set, the protocol, TAR@FAR, TPIR@FPIR, and what to know of them."""
    console = console or Console(soft_wrap=True)
    dataset = result["dataset"]
    name = dataset["published"] or f"a set in the layout of {dataset['target']}"
    console.print(f"\n[bold]{name}[/bold]: {result['protocol']['text']}", highlight=False)
    console.print(
        f"{dataset['num_faces']:,} faces, {dataset['num_templates']:,} templates, {dataset['num_subjects']:,} subjects "
        f"(from {dataset['subjects_from']})",
        highlight=False,
    )
    if result["tar_at_far"] is not None:
        _print_verification(result, console)
    if result["identification"] is not None:
        _print_identification(result["identification"], console)
    if result["protocols"]:
        _print_protocols(result["protocols"], console)
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False)


def _print_verification(result: dict[str, Any], console: Console) -> None:
    console.print(
        f"1:1  {result['num_genuine']:,} genuine, {result['num_impostor']:,} impostor pairs; "
        f"EER {100 * result['eer']:.3f} %{_interval(result['eer_ci95'])}; AUC {result['auc']:.6f}",
        highlight=False,
    )
    table = _table("FAR", "TAR %", "95 % interval", "threshold", "false accepts", "achieved FAR")
    for point in result["tar_at_far"]:
        if point["tar"] is not None:
            table.add_row(
                f"{point['far']:g}",
                f"{100 * point['tar']:.2f}",
                _interval(point["ci95"], bare=True),
                f"{point['threshold']:.4f}",
                f"{point['false_accepts']:,}",
                f"{point['achieved_far']:.3g}",
            )
    if table.row_count:
        console.print(table)
    for point in result["tar_at_far"]:
        if point["reason"]:
            console.print(point["reason"], highlight=False)
    kinds = sorted({point["interval"] for point in result["tar_at_far"] if point["interval"]})
    bootstrap = result["bootstrap"]
    if bootstrap and bootstrap["num_subjects"]:
        kinds.append(f"{bootstrap['num_subjects']:,} subjects, {bootstrap['replicates']:,} draws")
    if kinds:
        console.print(f"intervals: {', '.join(kinds)}", highlight=False)
    if result["calibration"]:
        found = result["calibration"]
        console.print(
            f"log-likelihood ratio = {found['slope']:.3f} x score {found['intercept']:+.3f}; Cllr {found['cllr']:.4f}, "
            f"at best {found['min_cllr']:.4f} bits",
            highlight=False,
        )


def _print_identification(identification: dict[str, Any], console: Console) -> None:
    mean = identification["mean"]
    headings = [f"TPIR % at FPIR {point['fpir']:g}" for point in mean["tpir_at_fpir"]]
    headings += [f"rank {entry['rank']} %" for entry in mean["rank"]]
    table = _table("1:N", *headings)
    for name, measured in identification.items():
        values = [point["tpir"] for point in measured["tpir_at_fpir"]] + [entry["rate"] for entry in measured["rank"]]
        table.add_row(name, *("-" if value is None else f"{100 * value:.2f}" for value in values))
    console.print(table)
    for name, measured in identification.items():
        for point in measured["tpir_at_fpir"]:
            if point["reason"] and name != "mean":
                console.print(f"{name}: {point['reason']}", highlight=False)


def _print_protocols(protocols: list[dict[str, Any]], console: Console) -> None:
    points = protocols[0]["tar_at_far"] or []
    has_search = bool(protocols[0]["identification"])
    table = _table("TAR % at FAR", *(f"{point['far']:g}" for point in points), *(["TPIR %"] if has_search else []))
    for entry in protocols:
        values = [point["tar"] for point in entry["tar_at_far"] or []]
        if has_search:  # at the last FPIR
            values.append(entry["identification"]["mean"]["tpir_at_fpir"][-1]["tpir"])
        table.add_row(entry["protocol"]["name"], *("-" if value is None else f"{100 * value:.2f}" for value in values))
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _interval(interval: list[float] | None, bare: bool = False) -> str:
    if interval is None:
        return ""
    text = f"{100 * interval[0]:.2f} .. {100 * interval[1]:.2f}"
    return text if bare else f" ({text})"


MOST_FOLDS_SHOWN = 20


# The usual packs by file name, in the order and under the names of papers.
USUAL_PACKS = {"lfw": "LFW", "cfp_fp": "CFP-FP", "agedb_30": "AgeDB-30", "calfw": "CALFW", "cplfw": "CPLFW"}


def print_results(result: dict[str, Any], title: str, protocol: str, console: Console | None = None) -> None:
    """Print accuracy, EER, AUC and the TAR@FAR table, each with what it rests on."""
    console = console or Console(soft_wrap=True)
    accuracy = result["accuracy"]
    console.print(f"\n[bold]{title}[/bold]: {protocol}", highlight=False)
    low, high = min(accuracy["thresholds"]), max(accuracy["thresholds"])
    lines = [
        f"pairs     {result['num_genuine']:,} genuine, {result['num_impostor']:,} impostor",
        f"accuracy  {100 * accuracy['mean']:.2f} % +- {100 * accuracy['std']:.2f} over {len(accuracy['folds'])} folds, "
        f"thresholds {low:.4f} to {high:.4f}",
        f"folds     {_folds_text(accuracy['folds'])}",
        f"EER       {100 * result['eer']:.2f} %{_interval_text(result['eer_ci95'])} at threshold "
        f"{result['eer_threshold']:.4f}",
        f"AUC       {result['auc']:.6f}",
    ]
    for line in lines:
        console.print(line, highlight=False)

    table = Table(box=None, pad_edge=False)
    for heading in ("FAR", "TAR %", "95 % interval", "threshold", "false accepts", "achieved FAR"):
        table.add_column(heading, justify="right", no_wrap=True)
    unmeasurable = []
    for point in result["tar_at_far"]:
        if point["tar"] is None:
            unmeasurable.append(point["reason"])
            continue
        low, high = point["ci95"]
        table.add_row(
            f"{point['far']:g}",
            f"{100 * point['tar']:.2f}",
            f"{100 * low:.2f} .. {100 * high:.2f}",
            f"{point['threshold']:.4f}",
            f"{point['false_accepts']:,}",
            f"{point['achieved_far']:.3g}",
        )
    if table.row_count:
        console.print(table)
    for reason in unmeasurable:
        console.print(reason, highlight=False)
    console.print(_how_intervals_were_made(result), highlight=False)


def accuracy_table(results: Sequence[dict[str, Any]], model: str) -> ResultTable:
    """The row of a paper's table: accuracy on each pack, the usual ones first and under their names, and the mean."""
    order = list(USUAL_PACKS)
    names = [result["pair_set"]["name"] for result in results]
    ranks = {name: order.index(name) if name in USUAL_PACKS else len(order) + names.index(name) for name in names}
    ordered = sorted(results, key=lambda result: ranks[result["pair_set"]["name"]])
    means = [result["accuracy"]["mean"] for result in ordered]
    titles = [result["pair_set"]["name"] for result in ordered]
    head = ["accuracy %", *(USUAL_PACKS.get(title, title) for title in titles), "mean"]
    cells = [*(f"{100 * mean:.2f}" for mean in means), f"{100 * float(np.mean(means)):.2f}"]
    return ResultTable("Verification accuracy", head, [[model, *cells]])


def print_accuracy_table(table: ResultTable, console: Console | None = None) -> None:
    """Print what `accuracy_table` made."""
    shown = Table(box=None, pad_edge=False)
    for number, heading in enumerate(table.head):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console = console or Console(soft_wrap=True)
    console.print()
    console.print(shown)


def _folds_text(folds: Sequence[float]) -> str:
    if len(folds) > MOST_FOLDS_SHOWN:
        return f"{100 * min(folds):.2f} to {100 * max(folds):.2f}; each is in results.json"
    return ", ".join(f"{100 * value:.2f}" for value in folds)


def _interval_text(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.2f} .. {100 * interval[1]:.2f})"


def _how_intervals_were_made(result: dict[str, Any]) -> str:
    kinds = sorted({point["interval"] for point in result["tar_at_far"] if point["interval"]})
    bootstrap = result["bootstrap"]
    if not kinds:
        return "intervals: none, for no FAR was measurable"
    text = f"intervals: {', '.join(kinds)}"
    if bootstrap and bootstrap["resampled"] == "subjects":
        text += f", {bootstrap['num_subjects']:,} subjects, {bootstrap['replicates']:,} draws"
    elif bootstrap:
        text += f", {bootstrap['replicates']:,} draws; subjects are not known, so expect the honest ones to be wider"
    if bootstrap and bootstrap["note"]:
        text += f" ({bootstrap['note']})"
    return text
