"""Finds likely label errors with a model: mislabelled images, identities that are one person, people in two sets.

Every finding is a proposal with its evidence, for people to check; `facekd data clean` applies what they leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_npy
from facekd.head.robust_centres import RobustCentres, find_nearest_centres, robust_centres
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted
from facekd.verification.scores import unit_rows

ROW_CHUNK = 4096
# The share of training images that stay farther from the nearest stranger than the limit for an overlap.
STRANGER_QUANTILE = 0.999


@dataclass(frozen=True)
class Centres:
    """Holds robust centres of the identities that have images, and the embeddings behind them.

    Attributes:
        units: float32 (N, E), unit embeddings; rows of images without label are not used.
        labels: int64 (N,), as in the data set; -1 for none.
        classes: int64 (C,), the label of each centre.
        own: int64 (N,), the row of the centre of each image, -1 for none.
        centres: the result of `robust_centres`.
    """

    units: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    own: np.ndarray
    centres: RobustCentres


def find_centres(embeddings: np.ndarray, labels: np.ndarray) -> Centres:
    """Computes the centres of all identities.

    Args:
        embeddings: (N, E), of any norm but 0.
        labels: int64 (N,), -1 for images to skip.

    Raises:
        DataError: there are more or fewer embeddings than images, some are zero or not finite, or there are fewer than
            two identities.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise DataError(
            f"embeddings of shape {embeddings.shape} do not fit {counted(len(labels), 'image')}; expected a row each"
        )

    # Normalise; embeddings without a direction are refused if they belong to an identity.
    units = unit_rows(
        embeddings.astype(np.float32, copy=False),
        lambda rows: DataError(
            f"{counted(rows.size, 'embedding is', 'embeddings are')} not finite or zero, first that of image {rows[0]}"
        ),
        needed=labels >= 0,
    )

    # Number the identities that have images without gaps.
    classes = np.unique(labels[labels >= 0])
    if len(classes) < 2:
        raise DataError("fewer than two identities: nothing to compare")
    own = np.where(labels >= 0, np.searchsorted(classes, labels), -1)
    return Centres(units, labels, classes, own, robust_centres(lambda images: units[images], own, len(classes)))


@dataclass(frozen=True)
class Outlier:
    """Describes an image far from the others of its identity, or nearer to another identity.

    Attributes:
        image: its number.
        own_cosine: to the others of its identity.
        other_label: the nearest other identity.
        other_cosine: to that.
    """

    image: int
    own_cosine: float
    other_label: int
    other_cosine: float


def find_outliers(found: Centres) -> list[Outlier]:
    """Finds images that are likely mislabelled, the surest first.

    These are images below the threshold of `robust_centres`, and images nearer to another identity than to their own.
    """
    images = np.flatnonzero(found.own >= 0)
    nearest = find_nearest_centres(found.centres, lambda rows: found.units[rows], found.own, images)
    own = found.centres.cosine[images]
    doubtful = np.flatnonzero((own < found.centres.threshold) | (own < nearest.nearest_other_cosine))
    doubtful = doubtful[np.argsort((own - nearest.nearest_other_cosine)[doubtful], kind="stable")]
    return [
        Outlier(
            int(images[i]),
            float(own[i]),
            int(found.classes[nearest.nearest_other[i]]),
            float(nearest.nearest_other_cosine[i]),
        )
        for i in doubtful.tolist()
    ]


def find_merges(found: Centres, min_cosine: float | None = None) -> tuple[list[tuple[int, int, float]], float]:
    """Finds identities that are likely one person.

    Args:
        found: the result of `find_centres`.
        min_cosine: between the centres of two such identities. By default the median cosine of an image to the others
            of its own identity, so that two identities count if they are as near as one is to itself.

    Returns:
        `(label, other label, cosine of their centres)`, the nearest first; and the limit.
    """
    cosine = found.centres.cosine
    limit = float(np.nanmedian(cosine)) if min_cosine is None else min_cosine
    weight = found.centres.weight
    pairs = []
    for start in track(range(0, len(weight), ROW_CHUNK), "comparing identities", len(weight), ROW_CHUNK):
        products = weight[start : start + ROW_CHUNK] @ weight.T
        for row, column in np.argwhere(products >= limit).tolist():
            if column > start + row:
                pairs.append(
                    (int(found.classes[start + row]), int(found.classes[column]), float(products[row, column]))
                )
    return sorted(pairs, key=lambda pair: -pair[2]), limit


@dataclass(frozen=True)
class Overlap:
    """Describes an identity that other images come near: its label, those images, and the highest cosine."""

    label: int
    images: list[int]
    cosine: float


