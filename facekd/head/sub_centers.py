"""Finds the dominant one of the sub-centres of each class, and how far the images are from it. Pure numpy.

Sub-center ArcFace (Deng et al., ECCV 2020, sec. 3.4): with K centres for each class, its clean images gather around one
of them, and wrong labels and hard images around the others. The dominant centre is the one that most images are nearest
to. An image far from it, 75 degrees in the paper, is likely to be wrongly labelled.

Shapes: N images, C classes, K sub-centres, D embedding size, n images of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import InputError
from facekd.utils.wording import counted
from facekd.verification.scores import unit_rows

IMAGES_CHUNK = 4096

# Image numbers (B,) -> unit embeddings (B, D), float32.
UnitEmbeddings = Callable[[NDArray[np.int64]], NDArray[np.float32]]
Track = Callable[[range, str, int, int], Iterable[int]]


@dataclass(frozen=True)
class DominantCentres:
    """Holds the dominant centre of each class.

    Attributes:
        weight: (C, D) float32, the dominant centres, of the length that they had.
        number: (C,) int64, which sub-centre it is; the first one for a class without images.
        num_nearest: (C, K) int64, images that are nearest to each sub-centre of their class.
        cosine: (N,) float32, cosine of each image to the dominant centre of its class; NaN for an image without label.
    """

    weight: NDArray[np.float32]
    number: NDArray[np.int64]
    num_nearest: NDArray[np.int64]
    cosine: NDArray[np.float32]

    def is_far(self, angle: float) -> NDArray[np.bool_]:
        """Marks the images (N,) that are further than an angle, in degrees, from the dominant centre of their class."""
        return self.cosine < np.cos(np.deg2rad(angle))


def find_dominant_centres(
    embeddings: UnitEmbeddings, labels: NDArray[np.int64], weight: NDArray[np.float32], sub_centers: int, track: Track
) -> DominantCentres:
    """Finds the centre of each class that most of its images are nearest to; of equal ones, the first.

    Args:
        embeddings: returns unit embeddings by image number.
        labels: (N,), -1 for images to skip.
        weight: (C, K D), the sub-centres of a class one behind the other, of any length but 0.
        sub_centers: K.
        track: shows progress over a range, with a short description, a total and a step.

    Raises:
        InputError: the weight does not consist of so many centres, or a label is none of its classes.
    """
    # The sub-centres as directions.
    if weight.ndim != 2 or sub_centers < 1 or weight.shape[1] % sub_centers:
        raise InputError(f"a weight of {weight.shape} does not have {counted(sub_centers, 'centre')} in each row")
    if len(labels) and labels.max() >= len(weight):
        raise InputError(f"label {labels.max()} is none of the {counted(len(weight), 'class')} of the classifier")
    centres = weight.reshape(len(weight), sub_centers, -1)
    units = unit_rows(weight.reshape(len(weight) * sub_centers, -1), None).reshape(centres.shape)

    # Cosines of the labelled images to all centres of their classes.
    labelled = np.flatnonzero(labels >= 0)
    cosines = np.empty((len(labelled), sub_centers), np.float32)
    for start in track(range(0, len(labelled), IMAGES_CHUNK), "finding dominant centres", len(labelled), IMAGES_CHUNK):
        images = labelled[start : start + IMAGES_CHUNK]
        cosines[start : start + IMAGES_CHUNK] = np.einsum("nd,nkd->nk", embeddings(images), units[labels[images]])

    # Count for each centre the images that it is nearest to, and keep the cosine to the one with most.
    nearest, own_class = cosines.argmax(axis=1), labels[labelled]
    counts = np.bincount(own_class * sub_centers + nearest, minlength=len(weight) * sub_centers)
    num_nearest = counts.reshape(len(weight), sub_centers)
    number = num_nearest.argmax(axis=1)
    cosine = np.full(len(labels), np.nan, np.float32)
    cosine[labelled] = cosines[np.arange(len(labelled)), number[own_class]]
    kept = centres[np.arange(len(weight)), number].astype(np.float32)
    return DominantCentres(kept, number, num_nearest, cosine)
