"""Draws the figures of every report in one style: ROC curves, loss curves, histograms.

The colours are those of Okabe and Ito, which colour-blind people tell apart (https://jfly.uni-koeln.de/color/), without
their yellow, too pale for lines. Takes numbers and labels, and knows nothing of faces. matplotlib is loaded when the
first figure is drawn, and used without pyplot, so no display and no global state is needed.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from facekd.files.writing import atomic_path
from facekd.pages.html import Picture
from facekd.utils.foreign import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

LegendPlace = Literal["best", "below"]
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
LINE_STYLES = ("-", "--", ":", "-.")
# Of a figure, as many as can be told apart. What is drawn may be a stranger's, and tens of thousands take hours.
MOST_LINES = len(PALETTE) * len(LINE_STYLES)
DPI = 110
PADDING = 0.1  # inches around everything that is drawn
SINGLE, PAIR = (8.0, 4.6), (11.0, 4.6)  # inches: a figure with one pair of axes, and with two side by side
LEFT, RIGHT, BOTTOM, TOP, GAP = 0.72, 0.17, 0.55, 0.38, 1.0  # inches around and between the axes
LINE_WIDTH, MARKER_SIZE = 1.6, 4
TITLE_SIZE, LEGEND_SIZE = 10, 8
LONGEST_LABEL = 160  # characters
MAX_CELLS_WITH_TEXT = 12  # columns of a matrix whose cells have room for text
LONGEST_ALT = 600
FEWEST_BINS, MOST_BINS = 6, 40
REFERENCE_LINE: dict[str, Any] = {"ls": ":", "lw": 0.9, "color": "0.4"}
MARKED_VALUE: dict[str, Any] = {"ls": "--", "lw": 1}
_importing = threading.Lock()


def _import_matplotlib() -> None:
    """Imports matplotlib without a file `matplotlibrc` of the current folder, which may be a stranger's.

    matplotlib takes its settings from there before all other places, and versions before 3.11 run code that stands in
    them. Where a program has imported it already, its settings are that program's.
    """
    # One thread at a time: another would take the function of the first for Python's own, and leave it in place.
    with _importing:
        if "matplotlib" in sys.modules:
            return
        exists = os.path.exists
        os.path.exists = lambda path: path != "matplotlibrc" and exists(path)  # by this name, and by this function
        try:
            import matplotlib  # noqa: F401
        finally:
            os.path.exists = exists


def new_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, title: str = ""
) -> tuple[Figure, list[Axes]]:
    """Returns a figure, and its axes row by row.

    The margins are fixed, so that axes of one size are alike on all pages; what sticks out is not cut (`_save`).

    Args:
        size: width and height in inches.
        rows: how many axes there are below each other.
        columns: how many axes there are side by side.
        title: a heading above all axes.
    """
    _import_matplotlib()
    from matplotlib.figure import Figure

    # matplotlib wants margins as shares of the figure, and gaps as shares of one pair of axes.
    width, height = size
    top = TOP + (0.3 if title else 0)
    axes_width = (width - LEFT - RIGHT - (columns - 1) * GAP) / columns
    axes_height = (height - BOTTOM - top - (rows - 1) * GAP) / rows
    margins = {
        "left": LEFT / width,
        "right": 1 - RIGHT / width,
        "bottom": BOTTOM / height,
        "top": 1 - top / height,
        "wspace": GAP / axes_width,
        "hspace": GAP / axes_height,
    }
    figure = Figure(figsize=size)
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE + 1)
    all_axes = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins).flat)
    for axes in all_axes:
        axes.set_prop_cycle(color=PALETTE)
    return figure, all_axes


def color_of(number: int) -> str:
    """Returns the colour of line `number`; `style_of` tells it from the one that has the same colour."""
    return PALETTE[number % len(PALETTE)]


def style_of(number: int) -> str:
    """Returns how line `number` is dashed: whole for the first colours, dashed when they come round again."""
    return LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)]


def label_axes(axes: Axes, title: str, x: str, y: str, legend_at: LegendPlace | None = None) -> None:
    """Writes the title and the names of the axes, draws the grid, and the legend where a place for it is given.

    A legend `below` the axes hides nothing. It is for figures with one row of axes, and reaches below those beside it.
    """
    axes.set_title(title, fontsize=TITLE_SIZE)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, which="major")
    if legend_at == "below":
        _draw_legend_below(axes)
    elif legend_at is not None:
        axes.legend(loc=legend_at, fontsize=LEGEND_SIZE)


def _draw_legend_below(axes: Axes) -> None:
    """Draws the legend under the name of the axis, in as many columns as its labels leave room for."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    longest = max((len(label) for label in axes.get_legend_handles_labels()[1]), default=1)
    letters = 13 * figure.get_figwidth()  # in a line as wide as the figure
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + ScaledTranslation(0, -BOTTOM, figure.dpi_scale_trans),
        ncols=max(1, min(3, int(letters / (longest + 8)))),
        fontsize=LEGEND_SIZE,
        frameon=False,
        borderaxespad=0,
    )


