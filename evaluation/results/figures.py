"""Curves and image strips of IJB-style results: one model, or several over each other. matplotlib without pyplot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
import os
from typing import TYPE_CHECKING

from facekd.utils.files import atomic_path
from facekd.verification import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (11, 4.6)
MARGINS = {"left": 0.065, "right": 0.985, "bottom": 0.12, "top": 0.92, "wspace": 0.18}
MOST_OF_A_TEMPLATE = 6  # images shown of one template


@dataclass(frozen=True)
class Curve:
    """What a picture needs of one model: `curves` as in `curves.npz`, `points` the `tar_at_far` of its result."""

    name: str
    curves: Mapping[str, np.ndarray]
    points: Sequence[dict[str, Any]]


def draw_verification(models: Sequence[Curve]) -> Figure:
    """ROC and DET side by side, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    left, right = figure.subplots(1, 2, gridspec_kw=MARGINS)
    edge = min(_smallest_far(model) for model in models) / 2
    lowest, highest_error = 1.0, 1e-4
    least_error = 1.0
    for number, model in enumerate(models):
        far, tar = _staircase(model.curves["roc_far"], model.curves["roc_tar"], edge)
        color = f"C{number}"
        left.step(far, tar, where="post", lw=1.6, color=color, label=model.name)
        missed = 1 - tar
        right.step(far[missed > 0], missed[missed > 0], where="post", lw=1.6, color=color, label=model.name)
        lowest = min(lowest, float(tar[0]))
        if (missed > 0).any():
            highest_error = max(highest_error, float(missed.max()))
            least_error = min(least_error, float(missed[missed > 0].min()))
        for point in model.points:
            if point["tar"] is not None:
                low, high = point["ci95"]
                lowest = min(lowest, low)
                bars = [[point["tar"] - low], [high - point["tar"]]]
                left.errorbar(point["far"], point["tar"], bars, fmt="o", ms=4, lw=1, capsize=3, color=color)
    for axes, title in ((left, "ROC; markers: TAR@FAR with 95 % intervals"), (right, "DET")):
        axes.set_xscale("log")
        axes.set_xlim(edge, 1)
        axes.set_xlabel("false accept rate (FMR)")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, which="major")
    left.axvspan(edge, 2 * edge, color="0.93", lw=0, zorder=0)
    margin = 0.06 * (1 - lowest) + 0.002
    left.set_ylim(max(lowest - margin, 0), 1 + margin)
    left.set_ylabel("true accept rate")
    left.legend(loc="lower right", fontsize=8)
    if least_error == 1.0:  # nowhere a false reject: a logarithmic axis has no place for that
        right.text(0.5, 0.5, "no false rejects at any FAR", ha="center", va="center", transform=right.transAxes)
    right.set_yscale("log")
    right.set_ylim(min(least_error, highest_error / 10) / 1.5, min(highest_error * 1.5, 1.0))
    right.set_ylabel("false reject rate (FNMR)")
    rates = np.geomspace(edge, 1, 50)
    right.plot(rates, rates, ls=":", lw=0.9, color="0.4", label="FAR = FRR")
    right.legend(loc="upper right", fontsize=8)
    return figure


