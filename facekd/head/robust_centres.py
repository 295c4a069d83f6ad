"""Computes class centres from embeddings that a few mislabelled images do not move. Pure numpy.

The mean direction of a class follows every image in it: one stranger among five photos pulls it a fifth of the way. Web
data has strangers in most classes. So the centre here is a *reweighted* estimate as in robust statistics: it resists up
to half of the images being wrong, as its starting point does, and is as efficient as the plain mean where none is wrong
(Rousseeuw and Leroy, "Robust Regression and Outlier Detection", 1987, ch. 7; Lopuhaä and Rousseeuw, "Breakdown points
of affine equivariant estimators of multivariate location and covariance matrices", Annals of Statistics 19, 1991):

1. Start from the spatial median of the class (the point with the least sum of distances, by Weiszfeld's iteration) and
   keep the n // 2 + 1 images nearest to it.
2. Compute one threshold for all classes: median - 5 x 1.4826 MAD of the cosines between images and the centres of step
   1, at least 0.1 below the median and never below 0. 1.4826 MAD estimates a standard deviation, and stays close to it
   while fewer than half of the images are wrong. 5 deviations instead of the usual 3, because cosines have a longer
   tail to the left: on 3,442 photos of LFW with 10 % of the labels exchanged, both left all of those out, and 2.8 %
   (with 3) or 0.5 % (with 5) of the others. The threshold is pooled because a class of five photos says little about
   its own spread, and taken from the data because cosines differ from teacher to teacher. Sub-center ArcFace cleans its
   training set in the same way with a fixed 75 degrees, cosine 0.26 (Deng et al., ECCV 2020, sec. 3.4); `min_cosine`
   sets a fixed threshold here.
3. Repeat until nothing changes: the centre is the mean direction of the kept images, and kept are the images whose
   cosine to it reaches the threshold. Each image is compared with the centre of the *others*; otherwise a stranger in a
   class of three would support itself. The n // 2 + 1 nearest images are always kept, so someone who looks different
   in every photo still has a centre, made from the majority of them.
4. Repeat steps 2 and 3 with the threshold computed from the kept images, until it settles: with many strangers the
   first threshold is too low.

If the two images of a class disagree, nothing shows which one is wrong: both are kept, and both are reported.

Shapes: N images, C classes, E embedding size, n images of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted

DEVIATIONS = 5.0  # how far below the median the threshold lies
MAD_TO_DEVIATION = 1.4826  # median absolute deviation to standard deviation, for normal numbers
SMALLEST_SPREAD = 0.1  # in cosine: the threshold is at least this far below the median
MAX_ROUNDS = 20  # of one iteration
MAX_THRESHOLDS = 5  # the most thresholds that step 4 computes
THRESHOLD_SETTLES = 0.01  # a change smaller than this ends step 4
NUM_NAMED = 10  # classes that a message lists
CLASSES_CHUNK = 8192  # columns of one block of cosines

# Image numbers (B,) -> unit embeddings (B, E), float32.
UnitEmbeddings = Callable[[NDArray[np.int64]], NDArray[np.float32]]
Track = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class RobustCentres:
    """Holds the centres of all classes, and how close each image is to its own.

    Attributes:
        weight: (C, E) float32, unit rows.
        cosine: (N,) float32, cosine of each image to the centre of the *other* kept images of its class; NaN for an
            image that is alone in its class or has no label.
        is_kept: (N,) bool, whether the image is part of its centre.
        threshold: an image with a smaller cosine is far from its centre.
    """

    weight: NDArray[np.float32]
    cosine: NDArray[np.float32]
    is_kept: NDArray[np.bool_]
    threshold: float

    @property
    def is_far(self) -> NDArray[np.bool_]:
        """Marks the images (N,) that are further from their centre than the threshold; a few of these may be kept."""
        return self.cosine < self.threshold


@dataclass(frozen=True)
class NearestCentres:
    """Holds the result of classifying some images by their nearest centre.

    Attributes:
        is_correct: (B,) whether the image's own centre is the nearest.
        is_correct_left_out: (B,) the same with the own centre computed without the image; False where the image is
            alone in its class, see `is_alone`.
        is_alone: (B,) whether the image is the only one of its class, so that it cannot be left out.
        nearest_other: (B,) the nearest class other than the image's own; -1 where there is only one class.
        nearest_other_cosine: (B,) cosine to that class's centre.
    """

    is_correct: NDArray[np.bool_]
    is_correct_left_out: NDArray[np.bool_]
    is_alone: NDArray[np.bool_]
    nearest_other: NDArray[np.int64]
    nearest_other_cosine: NDArray[np.float32]


def _untracked(steps: range, description: str) -> Iterable[int]:
    return steps


def robust_centres(
    embeddings: UnitEmbeddings,
    labels: NDArray[np.int64],
    num_classes: int,
    min_cosine: float | None = None,
    track: Track = _untracked,
) -> RobustCentres:
    """Computes class centres by the scheme above, with the embeddings of one class in memory at a time.

    Args:
        embeddings: returns unit embeddings by image number.
        labels: (N,), -1 for images to skip.
        num_classes: C.
        min_cosine: a fixed threshold for step 2; None computes it from the data.
        track: shows progress over a range, with a short description.

    Raises:
        InputError: classes without images, by number; or a threshold that is not a cosine.
    """
    if min_cosine is not None and not -1 <= min_cosine <= 1:
        raise InputError(f"min_cosine is {min_cosine}: expected a cosine, from -1 to 1")
    classes = _images_by_class(labels, num_classes)
    is_kept = np.zeros(len(labels), dtype=np.bool_)
    cosine = np.full(len(labels), np.nan, dtype=np.float32)
    # Step 1, class by class.
    for number in track(range(num_classes), "finding class centres"):
        images = classes[number]
        units = embeddings(images)
        is_kept[images] = _nearest(units @ _unit(_spatial_median(units)))
        cosine[images] = _cosine_to_others(units, is_kept[images])
    weight = np.empty((num_classes, 0), np.float32)
    # Step 2. The first threshold is over all images: the nearest half would look closer together than a class is.
    threshold = _threshold(cosine[np.isfinite(cosine)]) if min_cosine is None else float(min_cosine)
    for attempt in range(MAX_THRESHOLDS):
        # Step 4: a new threshold from the kept images, unless it has settled.
        if attempt > 0 and min_cosine is None:
            settled = _threshold(cosine[np.isfinite(cosine) & is_kept])
            if abs(settled - threshold) < THRESHOLD_SETTLES:
                break
            threshold = settled
        # Step 3.
        for number in track(range(num_classes), "leaving out strangers"):
            images = classes[number]
            units = embeddings(images)
            kept, centre = _leave_out_strangers(units, is_kept[images], threshold)
            if not np.linalg.norm(centre) > 0:
                raise InputError(f"the embeddings of class {number} cancel out, so it has no centre")
            if not weight.size:
                weight = np.empty((num_classes, units.shape[1]), np.float32)
            weight[number] = _unit(centre)
            is_kept[images], cosine[images] = kept, _cosine_to_others(units, kept)
        if min_cosine is not None:
            break
    return RobustCentres(weight, cosine, is_kept, threshold)


def find_nearest_centres(
    centres: RobustCentres, embeddings: UnitEmbeddings, labels: NDArray[np.int64], images: NDArray[np.int64]
) -> NearestCentres:
    """Classifies some images by their nearest centre, with the image in its own centre and with it left out.

    Leaving an image out removes it from its class's mean; which other images are kept stays the same.

    Args:
        centres: result of `robust_centres`.
        embeddings: returns unit embeddings by image number.
        labels: (N,), labels of all images.
        images: (B,), numbers of the images to classify; each has a label.
    """
    units, own_class = embeddings(images), labels[images]
    nearest_other = np.full(len(images), -1, dtype=np.int64)
    best = np.full(len(images), -np.inf, dtype=np.float32)
    rows = np.arange(len(images))
    # The nearest class other than the image's own, in blocks of classes.
    for start in range(0, len(centres.weight), CLASSES_CHUNK):
        block = units @ centres.weight[start : start + CLASSES_CHUNK].T
        inside = (own_class >= start) & (own_class < start + block.shape[1])
        block[rows[inside], own_class[inside] - start] = -np.inf
        column = block.argmax(axis=1)
        better = block[rows, column] > best
        best[better] = block[rows, column][better]
        nearest_other[better] = start + column[better]
    # Against that: the image's own centre, and the same without the image.
    own = np.einsum("be,be->b", units, centres.weight[own_class])
    left_out = centres.cosine[images]
    return NearestCentres(own > best, left_out > best, np.isnan(left_out), nearest_other, best)


def _images_by_class(labels: NDArray[np.int64], num_classes: int) -> list[NDArray[np.int64]]:
    """Returns the numbers of each class's images, ascending.

    Raises:
        InputError: a class has no image.
    """
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty) or not num_classes:
        named = ", ".join(map(str, empty[:NUM_NAMED].tolist())) + (", ..." if len(empty) > NUM_NAMED else "")
        raise InputError(
            f"{len(empty):,} of {counted(num_classes, 'identity')} {agreeing(len(empty), 'has', 'have')} no image, "
            f"and so no centre: labels {named}"
        )
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    return list(_split(order, counts))


def _split(order: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    ends = np.cumsum(counts)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        yield order[end - count : end]


def _nearest(cosine: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Marks the n // 2 + 1 largest of n cosines."""
    chosen = np.zeros(len(cosine), dtype=np.bool_)
    chosen[np.argsort(-cosine, kind="stable")[: len(cosine) // 2 + 1]] = True
    return chosen


def _leave_out_strangers(
    units: NDArray[np.float32], kept: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Runs step 3 for one class: returns which of its images (n, E) are kept (n,), and their sum (E,)."""
    for step in range(MAX_ROUNDS):
        cosine = _cosine_to_others(units, kept)
        # Written so that NaN, an image alone in its class, counts as kept.
        updated = ~(cosine < threshold)
        if step >= MAX_ROUNDS // 2:
            updated &= kept  # two images may alternate: from here on, an image that was left out stays out
        updated |= _nearest(cosine)
        if (updated == kept).all():
            break
        kept = updated
    return kept, units[kept].sum(axis=0, dtype=np.float64)


def _cosine_to_others(units: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Computes the cosine (n,) of each image to the mean of the other kept images; NaN where there is no other."""
    others = units[kept].sum(axis=0, dtype=np.float64) - units.astype(np.float64) * kept[:, None]
    lengths = np.linalg.norm(others, axis=1)
    has_others = kept.sum() - kept > 0
    products = np.einsum("ne,ne->n", units, others)
    # Others that cancel out have no direction: their cosine counts as 0.
    cosine = np.divide(products, lengths, out=np.zeros(len(units)), where=lengths > 1e-12)
    return np.where(has_others, cosine, np.nan).astype(np.float32)


def _spatial_median(units: NDArray[np.float32]) -> NDArray[np.float64]:
    """Finds the point with the least sum of distances to the rows (n, E), by Weiszfeld's iteration from their mean."""
    median = units.mean(axis=0, dtype=np.float64)
    for _ in range(MAX_ROUNDS):
        # Distances are bounded from below: the iteration divides by 0 where the median reaches an image (Vardi and
        # Zhang, PNAS 2000).
        weights = 1 / np.maximum(np.linalg.norm(units - median, axis=1), 1e-3)
        updated = weights @ units / weights.sum()
        moved, median = float(np.linalg.norm(updated - median)), updated
        if moved < 1e-4:
            break
    return median


def _threshold(cosine: NDArray[np.float32]) -> float:
    """Computes the threshold of step 2 from cosines of all classes."""
    if not len(cosine):
        return 0.0
    middle = float(np.median(cosine))
    spread = DEVIATIONS * MAD_TO_DEVIATION * float(np.median(np.abs(cosine - middle)))
    return max(middle - max(spread, SMALLEST_SPREAD), 0.0)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
