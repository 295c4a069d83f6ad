"""The page of `facekd data inspect --report`: numbers, distributions, duplicates and faces, in one file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.inspection.contact_sheet import Row, choose_images, draw_contact_sheet
from data_prep.inspection.image_quality import Quality
from facekd.data.datasets.record_pack import RecordPack
from facekd.utils.files import write_text
from facekd.utils.html import page, picture, table, to_png

NUM_EXTREME = 16
NUM_PAIRS = 12
PER_ROW = 8


def write_report(
    path: Path,
    pack: RecordPack,
    lines: Sequence[str],
    quality: Quality,
    duplicates: np.ndarray,
    findings: Sequence[tuple[str, str, Sequence[Row]]],
    seed: int = 0,
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        pack: what it is about.
        lines: what `facekd data inspect` prints, `name  value`.
        quality: of the images measured.
        duplicates: int64 (P, 2), pairs of image numbers.
        findings: of a model: title, explanation, and rows of images to show.
        seed: of the random sheet.
    """
    parts = [_facts(lines), _distributions(pack, quality)]
    parts.append(_duplicates(pack, duplicates))
    for title, explanation, rows in findings:
        parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(explanation)}</p>")
        if rows:
            parts.append(_sheet(pack, rows[:NUM_PAIRS], "the first of the list"))
    parts.append("<h2>Extremes</h2>")
    for title, values, sign in (
        ("darkest", quality.brightness, 1),
        ("brightest", quality.brightness, -1),
        ("most blurred", quality.sharpness, 1),
        ("lowest JPEG quality", quality.jpeg_quality, 1),
    ):
        parts.append(_extremes(pack, quality, title, values * sign))
    rows = choose_images(pack.labels(), 64, seed)
    parts.append(f"<h2>At random</h2>{_sheet(pack, rows, 'a row for each identity; keys below the images')}")
    write_text(path, page(f"Data set {pack.reader.rec_path}", parts))


def _facts(lines: Sequence[str]) -> str:
    rows = []
    for line in lines:
        name, value = line[:12].strip(), line[12:].strip()
        rows.append((html.escape(name), html.escape(value)))
    return table(("", ""), rows)


def _distributions(pack: RecordPack, quality: Quality) -> str:
    from matplotlib.figure import Figure

    labels = pack.labels()
    counts = np.bincount(labels[labels >= 0])
    series = (
        ("images per identity", counts[counts > 0].astype(float), True),
        ("brightness (mean luma, 0..255)", quality.brightness, False),
        ("sharpness (variance of the Laplacian; low is blurred)", quality.sharpness, True),
        ("JPEG quality", quality.jpeg_quality, False),
    )
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    rows = []
    for axes, (title, values, is_wide) in zip(figure.subplots(2, 2).flat, series, strict=True):
        finite = values[np.isfinite(values)]
        axes.set_title(title, fontsize=10)
        if not len(finite):
            continue
        low, high = finite.min(), finite.max()
        if is_wide and low > 0 and high > 20 * low:
            axes.set_xscale("log")
            bins: Any = np.geomspace(low, high, 40)
        else:
            bins = 40
        axes.hist(finite, bins=bins, color="#47a")
        quantiles = np.quantile(finite, (0, 0.05, 0.5, 0.95, 1))
        rows.append((html.escape(title), *(f"{value:,.4g}" for value in quantiles)))
    measured = f"{int(quality.is_usable.sum()):,} of {pack.num_images:,} images measured"
    head = ("", "least", "5 %", "median", "95 %", "most")
    return f"<h2>Distributions</h2>{table(head, rows)}{picture(to_png(figure), measured)}"


def _duplicates(pack: RecordPack, duplicates: np.ndarray) -> str:
    labels = pack.labels()
    within = labels[duplicates[:, 0]] == labels[duplicates[:, 1]]
    rows = [
        ("within an identity", f"{int(within.sum()):,}"),
        ("across identities", f"{int((~within).sum()):,}"),
    ]
    parts = [
        "<h2>Near duplicates</h2><p>Pairs whose perceptual hashes differ in at most 4 of 64 bits and "
        "whose pixels correlate by 0.9 or more.</p>"
    ]
    parts.append(table(("pairs", ""), rows))
    for title, chosen in (("across identities", duplicates[~within]), ("within an identity", duplicates[within])):
        if len(chosen):
            parts.append(_sheet(pack, chosen[:NUM_PAIRS].tolist(), f"{title}: a pair a row, beside the first's label"))
    return "".join(parts)


def _extremes(pack: RecordPack, quality: Quality, title: str, values: np.ndarray) -> str:
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    chosen = quality.images[[i for i in order[:NUM_EXTREME].tolist() if np.isfinite(values[i])]]
    if not len(chosen):
        return ""
    rows = [chosen[start : start + PER_ROW].tolist() for start in range(0, len(chosen), PER_ROW)]
    return _sheet(pack, rows, f"{title}; the label is that of the first in the row")


def _sheet(pack: RecordPack, rows: Sequence[Row], caption: str) -> str:
    drawn = draw_contact_sheet(pack, rows)
    png = cv2.imencode(".png", np.ascontiguousarray(drawn[..., ::-1]))[1].tobytes()
    return picture(png, html.escape(caption))