def to_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG."""
    stream = io.BytesIO()
    _save(figure, stream)
    return stream.getvalue()


def chart(figure: Figure, caption: str) -> Picture:
    """Returns a figure as a picture of a page, with a text that says what is drawn to those who cannot see it."""
    content = to_png(figure)
    return Picture(content, caption, alt=_describe(figure) or caption, is_chart=True)


def _describe(figure: Figure) -> str:
    """Says what a figure shows: of each axes the title, what is drawn over what, and the names of the lines."""
    found = []
    for axes in figure.axes:
        over = " over ".join(label for label in (axes.get_ylabel(), axes.get_xlabel()) if label)
        legend = axes.get_legend()
        lines = ", ".join(text.get_text().strip() for text in legend.get_texts()) if legend else ""
        if said := ": ".join(
            part for part in (axes.get_title(), over, lines) if part
        ):  # a scale of colours says nothing
            found.append(said)
    return shown(f"Chart. {'. '.join(found)}." if found else "", LONGEST_ALT)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure as its name says, atomically: `.png`, or `.svg` or `.pdf`, which are the same at any size."""
    with atomic_path(path) as temporary:
        _save(figure, temporary, Path(path).suffix.removeprefix("."))


def _save(figure: Figure, to: Any, kind: str = "png") -> None:
    """Writes a file in which names of files and people are shown as they are: a `$` in them begins no formula."""
    for axes in figure.axes:
        legend = axes.get_legend()
        labels = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for text in (*labels, *axes.texts, *(legend.get_texts() if legend else ())):
            _show_plainly(text)
    for text in figure.texts:
        _show_plainly(text)
    from matplotlib import rc_context

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box
        # A tight box grows around names and legends, however long they are: nothing is cut.
        # Neither times nor random names are in it: the same figure is the same file.
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        with rc_context({"svg.hashsalt": "facekd"}):
            figure.savefig(to, format=kind, dpi=DPI, bbox_inches="tight", pad_inches=PADDING, metadata=dated)


def _show_plainly(text: Text) -> None:
    text.set_parse_math(False)
    text.set_text(shown(text.get_text(), LONGEST_LABEL))


def in_legend(label: str) -> str:
    """Returns a label for a line; matplotlib would leave one that begins with `_` out of the legend."""
    return f" {label}" if label.startswith("_") else label


