"""Draws the figures of verification and identification results: one model, or several models or packs together.

The style, and what the figures of other reports share, is in `facekd/pages/figures.py`. To add a plot to a report,
write a function here that returns a figure, and show it in `evaluation/results/page.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.pages.figures import (
    LINE_WIDTH,
    MARKED_VALUE,
    MOST_LINES,
    PAIR,
    PALETTE,
    REFERENCE_LINE,
    SINGLE,
    RocLine,
    RocPoint,
    color_of,
    draw_roc,
    in_legend,
    label_axes,
    new_figure,
    num_bins,
    save_figure,
    show_plain_powers,
    staircase,
    style_of,
)
from facekd.verification import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GENUINE_COLOR, IMPOSTOR_COLOR = PALETTE[:2]
ROC_TITLE = "ROC; markers: TAR@FAR with 95 % intervals"
GALLERY_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """Holds the curves of one model: arrays of its `curves.npz`, and the `tar_at_far` of its `results.json`."""

    name: str
    curves: Mapping[str, np.ndarray]
    points: Sequence[dict[str, Any]]

    def roc_line(self) -> RocLine:
        """Returns the ROC with its operating points, ready to draw."""
        return RocLine(self.name, self.curves["roc_far"], self.curves["roc_tar"], _measured(self.points))


@dataclass(frozen=True)
class ScoredPairs:
    """Holds the scores of one pair set: its name, scores (N,), labels (N,) and measured result."""

    name: str
    scores: np.ndarray
    is_same: np.ndarray
    result: dict[str, Any]

    def roc_line(self) -> RocLine:
        """Returns the ROC with its operating points, ready to draw; the label says accuracy and EER."""
        curve = roc_curve(self.scores[self.is_same], self.scores[~self.is_same])
        accuracy, eer = 100 * self.result["accuracy"]["mean"], 100 * self.result["eer"]
        label = f"{self.name}, accuracy {accuracy:.2f} %, EER {eer:.2f} %"
        return RocLine(label, curve.far, curve.tar, _measured(self.result["tar_at_far"]))


def draw_verification(models: Sequence[Curve], title: str = "") -> Figure:
    """Draws ROC and DET side by side, on logarithmic axes."""
    figure, [left, right] = new_figure(PAIR, columns=2, title=title)
    lines = [model.roc_line() for model in models]
    draw_roc(left, lines, ROC_TITLE)
    _draw_det(right, lines)
    return figure


def draw_pair_sets(path: str | os.PathLike[str], sets: Sequence[ScoredPairs], title: str) -> None:
    """Writes a PNG with the ROC of each pair set and, if there is only one, its score histograms beside it."""
    is_single = len(sets) == 1
    figure, axes = new_figure(PAIR if is_single else SINGLE, columns=2 if is_single else 1, title=title)
    draw_roc(axes[0], [one.roc_line() for one in sets], ROC_TITLE)
    if is_single:
        [one] = sets
        fewest = int(min(one.is_same.sum(), (~one.is_same).sum()))
        edges = np.linspace(one.scores.min(), one.scores.max() + 1e-9, 2 * num_bins(fewest) + 1)
        kinds = []
        for label, color, is_kind in _kinds(one.is_same):
            scores = one.scores[is_kind]
            counts = np.histogram(scores, edges)[0]
            kinds.append((f"{label}, {len(scores):,}, mean {scores.mean():.3f}", color, counts))
        threshold = one.result["eer_threshold"]
        _draw_scores(axes[1], edges, kinds, [(f"EER threshold {threshold:.3f}", threshold)])
        label_axes(axes[1], "scores", "score", "pairs", "below")
    save_figure(figure, path)


def draw_histograms(
    curves: Mapping[str, np.ndarray],
    thresholds: Sequence[tuple[str, float]],
    counts: tuple[int, int],
    title: str = "",
) -> Figure:
    """Draws the score densities of both kinds, linear and logarithmic, the second with the thresholds.

    Args:
        curves: `histogram_edges`, `histogram_genuine`, `histogram_impostor`.
        thresholds: the label and the place of each line.
        counts: how many genuine and impostor comparisons there are, for the legend.
        title: a heading above both.
    """
    figure, [left, right] = new_figure(PAIR, columns=2, title=title)
    edges = np.asarray(curves["histogram_edges"], float)
    kinds = []
    for label, color, total in (("impostor", IMPOSTOR_COLOR, counts[1]), ("genuine", GENUINE_COLOR, counts[0])):
        values = np.asarray(curves[f"histogram_{label}"], float)
        kinds.append((f"{label}, {total:,}", color, values))
    edges, kinds = _in_fewer_bins(edges, kinds, min(counts))
    _draw_scores(left, edges, kinds, [])
    label_axes(left, "scores", "score", "density")
    _draw_scores(right, edges, kinds, thresholds[:MOST_LINES])
    right.set_yscale("log")
    show_plain_powers(right)
    label_axes(right, "the same, logarithmic, with thresholds", "score", "density", "below")
    return figure


def draw_identification(models: Sequence[Curve], title: str = "", within: int = 1) -> Figure | None:
    """Draws CMC and DIR (TPIR over FPIR), one line for each gallery; None if no model has them."""
    lines = [
        (model, name.removeprefix("cmc_"), color_of(number))
        for number, model in enumerate(models)
        for name in model.curves
        if name.startswith("cmc_")
    ]
    if not lines:
        return None
    lines = lines[:MOST_LINES]
    # A closed set has no DIR.
    is_open = any(f"dir_{gallery}_fpir" in model.curves for model, gallery, _ in lines)
    figure, panels = new_figure(PAIR if is_open else SINGLE, columns=2 if is_open else 1, title=title)
    left, right = panels[0], panels[-1]
    styles: dict[str, str] = {}
    right_edge, ranks = 1.0, 2
    for model, gallery, color in lines:
        style = styles.setdefault(gallery, GALLERY_STYLES[len(styles) % len(GALLERY_STYLES)])
        label = gallery if len(models) == 1 else f"{model.name}, {gallery}"
        drawn = {"ls": style, "lw": LINE_WIDTH, "color": color, "label": in_legend(label)}
        cmc = np.asarray(model.curves[f"cmc_{gallery}"])
        left.plot(np.arange(1, len(cmc) + 1), cmc, **drawn)
        ranks = max(ranks, len(cmc))
        if f"dir_{gallery}_fpir" not in model.curves:
            continue
        line = RocLine(label, model.curves[f"dir_{gallery}_fpir"], model.curves[f"dir_{gallery}_tpir"])
        right.step(*staircase(line.far, line.tar, line.left_edge), where="post", **drawn)
        right_edge = min(right_edge, line.left_edge)

    # Both end at 1 on top; below they reach as far as the lines do.
    for axes in panels:
        low = max(axes.get_ylim()[0], 0)
        axes.set_ylim(low, 1 + 0.04 * (1 - low))
    left.set(xscale="log", xlim=(1, ranks))
    label_axes(left, "CMC, closed set", "rank", "share of mated probes found", "below")
    if is_open:
        right.set(xscale="log", xlim=(right_edge, 1))
        found = "first" if within == 1 else f"in the first {within}"
        fpir, tpir = "false positive identification rate (FPIR)", f"TPIR: mate {found} and above the threshold"
        label_axes(right, "DIR, open set", fpir, tpir)
    return figure


def _measured(points: Sequence[dict[str, Any]]) -> list[RocPoint]:
    return [RocPoint(point["far"], point["tar"], point.get("ci95")) for point in points if point.get("tar") is not None]


def _kinds(is_same: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    return [("impostor", IMPOSTOR_COLOR, ~is_same), ("genuine", GENUINE_COLOR, is_same)]


def _in_fewer_bins(
    edges: np.ndarray, kinds: list[tuple[str, str, np.ndarray]], num_scores: int
) -> tuple[np.ndarray, list[tuple[str, str, np.ndarray]]]:
    """Joins bins until so few scores show a shape, and turns counts into densities.

    Args:
        edges: (B + 1,) the bins.
        kinds: label, colour and counts (B,) of each histogram.
        num_scores: of the smaller histogram.
    """
    used = np.flatnonzero(np.sum([counts for *_, counts in kinds], axis=0))
    spanned = int(used[-1] - used[0] + 1) if used.size else 1
    starts = np.arange(0, len(edges) - 1, max(1, spanned // (2 * num_bins(num_scores))))
    joined = np.append(edges[starts], edges[-1])
    found = []
    for label, color, counts in kinds:
        sums = np.add.reduceat(counts, starts)
        found.append((label, color, sums / max(float(np.sum(sums)), 1.0) / np.diff(joined)))
    return joined, found


def _draw_det(axes: Axes, lines: Sequence[RocLine]) -> None:
    """Draws the false reject rate over the false accept rate, both logarithmic."""
    edge = min(line.left_edge for line in lines)
    lowest, highest = 1.0, 1e-4
    for number, line in enumerate(lines):
        far, tar = staircase(line.far, line.tar, line.left_edge)
        missed = 1 - tar
        far, missed = far[missed > 0], missed[missed > 0]
        axes.step(
            far,
            missed,
            where="post",
            lw=LINE_WIDTH,
            color=color_of(number),
            ls=style_of(number),
            label=in_legend(line.label),
        )
        if len(missed):
            lowest, highest = min(lowest, float(missed.min())), max(highest, float(missed.max()))
    if lowest == 1.0:  # nowhere a false reject: a logarithmic axis has no place for that
        axes.text(0.5, 0.5, "no false rejects at any FAR", ha="center", va="center", transform=axes.transAxes)
    rates = np.geomspace(edge, 1, 50)
    axes.plot(rates, rates, **REFERENCE_LINE, label="FAR = FRR")
    axes.set(xscale="log", yscale="log", xlim=(edge, 1))
    axes.set_ylim(min(lowest, highest / 10) / 1.5, min(highest * 1.5, 1.0))
    label_axes(axes, "DET", "false accept rate (FMR)", "false reject rate (FNMR)")


def _draw_scores(
    axes: Axes,
    edges: np.ndarray,
    kinds: Sequence[tuple[str, str, np.ndarray]],
    thresholds: Sequence[tuple[str, float]],
) -> None:
    """Draws histograms over each other, and dashed lines at the thresholds.

    Args:
        axes: where to draw.
        edges: (B + 1,) the bins.
        kinds: label, colour and heights (B,) of each histogram.
        thresholds: the label and the place of each line.
    """
    for label, color, heights in kinds:
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.5, label=label)
    for number, (label, place) in enumerate(thresholds):
        axes.axvline(place, **MARKED_VALUE, color=str(0.15 + 0.11 * (number % 6)), label=label)
    used = np.flatnonzero(np.sum([heights for *_, heights in kinds], axis=0))
    if used.size:
        axes.set_xlim(float(edges[used[0]]), float(edges[used[-1] + 1]))
