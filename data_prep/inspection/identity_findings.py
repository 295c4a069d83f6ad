"""What a model makes of a data set: images likely mislabelled, identities likely one person, people in two sets.

Every finding is a proposal with its evidence, for a human to look at; `facekd data clean` applies what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.head.robust_centres import RobustCentres, find_nearest_centres, robust_centres
from facekd.utils.progress import track

ROWS_AT_ONCE = 4096
# How many training images may be nearer to a stranger than what is called an overlap.
STRANGER_QUANTILE = 0.999


@dataclass(frozen=True)
class Centres:
    """Robust centres of the identities that have images, and what they were made of.

    Attributes:
        units: float32 (N, E), unit embeddings; rows of images without label are not used.
        labels: int64 (N,), as in the data set; -1 for none.
        classes: int64 (C,), the label of each centre.
        own: int64 (N,), the centre of each image, -1 for none.
        centres: see `robust_centres`.
    """

    units: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    own: np.ndarray
    centres: RobustCentres


def find_centres(embeddings: np.ndarray, labels: np.ndarray) -> Centres:
    """Centres of all identities.

    Args:
        embeddings: (N, E), of any norm.
        labels: int64 (N,), -1 for images to be passed over.

    Raises:
        DataError: another number of embeddings than images, or some that are not finite or zero.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise DataError(
            f"embeddings of shape {embeddings.shape} do not fit {len(labels):,} images; expected a row each"
        )
    units = embeddings.astype(np.float32)
    norms = np.linalg.norm(units, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)) & (labels >= 0)
    if bad.any():
        raise DataError(
            f"{int(bad.sum()):,} embeddings are not finite or zero, first that of image {int(bad.argmax())}"
        )
    units /= np.where(norms > 0, norms, 1)
    classes = np.unique(labels[labels >= 0])
    if len(classes) < 2:
        raise DataError("fewer than two identities: nothing to compare")
    own = np.where(labels >= 0, np.searchsorted(classes, labels), -1)
    return Centres(units, labels, classes, own, robust_centres(lambda images: units[images], own, len(classes)))


@dataclass(frozen=True)
class Outlier:
    """An image far from the others of its identity, or nearer to another: number, cosines, and that other label."""

    image: int
    own_cosine: float
    other_label: int
    other_cosine: float


def find_outliers(found: Centres) -> list[Outlier]:
    """Images likely mislabelled, the surest first: below the threshold of `robust_centres`, or nearer to a stranger."""
    images = np.flatnonzero(found.own >= 0)
    judged = find_nearest_centres(found.centres, lambda rows: found.units[rows], found.own, images)
    own = found.centres.cosine[images]
    doubtful = np.flatnonzero((own < found.centres.threshold) | (own < judged.nearest_other_cosine))
    doubtful = doubtful[np.argsort((own - judged.nearest_other_cosine)[doubtful], kind="stable")]
    return [
        Outlier(
            int(images[i]),
            float(own[i]),
            int(found.classes[judged.nearest_other[i]]),
            float(judged.nearest_other_cosine[i]),
        )
        for i in doubtful.tolist()
    ]


def find_merges(found: Centres, least_cosine: float | None = None) -> tuple[list[tuple[int, int, float]], float]:
    """Identities likely one person: `(label, other label, cosine of their centres)`, nearest first; and the limit.

    Args:
        found: of `find_centres`.
        least_cosine: what counts; by default the median cosine of an image to the others of its own identity, so that
            two identities are as near as one is to itself.
    """
    cosine = found.centres.cosine
    limit = float(np.nanmedian(cosine)) if least_cosine is None else least_cosine
    weight = found.centres.weight
    pairs = []
    for start in track(range(0, len(weight), ROWS_AT_ONCE), "comparing identities", len(weight), ROWS_AT_ONCE):
        products = weight[start : start + ROWS_AT_ONCE] @ weight.T
        for row, column in np.argwhere(products >= limit).tolist():
            if column > start + row:
                pairs.append(
                    (int(found.classes[start + row]), int(found.classes[column]), float(products[row, column]))
                )
    return sorted(pairs, key=lambda pair: -pair[2]), limit


@dataclass(frozen=True)
class Overlap:
    """An identity that others' images come near: its label, their numbers, and the highest cosine."""

    label: int
    images: list[int]
    cosine: float


def find_overlap(found: Centres, others: np.ndarray, least_cosine: float | None = None) -> tuple[list[Overlap], float]:
    """Identities of a training set that show in other images (of an evaluation), by falling number of images.

    Args:
        found: of the training set.
        others: (M, E), embeddings of the other images, by the same model.
        least_cosine: what counts; by default what all but 0.1 % of the training images stay below towards the nearest
            centre of a *stranger*. So about 0.1 % of images of people who are not there are listed all the same.

    Returns:
        The identities, and the limit.
    """
    if others.ndim != 2 or others.shape[1] != found.units.shape[1]:
        raise DataError(f"embeddings of shape {others.shape} and {found.units.shape} are of two models")
    limit = _stranger_limit(found) if least_cosine is None else least_cosine
    norms = np.maximum(np.linalg.norm(others, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    near: dict[int, list[tuple[int, float]]] = {}
    for start in range(0, len(others), ROWS_AT_ONCE):
        block = (others[start : start + ROWS_AT_ONCE] / norms[start : start + ROWS_AT_ONCE]) @ found.centres.weight.T
        nearest = block.argmax(axis=1)
        for row in np.flatnonzero(block[np.arange(len(block)), nearest] > limit).tolist():
            label = int(found.classes[nearest[row]])
            near.setdefault(label, []).append((start + row, float(block[row, nearest[row]])))
    overlaps = [Overlap(label, [i for i, _ in hits], max(c for _, c in hits)) for label, hits in near.items()]
    return sorted(overlaps, key=lambda overlap: (-len(overlap.images), -overlap.cosine)), limit


def _stranger_limit(found: Centres) -> float:
    """What nearly all training images stay below towards the centre of a stranger.

    Images likely mislabelled and identities likely one person are left out: to those the other is no stranger.
    """
    doubtful = [outlier.image for outlier in find_outliers(found)]
    twice = [label for pair in find_merges(found)[0] for label in pair[:2]]
    is_sure = (found.own >= 0) & ~np.isin(found.labels, twice)
    is_sure[doubtful] = False
    images = np.flatnonzero(is_sure)
    if not len(images):
        raise DataError("no identity is clear enough to tell how near strangers are; give the limit by hand")
    judged = find_nearest_centres(found.centres, lambda rows: found.units[rows], found.own, images)
    return float(np.quantile(judged.nearest_other_cosine, STRANGER_QUANTILE))


def embed_images(
    embed: Callable[[np.ndarray], np.ndarray], read: Callable[[int], np.ndarray | None], count: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 (N, E) of images that are read one by one, and which could be read, bool (N,)."""
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
    embeddings = np.zeros((count, rows[0].shape[1]), dtype=np.float32)
    embeddings[usable] = np.concatenate(rows)
    return embeddings, usable


def load_embeddings(path: Path, count: int) -> np.ndarray:
    """Embeddings made elsewhere: a `.npy` of floats (N, E), a row an image in the order of the data set.

    Raises:
        DataError: another shape or type, or no such array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: is no whole .npy of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 2 or len(array) != count:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{path}: holds {found}; expected floats ({count}, E), a row for each image")
    return array.astype(np.float32)