def find_overlap(found: Centres, others: np.ndarray, min_cosine: float | None = None) -> tuple[list[Overlap], float]:
    """Finds identities of a training set that appear in other images, those of an evaluation.

    Args:
        found: the centres of the training set.
        others: (M, E), embeddings of the other images by the same model.
        min_cosine: of an image to the centre of its person. By default the cosine to the nearest centre of a
            *stranger* that all but 0.1 % of the training images stay below. So about 0.1 % of the images of people who
            are not in the training set are listed all the same.

    Returns:
        The identities, those with the most images first; and the limit.
    """
    if others.ndim != 2 or others.shape[1] != found.units.shape[1]:
        raise DataError(f"embeddings of shape {others.shape} and {found.units.shape} are of two models")
    limit = _stranger_limit(found) if min_cosine is None else min_cosine
    near: dict[int, list[tuple[int, float]]] = {}  # by label: numbers and cosines of images
    for start in range(0, len(others), ROW_CHUNK):
        units = unit_rows(others[start : start + ROW_CHUNK], None)  # an embedding of zeros comes near nobody
        block = units @ found.centres.weight.T
        nearest = block.argmax(axis=1)
        for row in np.flatnonzero(block[np.arange(len(block)), nearest] > limit).tolist():
            label = int(found.classes[nearest[row]])
            near.setdefault(label, []).append((start + row, float(block[row, nearest[row]])))
    overlaps = [Overlap(label, [i for i, _ in hits], max(c for _, c in hits)) for label, hits in near.items()]
    return sorted(overlaps, key=lambda overlap: (-len(overlap.images), -overlap.cosine)), limit


def _stranger_limit(found: Centres) -> float:
    """Computes the cosine to the nearest stranger that nearly all training images stay below.

    Likely mislabelled images and identities that are likely one person are left out: their nearest centre may well be
    that of the same person.
    """
    doubtful = [outlier.image for outlier in find_outliers(found)]
    twice = [label for pair in find_merges(found)[0] for label in pair[:2]]
    is_sure = (found.own >= 0) & ~np.isin(found.labels, twice)
    is_sure[doubtful] = False
    images = np.flatnonzero(is_sure)
    if not len(images):
        raise DataError("no identity is clear enough to tell how near strangers are; give the limit by hand")
    nearest = find_nearest_centres(found.centres, lambda rows: found.units[rows], found.own, images)
    return float(np.quantile(nearest.nearest_other_cosine, STRANGER_QUANTILE))


def embed_images(
    embed: Callable[[np.ndarray], np.ndarray], read: Callable[[int], np.ndarray | None], count: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds images that are read one by one.

    Args:
        embed: uint8 RGB images (B, H, W, 3) -> embeddings (B, E).
        read: the number of an image -> its pixels, or None if it cannot be read.
        count: N, how many images there are.
        what: the label of the progress bar.

    Returns:
        Embeddings float32 (N, E), and bool (N,) which images could be read; the rows of the others are zero.
    """
    # Embed chunk by chunk the images that can be read.
    rows: list[np.ndarray] = []
    usable = np.zeros(count, dtype=bool)
    for start in track(range(0, count, 64), what, count, 64):
        decoded = {
            image: pixels for image in range(start, min(start + 64, count)) if (pixels := read(image)) is not None
        }
        if decoded:
            rows.append(embed(np.stack(list(decoded.values()))))
            usable[list(decoded)] = True
    if not rows:
        raise DataError("none of the images can be decoded")

    # One row per image, zero for those that could not be read.
    embeddings = np.zeros((count, rows[0].shape[1]), dtype=np.float32)
    embeddings[usable] = np.concatenate(rows)
    return embeddings, usable


def load_embeddings(path: Path, count: int) -> np.ndarray:
    """Reads embeddings made elsewhere: a `.npy` of floats (N, E), in the order of the images of the data set.

    Raises:
        DataError: the array has another shape or type, a value that is not finite, or the file holds no array.
    """
    array = read_npy(path, "write it by np.save")
    if array.dtype.kind != "f" or array.ndim != 2 or len(array) != count:
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}; expected floats ({count}, E), a row for each image"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the range of float32: infinite, and found below
        embeddings = array.astype(np.float32)
    if (bad := np.flatnonzero(~np.isfinite(embeddings).all(axis=1))).size:
        raise DataError(
            f"{path}: the {agreeing(bad.size, 'embedding')} of {counted(bad.size, 'image is', 'images are')} not "
            f"finite, first row {bad[0]}; make them again"
        )
    return embeddings
