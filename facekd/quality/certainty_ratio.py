"""Computes certainty ratios: how much nearer an image is to the centre of its class than to any other. Pure numpy.

CR-FIQA (Boutros et al., "CR-FIQA: face image quality assessment by learning sample relative classifiability", CVPR
2023, eq. 6): the cosine to the own class centre over the largest cosine to another, which is moved by 1 to be positive.
The paper takes the rows of the classifier, in the middle of a training. A finished one has brought its rows as close to
the training images as it could, and a short one leaves rows that say little of who resembles whom
(`facekd.training.class_centres`). So the centres here are class means that mislabelled images do not move
(`facekd.head.robust_centres`), and an image is compared with the mean of the others of its class: in a class of three
it would otherwise be a third of what it is compared with. That needs no classifier, so any backbone will do.

Shapes: N images, n images asked for, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facekd.head.robust_centres import RobustCentres, UnitEmbeddings, find_nearest_centres, robust_centres
from facekd.utils.progress import track

EPSILON = 1e-9  # of the paper: another centre may lie exactly opposite
IMAGES_CHUNK = 1024


def certainty_ratios(
    embeddings: UnitEmbeddings, labels: NDArray[np.int64], images: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Computes the ratio of some images, with the classes in blocks, so that there may be millions of them.

    Args:
        embeddings: returns unit embeddings by image number.
        labels: (N,), from 0 to C - 1, -1 for images to skip.
        images: (n,), numbers of the images; each has a label.

    Returns:
        (n,): cos(own) / (cos(nearest other) + 1 + 1e-9); NaN for an image that is alone in its class.

    Raises:
        InputError: a class without images, or whose embeddings cancel out.
    """
    centres = robust_centres(embeddings, labels, int(labels.max()) + 1, track=track)
    parts = [
        _ratios(centres, embeddings, labels, images[start : start + IMAGES_CHUNK])
        for start in track(
            range(0, len(images), IMAGES_CHUNK), "comparing with class centres", len(images), IMAGES_CHUNK
        )
    ]
    return np.concatenate(parts)


def _ratios(
    centres: RobustCentres, embeddings: UnitEmbeddings, labels: NDArray[np.int64], images: NDArray[np.int64]
) -> NDArray[np.float64]:
    nearest = find_nearest_centres(centres, embeddings, labels, images)
    return centres.cosine[images] / (nearest.nearest_other_cosine.astype(np.float64) + 1 + EPSILON)