@dataclass(frozen=True)
class RocPoint:
    """Describes a single TAR@FAR, drawn as a marker, with its 95 % interval if there is one."""

    far: float
    tar: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class RocLine:
    """Describes a ROC curve to draw.

    Attributes:
        label: its entry in the legend.
        far: (P,) false accept rates, ascending.
        tar: (P,) the true accept rate at each.
        points: operating points to mark, the first `MOST_LINES` of them.
        band: two arrays (P,), the lower and the upper edge of a shaded band around the line.
    """

    label: str
    far: np.ndarray
    tar: np.ndarray
    points: Sequence[RocPoint] = ()
    band: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def left_edge(self) -> float:
        """Returns the FAR where the line starts, half of one false accept: nothing was measured below one."""
        far = np.asarray(self.far)
        positive = far[far > 0]
        return float(positive.min()) / 2 if positive.size else 0.25


def staircase(far: np.ndarray, tar: np.ndarray, left_edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of a ROC for `step(where="post")`.

    Only the highest TAR at each FAR is kept. It holds until the next impostor is accepted: a staircase, never a slope.

    Args:
        far: (P,) ascending.
        tar: (P,).
        left_edge: where a FAR of 0 is drawn, since a logarithmic axis has no place for it.
    """
    far, tar = np.asarray(far, float), np.asarray(tar, float)
    is_last = np.append(far[1:] > far[:-1], True)
    return np.maximum(far[is_last], left_edge), tar[is_last]


def draw_roc(axes: Axes, lines: Sequence[RocLine], title: str, legend_at: LegendPlace | None = "below") -> None:
    """Draws ROC curves over a logarithmic FAR axis, and the line where both errors are equal.

    Args:
        axes: where to draw.
        lines: at least one.
        title: the heading.
        legend_at: where the legend is; None for none.
    """
    lowest = 1.0
    for number, line in enumerate(lines):
        color, style = color_of(number), style_of(number)
        far, tar = staircase(line.far, line.tar, line.left_edge)
        axes.step(far, tar, where="post", lw=LINE_WIDTH, color=color, ls=style, label=in_legend(line.label))
        lowest = min(lowest, float(tar[0]))
        if line.band is not None:
            low, high = line.band
            axes.fill_between(line.far, low, high, step="post", color=color, alpha=0.12, lw=0)
            lowest = min(lowest, float(np.min(low)))
        for point in line.points[:MOST_LINES]:
            low, high = point.ci95 or (point.tar, point.tar)
            # An interval may end at the TAR, and by rounding a hair beside it.
            bars = [[max(point.tar - low, 0)], [max(high - point.tar, 0)]] if point.ci95 else None
            axes.errorbar(point.far, point.tar, bars, fmt="o", ms=MARKER_SIZE, lw=1, capsize=3, color=color)
            lowest = min(lowest, low)

    # The axis ends where the largest set does; below one false accept of that set the ground is grey.
    edge = min(line.left_edge for line in lines)
    rates = np.geomspace(edge, 1, 200)
    axes.plot(rates, 1 - rates, **REFERENCE_LINE, label="FAR = FRR (crossing is the EER)")
    axes.axvspan(edge, 2 * edge, color="0.93", lw=0, zorder=0)
    margin = 0.06 * (1 - lowest) + 0.002
    axes.set(xscale="log", xlim=(edge, 1), ylim=(max(lowest - margin, 0), 1 + margin))
    label_axes(axes, title, "false accept rate (grey: below one false accept)", "true accept rate", legend_at)


def draw_losses(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draws the loss of training runs over the images seen.

    Args:
        logs: by the name of the run, the lines of its log, each with `images_seen` and `loss`.
    """
    figure, [axes] = new_figure((8, 3.4))
    for number, (name, entries) in enumerate(logs.items()):
        seen, losses = [entry["images_seen"] for entry in entries], [entry["loss"] for entry in entries]
        axes.plot(seen, losses, color=color_of(number), ls=style_of(number), label=in_legend(name))
    show_whole_numbers(axes)
    label_axes(axes, "loss during training", "images seen", "loss", "below")
    return figure


def show_whole_numbers(axes: Axes) -> None:
    """Writes the numbers below the axis with thousands separated, `1,200,000`, and no more than fit."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def draw_histogram(
    axes: Axes, values: np.ndarray, title: str, x: str = "", y: str = "", *, is_log: bool = False, margin: float = 0.0
) -> None:
    """Draws how values are distributed, and marks their mean.

    Args:
        axes: where to draw.
        values: (N,) finite, at least one.
        title: the heading.
        x: what the values are.
        y: what is counted.
        is_log: logarithmic bins and axis; the values must be positive.
        margin: the least half width of the axis, for values that are all equal.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    extra = max(0.0, margin - (high - low) / 2)
    count = num_bins(len(values))
    edges: np.ndarray
    if is_log:
        edges = np.geomspace(low, high, count + 1)
        axes.set_xscale("log")
    elif high - low < MOST_BINS and not np.any(values % 1):
        edges = np.arange(low - 0.5, high + 1)  # a bin for each whole number
    else:
        edges = np.linspace(low - extra, high + extra, count + 1)
    if not is_log:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))  # as many as have room with four decimals
    axes.hist(values, bins=edges.tolist(), color=PALETTE[0], alpha=0.8)
    axes.axvline(float(values.mean()), **MARKED_VALUE, color="0.2", label=f"mean {float(values.mean()):,.4g}")
    label_axes(axes, title, x, y, "best")


