"""Shows what a measure of quality is worth: a table of areas, and error-versus-discard curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.pages.figures import LINE_WIDTH, MOST_LINES, PAIR, REFERENCE_LINE, color_of, label_axes, new_figure
from facekd.pages.numbers import percent
from facekd.pages.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUALITY = "Quality: error versus discard"
CAPTION = (
    "FNMR at a fixed threshold when the comparisons of lowest quality are left out, against the share of genuine "
    "comparisons (left) or of samples (right) that goes. Dotted: nothing gained, as by discarding at random; dashed: "
    "the ideal, which discards rejected comparisons alone."
)
SHOWN_SHARES = (10, 20)  # percent, columns of the table
LIMITS = (0.2, 0.3)  # shares up to which the table has areas


def quality_table(result: dict[str, Any]) -> Table | None:
    """Returns a row for each FAR; None if no quality was given."""
    quality = result.get("quality")
    if not quality:
        return None
    head = ["FAR", "FNMR %"]
    units = ("pairs", quality["samples"])
    head += [f"without {share} % of {unit}" for unit in units for share in SHOWN_SHARES]
    head += [f"area to {100 * limit:g} %" for limit in LIMITS]
    rows = []
    for curve in quality["curves"]:
        cells = [f"{curve['far']:g}", percent(curve["fnmr"])]
        for kind in ("pairs", "samples"):
            at = dict(zip(curve["discarded"], curve[f"fnmr_by_{kind}"], strict=False))
            cells += [percent(at.get(share / 100)) for share in SHOWN_SHARES]
        areas = {entry["limit"]: entry for entry in curve["areas"]}
        rows.append([*cells, *(_area_text(areas.get(limit)) for limit in LIMITS)])
    return Table(QUALITY, head, rows)


def draw_quality(quality: dict[str, Any], title: str = "") -> Figure:
    """Draws the curves of all FARs, by comparisons and by samples."""
    figure, axes = new_figure(PAIR, columns=2, title=title)
    for own, kind, unit in zip(axes, ("pairs", "samples"), ("genuine pairs", quality["samples"]), strict=True):
        for number, curve in enumerate(quality["curves"][:MOST_LINES]):
            # Of a file that was changed by hand, what both lists hold.
            values = 100 * np.array(curve[f"fnmr_by_{kind}"])[: len(curve["discarded"])]
            shares = 100 * np.array(curve["discarded"])[: len(values)]
            color = color_of(number)
            label = f"FAR {curve['far']:g}"
            own.step(shares, values, where="post", lw=LINE_WIDTH, color=color, label=label)
            own.axhline(100 * curve["fnmr"], **{**REFERENCE_LINE, "color": color})
            if kind == "pairs":
                ideal = np.maximum(curve["fnmr"] - shares / 100, 0) / (1 - shares / 100)
                own.plot(shares, 100 * ideal, ls="--", lw=0.9, color=color)
        own.set_xlim(0, 99)
        own.set_ylim(bottom=0)
        label_axes(own, f"by {unit}", f"% of {unit} left out", "FNMR %", "below")
    return figure


def _area_text(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["relative_pairs"] is None:
        return "-" if entry is None else "no errors"
    text = f"{entry['relative_pairs']:.2f}"
    bounds = entry["relative_pairs_ci95"]
    return text if bounds is None else f"{text} ({bounds[0]:.2f} to {bounds[1]:.2f})"
