"""Computes how far an image's genuine similarities lie from its impostor similarities. Pure numpy and scipy.

SDD-FIQA (Ou et al., "SDD-FIQA: unsupervised face image quality assessment with similarity distribution distance", CVPR
2021, eq. 5 to 7): the Wasserstein distance between the cosines of an image to others of its person and those to other
people. The paper draws as many impostors as there are genuine images, a dozen times, and takes the mean. Here all
images are compared with the same drawn references, once: more impostors for each, by one matrix product.

Shapes: N images, n images asked for, R references, m images of one person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facekd.head.robust_centres import UnitEmbeddings
from facekd.utils.progress import track

REFERENCES = 1024  # images that all others are compared with
MOST_GENUINE = 64  # images of a person that one of them is compared with


def similarity_distances(
    embeddings: UnitEmbeddings,
    labels: NDArray[np.int64],
    images: NDArray[np.int64],
    seed: int = 0,
    num_references: int = REFERENCES,
    most_genuine: int = MOST_GENUINE,
) -> NDArray[np.float64]:
    """Computes the distance of some images.

    Args:
        embeddings: returns unit embeddings by image number.
        labels: (N,), -1 for images to skip.
        images: (n,), numbers of the images; each has a label.
        seed: random seed of the draws.
        num_references: R, or all images with a label if there are fewer.
        most_genuine: images of the same person that an image is compared with, drawn if there are more.

    Returns:
        (n,), from 0 to 2; NaN for an image without another of its person, or without a reference of somebody else.
    """
    # The references: the same for every image.
    labelled = np.flatnonzero(labels >= 0)
    chosen = np.random.default_rng([seed, 0]).permutation(labelled)[:num_references]
    references, people = embeddings(chosen), labels[chosen]

    # Person by person, so that the embeddings of one are in memory at a time.
    found = np.full(len(images), np.nan)
    order = np.argsort(labels[images], kind="stable")
    starts = np.flatnonzero(np.diff(labels[images][order], prepend=-1))
    members = _images_by_label(labels)
    for places in track(np.split(order, starts[1:]), "comparing people"):
        label = int(labels[images[places[0]]])
        same, is_other = members[label], people != label
        if len(same) < 2 or not is_other.any():
            continue
        units = embeddings(same)
        own = np.searchsorted(same, images[places])
        genuine, impostor = units[own] @ units.T, units[own] @ references[is_other].T
        draws = np.random.default_rng([seed, 1, label])
        for place, row, near, far in zip(places, own.tolist(), genuine, impostor, strict=True):
            found[place] = _distance(_drawn(np.delete(near, row), most_genuine, draws), far)
    return found


def _images_by_label(labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Returns the numbers of each person's images, ascending."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return {int(labels[part[0]]): part for part in np.split(order, starts)}


def _drawn(values: NDArray[np.float32], most: int, draws: np.random.Generator) -> NDArray[np.float32]:
    return values if len(values) <= most else draws.choice(values, most, replace=False)


def _distance(genuine: NDArray[np.float32], impostor: NDArray[np.float32]) -> float:
    from scipy.stats import wasserstein_distance  # not at the top: it takes a second to import

    return float(wasserstein_distance(genuine, impostor))
