"""Verification results for eyes: a table on the terminal, ROC and score pictures, the hardest pairs.

Takes the plain values of `evaluation.pair_metrics.measure_pairs`; computes nothing that is reported. matplotlib is
driven without pyplot, so that no display, global state or window system takes part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.results.tables import Table as ResultTable
from evaluation.sets.pair_set import PairSet
from facekd.utils.files import atomic_path
from facekd.verification import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GENUINE_COLOR, IMPOSTOR_COLOR = "#1b7837", "#b2182b"
MOST_FOLDS_SHOWN = 20
# The usual packs by file name, in the order and under the names of papers.
USUAL_PACKS = {"lfw": "LFW", "cfp_fp": "CFP-FP", "agedb_30": "AgeDB-30", "calfw": "CALFW", "cplfw": "CPLFW"}


@dataclass(frozen=True)
class ScoredPairs:
    """What a picture needs of one pair set: its name, scores (N,), labels (N,) and measured result."""

    name: str
    scores: np.ndarray
    is_same: np.ndarray
    result: dict[str, Any]


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


def draw_roc(path: str | os.PathLike[str], sets: Sequence[ScoredPairs], title: str) -> None:
    """Write a PNG: the ROC on a logarithmic FAR axis and, for one pair set, its score distributions beside it."""
    from matplotlib.figure import Figure

    alone = len(sets) == 1
    figure = Figure(figsize=(11, 4.6) if alone else (7.5, 5.2))
    figure.suptitle(title, fontsize=11)
    # Fixed margins: letting matplotlib find them draws everything twice.
    if alone:
        left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.985, "bottom": 0.12, "top": 0.87})
        _draw_score_histograms(right, sets[0])
    else:
        left = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.97, "bottom": 0.11, "top": 0.88})
    _draw_roc_axes(left, sets)
    _save(figure, path)


def _draw_roc_axes(axes: Axes, sets: Sequence[ScoredPairs]) -> None:
    # Left of one false accept nothing was measured: the axis ends where the largest set does.
    smallest = min(1 / int((~one.is_same).sum()) for one in sets)
    left_edge = smallest / 2
    lowest = 1.0
    for number, one in enumerate(sets):
        curve = roc_curve(one.scores[one.is_same], one.scores[~one.is_same])
        own_edge = 0.5 / int((~one.is_same).sum())
        # The TAR reached at each FAR holds until the next impostor is let in: a staircase, never a slope.
        last = np.append(curve.far[1:] > curve.far[:-1], True)
        far, tar = np.maximum(curve.far[last], own_edge), curve.tar[last]
        line = axes.step(far, tar, where="post", lw=1.6, color=f"C{number}", label=f"{one.name}, {_summary(one)}")[0]
        lowest = min(lowest, tar[0])
        for point in one.result["tar_at_far"]:
            if point["tar"] is None:
                continue
            low, high = point["ci95"]
            lowest = min(lowest, low)
            axes.errorbar(
                point["far"],
                point["tar"],
                yerr=[[point["tar"] - low], [high - point["tar"]]],
                fmt="o",
                ms=4,
                lw=1,
                capsize=3,
                color=line.get_color(),
            )
    rates = np.geomspace(left_edge, 1, 200)
    axes.plot(rates, 1 - rates, ls=":", lw=0.9, color="0.4", label="FAR = FRR (crossing is the EER)")
    axes.axvspan(left_edge, smallest, color="0.93", lw=0, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(left_edge, 1)
    margin = 0.06 * (1 - lowest) + 0.002
    axes.set_ylim(max(lowest - margin, 0), 1 + margin)
    axes.set_xlabel("false accept rate (grey: below one false accept)")
    axes.set_ylabel("true accept rate")
    axes.set_title("ROC; markers: TAR@FAR with 95 % intervals", fontsize=10)
    axes.grid(alpha=0.3, which="major")
    axes.legend(loc="lower right", fontsize=8)  # a ROC leaves that corner free


def _summary(one: ScoredPairs) -> str:
    return f"accuracy {100 * one.result['accuracy']['mean']:.2f} %, EER {100 * one.result['eer']:.2f} %"


def _draw_score_histograms(axes: Axes, one: ScoredPairs) -> None:
    bins = np.linspace(one.scores.min(), one.scores.max() + 1e-9, 61)
    for label, color, chosen in (("impostor", IMPOSTOR_COLOR, ~one.is_same), ("genuine", GENUINE_COLOR, one.is_same)):
        scores = one.scores[chosen]
        axes.hist(scores, bins, color=color, alpha=0.55, label=f"{label}, {len(scores):,}, mean {scores.mean():.3f}")
    threshold = one.result["eer_threshold"]
    axes.axvline(threshold, color="0.2", lw=1, ls="--", label=f"EER threshold {threshold:.3f}")
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("pairs")
    axes.set_title("scores", fontsize=10)
    axes.legend(fontsize=8)


def draw_hardest_pairs(
    path: str | os.PathLike[str], pair_set: PairSet, scores: np.ndarray, threshold: float, count: int = 8
) -> None:
    """Write a PNG of the genuine pairs with the lowest scores and the impostor pairs with the highest.

    Worth a look at each new model or pack: wrong labels, bad crops and twins show here first.

    Args:
        path: of the PNG.
        pair_set: whose images.
        scores: (N,) of its pairs.
        threshold: pairs on the wrong side of it are marked as errors.
        count: pairs of each kind.
    """
    from matplotlib.figure import Figure

    genuine, impostor = np.flatnonzero(pair_set.is_same), np.flatnonzero(~pair_set.is_same)
    rows = [
        ("genuine pairs, lowest scores", genuine[np.argsort(scores[genuine], kind="stable")][:count]),
        ("impostor pairs, highest scores", impostor[np.argsort(-scores[impostor], kind="stable")][:count]),
    ]
    images = {int(pair): pair_set.decode(2 * int(pair), 2 * int(pair) + 2) for _, pairs in rows for pair in pairs}
    size = max(max(image.shape[1:3]) for image in images.values())
    step, gap, heading = size * 1.06, size * 0.22, size * 0.26
    height = 2 * (heading + gap + 2 * step)
    # One pair of axes for all: a subplot an image costs seconds.
    figure = Figure(figsize=(1.25 * count, 1.25 * height / step + 0.45))
    axes = figure.add_axes((0.01, 0.01, 0.98, 1 - 0.45 / figure.get_figheight()))
    axes.set_axis_off()
    figure.suptitle(f"{pair_set.name}: the hardest pairs; red: wrong at threshold {threshold:.3f}", fontsize=11)
    for row, (label, pairs) in enumerate(rows):
        top = row * height / 2 + heading
        axes.text(0, top - 0.1 * size, label, fontsize=9)
        for column, pair in enumerate(pairs.tolist()):
            left = column * step
            wrong = (scores[pair] >= threshold) != pair_set.is_same[pair]
            text = f"{pair}: {scores[pair]:.3f}"
            axes.text(left, top + 0.8 * gap, text, fontsize=8, color=IMPOSTOR_COLOR if wrong else "black")
            for part, image in enumerate(images[pair]):
                upper = top + gap + part * step
                axes.imshow(image, extent=(left, left + size, upper + size, upper), interpolation="nearest")
    axes.set_xlim(0, count * step)  # imshow moves the limits
    axes.set_ylim(height, 0)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
