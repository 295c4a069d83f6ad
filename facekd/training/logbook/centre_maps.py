"""Keeps and draws who resembles whom in a run: the cosines between the centres of its classes.

`centres.npz` in the folder of a run holds `classes` (k,) and for each set of centres a matrix of cosines (k, k) between
those classes: `rows` of the classifier, `means` of the embeddings, and in a distillation `teacher`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.files.npy_files import read_npz
from facekd.files.writing import atomic_path
from facekd.pages.figures import TITLE_SIZE, chart, new_figure
from facekd.pages.html import Picture
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import counted

FILE = "centres.npz"
MOST_CLASSES = 40  # a cell of the picture is then seven pixels wide
SETS = {"rows": "rows of the classifier", "means": "class means", "teacher": "the teacher's classifier"}
NARROWEST_SCALE = 0.1  # so that cosines of almost nothing look like almost nothing
LARGEST_COSINE = 1.01  # of centres in half precision, with its rounding
REMEDY = "delete it, and the page is made without its picture"


def write_centre_maps(folder: Path, classes: NDArray[np.int64], centres: Mapping[str, NDArray[np.floating]]) -> None:
    """Writes `centres.npz` with the cosines between up to 40 of the classes, evenly spread.

    Args:
        folder: folder of the run.
        classes: (n,), labels of the classes.
        centres: by the name of a set, a key of `SETS`, its centres (n, D), row by row those classes.
    """
    kept = spread_evenly(len(classes), MOST_CLASSES)
    maps = {}
    for name, rows in centres.items():
        units = rows[kept] / np.linalg.norm(rows[kept], axis=1, keepdims=True)
        maps[name] = (units @ units.T).astype(np.float32)
    with atomic_path(folder / FILE) as temporary, temporary.open("wb") as stream:
        np.savez(stream, classes=classes[kept], **maps)  # pyright: ignore[reportArgumentType]


def draw_centre_maps(folder: Path) -> Picture | None:
    """Draws the maps of a run side by side, its classes in an order that puts similar ones together.

    Returns:
        None for a run without `centres.npz`, or with too few classes to show anything.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    maps = _read(path)
    count = len(maps["means"])
    if count < 3:
        return None

    # One order and one scale of colour for all. A class resembles itself by 1, which would outshine the rest.
    order, others = _order(maps["means"]), ~np.eye(count, dtype=bool)
    limit = max(NARROWEST_SCALE, *(float(np.quantile(np.abs(map_[others]), 0.98)) for map_ in maps.values()))
    figure, all_axes = new_figure((3.9 * len(maps) + 0.6, 3.9), columns=len(maps))
    for axes, (name, cosines) in zip(all_axes, maps.items(), strict=True):
        cells = np.where(others, cosines, np.nan)[np.ix_(order, order)]
        axes.set_facecolor("0.6")
        image = axes.imshow(cells, cmap="PuOr", vmin=-limit, vmax=limit)
        axes.set_title(SETS[name], fontsize=TITLE_SIZE)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
    return chart(
        figure,
        f"Who resembles whom: the cosines between the centres of {counted(count, 'class')}, in the same order in each "
        "picture, which puts classes with similar means together. A classifier that is shared hands on its own "
        "picture. Where that looks like noise beside the class means, share those (`facekd rebuild-head`).",
    )


def _read(path: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the maps of a file, by the name of their set.

    Raises:
        DataError: it is damaged, or no such file.
    """
    found = read_npz(path, REMEDY, SETS)
    maps = {name: found[name] for name in SETS if name in found}
    sizes = {map_.shape for map_ in maps.values()}
    count = len(maps["means"]) if "means" in maps and maps["means"].ndim else 0
    if sizes != {(count, count)} or count > MOST_CLASSES or any(map_.dtype.kind != "f" for map_ in maps.values()):
        raise DataError(f"{path}: damaged: expected cosines between up to {MOST_CLASSES} classes; {REMEDY}")
    if not all((np.abs(map_) <= LARGEST_COSINE).all() for map_ in maps.values()):  # what is no number is not
        raise DataError(f"{path}: damaged: holds something else than cosines, from -1 to 1; {REMEDY}")
    return {name: map_.astype(np.float64) for name, map_ in maps.items()}


def _order(cosines: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the classes (k,) in the order of the leaves of a tree that joins similar ones first."""
    from scipy.cluster.hierarchy import leaves_list, linkage  # here, because importing it takes a while
    from scipy.spatial.distance import squareform

    distances = np.clip(1 - cosines, 0, 2)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances), "average", optimal_ordering=True)).astype(np.int64)
