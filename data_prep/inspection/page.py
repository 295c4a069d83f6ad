"""Writes the page of `facekd data inspect --report`: numbers, distributions, duplicates and faces, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.inspection.contact_sheet import Row, choose_images, draw_contact_sheet
from data_prep.inspection.image_quality import Quality, among_text
from facekd.commands.command_line import command_text
from facekd.data.datasets.record_pack import RecordPack
from facekd.images.encoding import encode_png
from facekd.pages.figures import chart, draw_histogram, new_figure
from facekd.pages.html import Picture, write_page
from facekd.pages.tables import Table
from facekd.utils.wording import counted

NUM_EXTREME = 16
NUM_PAIRS = 12
NUM_RANDOM = 64
PER_ROW = 8
QUANTILES = {"least": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1}


class Finding(NamedTuple):
    """Describes what a model found in a data set: a heading, an explanation, and rows of images to show."""

    title: str
    explanation: str
    rows: Sequence[Row]


class Measure(NamedTuple):
    """Holds a measured value of each image or identity; a wide range is drawn on a logarithmic axis."""

    title: str
    values: np.ndarray
    may_be_log: bool


def write_report(
    path: Path,
    pack: RecordPack,
    lines: Sequence[str],
    quality: Quality,
    duplicates: np.ndarray,
    findings: Sequence[Finding],
    seed: int = 0,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        pack: the data set.
        lines: what `facekd data inspect` prints, `name  value`.
        quality: the quality of the images that were measured.
        duplicates: int64 (P, 2), pairs of image numbers.
        findings: what a model found.
        seed: random seed of the images drawn at random.
    """
    # The page in its order: facts, distributions of the measures, duplicates, findings, and images to look at.
    measures = _measures(pack, quality)
    write_page(
        path,
        "inspection",
        title=f"Data set {pack.reader.rec_path}",
        facts=Table("", ("", ""), [(line[:12].strip(), line[12:].strip()) for line in lines]),
        distributions=_quantiles(measures),
        histograms=_histograms(
            measures, f"{int(quality.is_usable.sum()):,} of {counted(pack.num_images, 'image')} measured"
        ),
        duplicates=_count_duplicates(pack, duplicates, among_text(len(quality.images), pack.num_images)),
        duplicate_sheets=_duplicate_sheets(pack, duplicates),
        findings=[
            {
                "title": finding.title,
                "explanation": finding.explanation,
                "sheet": _sheet(pack, finding.rows[:NUM_PAIRS], "the first of the list") if finding.rows else None,
            }
            for finding in findings
        ],
        extremes=_extremes(pack, quality),
        random_sheet=_sheet(
            pack,
            choose_images(pack.labels(), NUM_RANDOM, seed),
            "one row for each identity; the keys are below the images",
        ),
        next=_next_steps(pack),
    )


def _next_steps(pack: RecordPack) -> list[str]:
    """Says how to look for wrong labels, to clean, and to train."""
    source = str(pack.reader.rec_path)
    look = [source, "--report", "look/index.html", "--model", "m.onnx", "--against", "lfw.bin"]
    clean = [source, "CLEANED", "--apply", "look/outliers.tsv"]
    return [
        f"Wrong labels, duplicates and leaks, by a model: `{command_text('data inspect', look)}`",
        f"A new pack without what that lists: `{command_text('data clean', clean)}`",
        f"Train: `{command_text('train', ['CONFIG.yaml', '--data.train', source, '--output', 'RUN'])}`",
    ]


def _measures(pack: RecordPack, quality: Quality) -> list[Measure]:
    """Returns what is measured, without the values of images that cannot be decoded."""
    labels = pack.labels()
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    measures = (
        Measure("images per identity", counts.astype(float), True),
        Measure("brightness (mean luma, 0..255)", quality.brightness, False),
        Measure("sharpness (variance of the Laplacian; low is blurred)", quality.sharpness, True),
        Measure("JPEG quality", quality.jpeg_quality, False),
    )
    return [measure._replace(values=measure.values[np.isfinite(measure.values)]) for measure in measures]


def _quantiles(measures: Sequence[Measure]) -> Table:
    rows = [
        [measure.title, *(f"{value:,.4g}" for value in np.quantile(measure.values, list(QUANTILES.values())))]
        for measure in measures
        if len(measure.values)
    ]
    return Table("Distributions", ["", *QUANTILES], rows)


def _histograms(measures: Sequence[Measure], caption: str) -> Picture:
    figure, all_axes = new_figure((10, 6.4), rows=2, columns=2)
    for axes, (title, values, may_be_log) in zip(all_axes, measures, strict=True):
        if len(values):
            low, high = values.min(), values.max()
            is_log = bool(may_be_log and low > 0 and high > 20 * low)
            draw_histogram(axes, values, title, is_log=is_log, margin=0.5)
        else:
            axes.set_title(f"{title}: no values")
    return chart(figure, caption)


def _count_duplicates(pack: RecordPack, duplicates: np.ndarray, among: str) -> Table:
    within = _within_an_identity(pack, duplicates)
    rows = [("within an identity", f"{int(within.sum()):,}"), ("across identities", f"{int((~within).sum()):,}")]
    return Table("Near duplicates", ("", f"pairs{among}"), rows)


def _duplicate_sheets(pack: RecordPack, duplicates: np.ndarray) -> list[Picture]:
    within = _within_an_identity(pack, duplicates)
    kinds = (("across identities", duplicates[~within]), ("within an identity", duplicates[within]))
    caption = "one pair in each row, beside the label of its first image"
    return [_sheet(pack, pairs[:NUM_PAIRS].tolist(), f"{title}: {caption}") for title, pairs in kinds if len(pairs)]


def _within_an_identity(pack: RecordPack, duplicates: np.ndarray) -> np.ndarray:
    labels = pack.labels()
    return labels[duplicates[:, 0]] == labels[duplicates[:, 1]]


def _extremes(pack: RecordPack, quality: Quality) -> list[Picture]:
    """Returns a contact sheet of the images at each end of the quality measures."""
    sheets = []
    for title, values in (
        ("darkest", quality.brightness),
        ("brightest", -quality.brightness),
        ("most blurred", quality.sharpness),
        ("lowest JPEG quality", quality.jpeg_quality),
    ):
        order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
        chosen = quality.images[[i for i in order[:NUM_EXTREME].tolist() if np.isfinite(values[i])]]
        if len(chosen):
            rows = [chosen[start : start + PER_ROW].tolist() for start in range(0, len(chosen), PER_ROW)]
            sheets.append(_sheet(pack, rows, f"{title}; the label is that of the first image in the row"))
    return sheets


def _sheet(pack: RecordPack, rows: Sequence[Row], caption: str) -> Picture:
    return Picture(encode_png(draw_contact_sheet(pack, rows)), caption)
