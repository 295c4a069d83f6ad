"""IJB results on the terminal: tables for eyes, computed elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


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