def draw_histograms(
    curves: Mapping[str, np.ndarray], thresholds: Sequence[tuple[str, float]], counts: tuple[int, int]
) -> Figure:
    """Score densities of both kinds, linear and logarithmic, with the thresholds in them.

    Args:
        curves: `histogram_edges`, `histogram_genuine`, `histogram_impostor`.
        thresholds: label and place of each line.
        counts: genuine and impostor comparisons, for the legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    edges = np.asarray(curves["histogram_edges"], float)
    widths = np.diff(edges)
    kinds = (
        ("impostor", IMPOSTOR_COLOR, curves["histogram_impostor"], counts[1]),
        ("genuine", GENUINE_COLOR, curves["histogram_genuine"], counts[0]),
    )
    for axes, scale in zip(figure.subplots(1, 2, gridspec_kw=MARGINS), ("linear", "log"), strict=True):
        for label, color, values, total in kinds:
            density = np.asarray(values, float) / max(np.sum(values), 1) / widths
            axes.stairs(density, edges, fill=True, color=color, alpha=0.5, label=f"{label}, {total:,}")
        if scale == "log":
            axes.set_yscale("log")
            for number, (label, place) in enumerate(thresholds):
                axes.axvline(place, lw=1, ls="--", color=str(0.15 + 0.11 * (number % 6)), label=label)
        axes.set_xlim(*_occupied(edges, [values for *_, values, _ in kinds]))
        axes.set_xlabel("cosine")
        axes.set_ylabel("density")
        axes.set_title("scores" if scale == "linear" else "the same, logarithmic, with thresholds", fontsize=10)
        axes.legend(fontsize=8)
    return figure


def draw_identification(models: Sequence[Curve]) -> Figure | None:
    """CMC and DIR (TPIR over FPIR), a line a gallery; None where no model has them."""
    from matplotlib.figure import Figure

    lines = [
        (model, name.removeprefix("cmc_"), number)
        for number, model in enumerate(models)
        for name in model.curves
        if name.startswith("cmc_")
    ]
    if not lines:
        return None
    figure = Figure(figsize=SIZE)
    left, right = figure.subplots(1, 2, gridspec_kw=MARGINS)
    styles: dict[str, str] = {}
    edge, ranks = 1.0, 2
    for model, gallery, number in lines:
        style = styles.setdefault(gallery, ("-", "--", ":", "-.")[len(styles) % 4])
        label = gallery if len(models) == 1 else f"{model.name}, {gallery}"
        cmc = np.asarray(model.curves[f"cmc_{gallery}"])
        ranks = max(ranks, len(cmc))
        left.plot(np.arange(1, len(cmc) + 1), cmc, ls=style, lw=1.6, color=f"C{number}", label=label)
        fpir, tpir = (np.asarray(model.curves[f"dir_{gallery}_{axis}"]) for axis in ("fpir", "tpir"))
        positive = fpir[fpir > 0]
        own_edge = positive.min() / 2 if positive.size else 0.5
        edge = min(edge, own_edge)
        fpir, tpir = _staircase(fpir, tpir, own_edge)
        right.step(fpir, tpir, where="post", ls=style, lw=1.6, color=f"C{number}", label=label)
    left.set_xscale("log")
    left.set_xlim(1, ranks)
    left.set_xlabel("rank")
    left.set_ylabel("share of mated probes found")
    left.set_title("CMC, closed set", fontsize=10)
    right.set_xscale("log")
    right.set_xlim(edge, 1)
    right.set_xlabel("false positive identification rate (FPIR)")
    right.set_ylabel("TPIR: mate first and above the threshold")
    right.set_title("DIR, open set", fontsize=10)
    for axes in (left, right):
        low = axes.get_ylim()[0]
        axes.set_ylim(max(low, 0), 1 + 0.04 * (1 - max(low, 0)))
        axes.grid(alpha=0.3, which="major")
        axes.legend(fontsize=8, loc="lower right")
    return figure


def join_templates(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bytes:
    """PNG of two templates side by side: uint8 RGB images (S, S, 3) of each, up to `MOST_OF_A_TEMPLATE`."""
    size = len(first[0])
    step, gap = size + size // 20, size // 2
    width = MOST_OF_A_TEMPLATE * step
    canvas = np.full((size, 2 * width + gap, 3), 255, np.uint8)
    canvas[:, width + gap // 2 - 1] = 200
    for start, images in ((0, first), (width + gap, second)):
        for column, image in enumerate(images[:MOST_OF_A_TEMPLATE]):
            canvas[:, start + column * step : start + column * step + size] = image
    return cv2.imencode(".png", canvas[..., ::-1])[1].tobytes()


def _smallest_far(model: Curve) -> float:
    """One false accept; left of it nothing was measured."""
    far = np.asarray(model.curves["roc_far"])
    positive = far[far > 0]
    return float(positive.min()) if positive.size else 0.5


def _staircase(far: np.ndarray, tar: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """The highest TAR at each FAR, which holds until the next impostor is let in; FAR 0 is drawn at the edge."""
    far, tar = np.asarray(far, float), np.asarray(tar, float)
    last = np.append(far[1:] > far[:-1], True)
    return np.maximum(far[last], edge), tar[last]


def _occupied(edges: np.ndarray, counts: Sequence[np.ndarray]) -> tuple[float, float]:
    used = np.flatnonzero(np.sum([np.asarray(values) for values in counts], axis=0))
    return (float(edges[used[0]]), float(edges[used[-1] + 1])) if used.size else (float(edges[0]), float(edges[-1]))


GENUINE_COLOR, IMPOSTOR_COLOR = "#1b7837", "#b2182b"


@dataclass(frozen=True)
class ScoredPairs:
    """What a picture needs of one pair set: its name, scores (N,), labels (N,) and measured result."""

    name: str
    scores: np.ndarray
    is_same: np.ndarray
    result: dict[str, Any]


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
    save_figure(figure, path)


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


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