def draw_matrix(
    axes: Axes,
    values: np.ndarray,
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    is_doubtful: np.ndarray,
    title: str,
) -> None:
    """Draws a matrix of rates as a heat map on a logarithmic scale of colour, each cell with its text.

    Args:
        axes: where to draw.
        values: (K, K) rates from 0 to 1; NaN is left grey, and 0 has the colour of the smallest rate above it.
        names: K names of the rows, which are also those of the columns.
        texts: K lists of K texts, of one line or several; left out where cells are too small for text.
        is_doubtful: bool (K, K), cells to hatch.
        title: the heading.
    """
    from matplotlib.patches import Rectangle

    # The scale spans at least a factor of ten, so that hardly different rates look alike.
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.1, 1.0)
    middle, half = np.log10(low * high) / 2, max(np.log10(high / low) / 2, 0.5)
    shades = np.log10(np.where(values > 0, values, low))
    shades[np.isnan(values)] = np.nan
    axes.set_facecolor("0.85")
    axes.imshow(shades, cmap="YlOrRd", vmin=middle - half, vmax=middle + half)
    count = len(names)
    for row in range(count):
        for column in range(count):
            if is_doubtful[row, column]:
                hatched = Rectangle((column - 0.5, row - 0.5), 1, 1, hatch="///", fill=False, ec="0.45", lw=0)
                axes.add_patch(hatched)
            if count <= MAX_CELLS_WITH_TEXT:
                is_dark = shades[row, column] > middle + 0.4 * half
                color, ground = ("white", "#b1182699") if is_dark else ("black", "#ffffffaa")
                box = {"facecolor": ground, "edgecolor": "none", "pad": 1.5}
                lines = texts[row][column].split("\n")
                for number, line in enumerate(lines):
                    below = row + 0.2 * (number - (len(lines) - 1) / 2)
                    axes.text(column, below, line, ha="center", va="center", fontsize=7, color=color, bbox=box)
    labels = [shown(name, 14) for name in names]
    axes.set_xticks(range(count), labels, rotation=30, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(count), labels, fontsize=8, parse_math=False)
    axes.set_title(title, fontsize=TITLE_SIZE)


def show_plain_powers(axes: Axes) -> None:
    """Writes the numbers beside a logarithmic axis as `0.3` and `2`, not as products with powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def num_bins(num_values: int, most: int = MOST_BINS) -> int:
    """Returns how many bins show the shape of so many values and not their chance: two times the cube root (Rice)."""
    return int(np.clip(np.ceil(2 * max(num_values, 1) ** (1 / 3)), FEWEST_BINS, most))
