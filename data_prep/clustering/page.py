"""Writes the page of `facekd data cluster`: numbers, sizes of the clusters, and images of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clustering.clusters import Clusters
from data_prep.inspection.contact_sheet import PER_ROW, draw_contact_sheet
from facekd.commands.command_line import command_text
from facekd.data.datasets.record_pack import RecordPack
from facekd.images.encoding import encode_png
from facekd.pages.figures import chart, draw_histogram, new_figure
from facekd.pages.html import Picture, write_page
from facekd.pages.tables import Table
from facekd.utils.wording import counted

NUM_CLUSTERS = 12
NAMES = {
    "pairs_precision": "precision of pairs",
    "pairs_recall": "recall of pairs",
    "pairs_f": "F of pairs",
    "bcubed_precision": "B-cubed precision",
    "bcubed_recall": "B-cubed recall",
    "bcubed_f": "B-cubed F",
    "nmi": "normalised mutual information",
    "purity_of_clusters": "purity of the clusters, without noise",
}


def describe(report: Mapping[str, Any]) -> Table:
    """Returns the numbers of a report as a table."""
    sizes = report["cluster_size"]
    rows = [
        ("images", f"{report['images']:,}"),
        ("clusters", f"{report['clusters']:,}, of {counted(report['clustered'], 'image')}"),
        ("images each", f"{sizes['min']:,} to {sizes['max']:,}, median {sizes['median']:g}"),
        ("noise", f"{report['noise']:,} ({report['noise'] / max(report['images'], 1):.1%}), {report['noise_is']}"),
        ("unreadable", f"{report['unreadable']:,}"),
    ]
    if known := report["agreement"]:
        rows.append(
            (
                "known",
                f"{counted(known['images'], 'image')} of {counted(known['identities'], 'identity')}",
            )
        )
        rows += [(name, "not measurable" if known[key] is None else f"{known[key]:.2%}") for key, name in NAMES.items()]
    return Table("", ("", ""), rows)


def write_report(path: Path, pack: RecordPack, found: Clusters, report: Mapping[str, Any], seed: int = 0) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        pack: the pack whose labels are the clusters.
        found: the clusters.
        report: the numbers, as in `cluster_report.json`.
        seed: random seed of the clusters drawn at random.
    """
    labels, sizes = pack.labels(), found.sizes
    at_random = np.random.default_rng(seed).permutation(len(sizes))
    figure, (axes,) = new_figure((10, 3.4), rows=1, columns=1)
    is_log = bool(sizes.max() > 20 * sizes.min())
    draw_histogram(axes, sizes.astype(float), "images in a cluster", is_log=is_log, margin=0.5)
    sheets = [
        _sheet(pack, labels, np.argsort(-sizes, kind="stable"), "the largest clusters"),
        _sheet(pack, labels, at_random, "clusters at random"),
        _sheet(pack, labels, np.argsort(found.coherence, kind="stable"), "the clusters whose images differ most"),
    ]
    source = str(pack.reader.rec_path)
    look = [source, "--report", "look/index.html", "--model", "m.onnx"]
    write_page(
        path,
        "clustering",
        title=f"Clusters of {report['source']}",
        facts=describe(report),
        histogram=chart(figure, "sizes of the clusters"),
        sheets=sheets,
        next=[
            f"Look for people in several clusters: `{command_text('data inspect', look)}`",
            f"Train on the clusters: `{command_text('train', ['CONFIG.yaml', '--data.train', source])}`",
        ],
    )


def _sheet(pack: RecordPack, labels: np.ndarray, clusters: Sequence[int] | np.ndarray, caption: str) -> Picture:
    rows = [np.flatnonzero(labels == label)[:PER_ROW].tolist() for label in clusters[:NUM_CLUSTERS]]
    return Picture(encode_png(draw_contact_sheet(pack, rows)), f"{caption}; a row shows up to {PER_ROW} images of one")
