"""Class centres from embeddings, such that a few mislabelled images do not move them. Pure numpy.

The mean direction of a class follows every image in it: one stranger among five photos pulls it a fifth of the way. Web
data has strangers in most classes, so the centre here is a *reweighted* estimate, the construction of robust statistics
that keeps its start's resistance to up to half of the images being wrong and the plain mean's efficiency where none is
(Rousseeuw and Leroy, "Robust Regression and Outlier Detection", 1987, ch. 7; Lopuhaä and Rousseeuw, "Breakdown points
of affine equivariant estimators of multivariate location and covariance matrices", Annals of Statistics 19, 1991):

1. Start: the spatial median of the class (the point of least summed distance, by Weiszfeld's iteration), and the
   n // 2 + 1 images nearest to it.
2. Threshold, one for all classes: median - 5 x 1.4826 MAD of the cosines between images and the centres of step 1, at
   least 0.1 below the median and not below 0. 1.4826 MAD estimates a standard deviation, and half of the images being
   wrong do not move it far; 5 of them rather than the usual 3, for cosines have a longer tail to the left (on 3,442
   photos of LFW with 10 % of the labels exchanged, all of those were left out either way, and of the others 2.8 %
   with 3 and 0.5 % with 5). It is pooled since a class of five photos says little
   about its own spread, and taken from the data since cosines differ from teacher to teacher. The same device with a
   fixed 75 degrees, cosine 0.26, cleans the training set in sub-center ArcFace (Deng et al., ECCV 2020, sec. 3.4);
   `min_cosine` fixes it here.
3. Repeat until nothing changes: the centre is the mean direction of the images kept, those kept are the images whose
   cosine to it reaches the threshold. Each image is compared with the centre of the *others*, otherwise in a class
   of three a stranger supports itself. The n // 2 + 1 nearest are kept in any case: someone who looks different in
   every photo keeps a centre from the majority of them.
4. Steps 2 and 3 again, the threshold now from the images kept, until it settles: with many strangers the first one is
   too low.

In a class of two images that disagree nobody can tell which is wrong: both are kept, and both are reported.

Shapes: N images, C classes, E embedding size, n images of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import InputError

DEVIATIONS = 5.0
MAD_TO_DEVIATION = 1.4826
SMALLEST_SPREAD = 0.1
MAX_ROUNDS = 20
MAX_THRESHOLDS = 5
THRESHOLD_SETTLES = 0.01
NUM_NAMED = 10
CLASSES_AT_ONCE = 8192  # columns of one block of cosines

# Image numbers (B,) -> unit embeddings (B, E), float32.
UnitEmbeddings = Callable[[NDArray[np.int64]], NDArray[np.float32]]
Track = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class ClassCentres:
    """Centres of all classes, and how each image lies to its own.

    Attributes:
        weight: (C, E) float32, unit rows.
        cosine: (N,) float32, cosine of each image to the centre of the *other* images kept in its class; NaN for an
            image alone in its class, or without a label.
        is_kept: (N,) bool, whether the image is part of its centre.
        threshold: below it an image is far from its centre.
    """

    weight: NDArray[np.float32]
    cosine: NDArray[np.float32]
    is_kept: NDArray[np.bool_]
    threshold: float

    @property
    def is_far(self) -> NDArray[np.bool_]:
        """(N,), which images lie further from their centre than the threshold; a few of them may be kept."""
        return self.cosine < self.threshold


@dataclass(frozen=True)
class Judgement:
    """What the centres make of some images.

    Attributes:
        is_correct: (B,) whether the own centre is the nearest.
        is_correct_left_out: (B,) the same with the own centre computed without the image; False where the image is
            alone in its class, see `is_alone`.
        is_alone: (B,) images that cannot be left out, for their class has no other.
        nearest_other: (B,) the nearest class that is not the image's own; -1 where there is only one class.
        nearest_other_cosine: (B,) and how near.
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
) -> ClassCentres:
    """Compute class centres by the scheme above. Memory: one class at a time, beside what `embeddings` holds.

    Args:
        embeddings: gives unit embeddings by image number.
        labels: (N,), -1 for images to be passed over.
        num_classes: C.
        min_cosine: fixes the threshold of step 2; None takes it from the data.
        track: shows progress over a range, given a few words.

    Raises:
        InputError: classes without images, by number; or a threshold that is no cosine.
    """
    if min_cosine is not None and not -1 <= min_cosine <= 1:
        raise InputError(f"min_cosine is {min_cosine}: expected a cosine, from -1 to 1")
    classes = _images_by_class(labels, num_classes)
    is_kept = np.zeros(len(labels), dtype=np.bool_)
    cosine = np.full(len(labels), np.nan, dtype=np.float32)
    for number in track(range(num_classes), "finding class centres"):
        images = classes[number]
        units = embeddings(images)
        is_kept[images] = _nearest(units @ _unit(_spatial_median(units)))
        cosine[images] = _cosine_to_others(units, is_kept[images])
    weight = np.empty((num_classes, 0), np.float32)
    # First over all images: the half that is nearest would look closer together than a class is.
    threshold = _threshold(cosine[np.isfinite(cosine)]) if min_cosine is None else float(min_cosine)
    for attempt in range(MAX_THRESHOLDS):
        if attempt > 0 and min_cosine is None:
            settled = _threshold(cosine[np.isfinite(cosine) & is_kept])
            if abs(settled - threshold) < THRESHOLD_SETTLES:
                break
            threshold = settled
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
    return ClassCentres(weight, cosine, is_kept, threshold)


def judge_centres(
    centres: ClassCentres, embeddings: UnitEmbeddings, labels: NDArray[np.int64], images: NDArray[np.int64]
) -> Judgement:
    """Classify some images by their nearest centre, with and without the image's own share in its centre.

    Leaving an image out takes it out of its class's mean; who else was kept is not decided again.

    Args:
        centres: of `robust_centres`.
        embeddings: gives unit embeddings by image number.
        labels: (N,), all of them.
        images: (B,), numbers of the images to classify, none of them without a label.
    """
    units, own_class = embeddings(images), labels[images]
    nearest_other = np.full(len(images), -1, dtype=np.int64)
    best = np.full(len(images), -np.inf, dtype=np.float32)
    rows = np.arange(len(images))
    for start in range(0, len(centres.weight), CLASSES_AT_ONCE):
        block = units @ centres.weight[start : start + CLASSES_AT_ONCE].T
        inside = (own_class >= start) & (own_class < start + block.shape[1])
        block[rows[inside], own_class[inside] - start] = -np.inf
        column = block.argmax(axis=1)
        better = block[rows, column] > best
        best[better] = block[rows, column][better]
        nearest_other[better] = start + column[better]
    own = np.einsum("be,be->b", units, centres.weight[own_class])
    left_out = centres.cosine[images]
    return Judgement(own > best, left_out > best, np.isnan(left_out), nearest_other, best)


def _images_by_class(labels: NDArray[np.int64], num_classes: int) -> list[NDArray[np.int64]]:
    """The images of each class, in order."""
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty) or not num_classes:
        named = ", ".join(map(str, empty[:NUM_NAMED].tolist())) + (", ..." if len(empty) > NUM_NAMED else "")
        raise InputError(
            f"{len(empty):,} of {num_classes:,} identities have no image, and so no centre: labels {named}"
        )
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    return list(_split(order, counts))


def _split(order: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    ends = np.cumsum(counts)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        yield order[end - count : end]


def _nearest(cosine: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The n // 2 + 1 largest of n."""
    chosen = np.zeros(len(cosine), dtype=np.bool_)
    chosen[np.argsort(-cosine, kind="stable")[: len(cosine) // 2 + 1]] = True
    return chosen


def _leave_out_strangers(
    units: NDArray[np.float32], kept: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Step 3: which of a class's images (n, E) are kept (n,), and the sum of those (E,)."""
    for step in range(MAX_ROUNDS):
        cosine = _cosine_to_others(units, kept)
        # NaN, an image alone, is no reason to leave it out.
        updated = ~(cosine < threshold)
        if step >= MAX_ROUNDS // 2:
            updated &= kept  # two images may take turns: by now one that leaves stays away
        updated |= _nearest(cosine)
        if (updated == kept).all():
            break
        kept = updated
    return kept, units[kept].sum(axis=0, dtype=np.float64)


def _cosine_to_others(units: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n,) cosine of each image to the mean of the kept ones, itself left out; NaN where there is no other."""
    others = units[kept].sum(axis=0, dtype=np.float64) - units.astype(np.float64) * kept[:, None]
    lengths = np.linalg.norm(others, axis=1)
    has_others = kept.sum() - kept > 0
    products = np.einsum("ne,ne->n", units, others)
    # Others that cancel out point nowhere: as good as at right angles.
    cosine = np.divide(products, lengths, out=np.zeros(len(units)), where=lengths > 1e-12)
    return np.where(has_others, cosine, np.nan).astype(np.float32)


def _spatial_median(units: NDArray[np.float32]) -> NDArray[np.float64]:
    """The point with the least sum of distances to the rows (n, E), by Weiszfeld's iteration from their mean."""
    median = units.mean(axis=0, dtype=np.float64)
    for _ in range(MAX_ROUNDS):
        # Bounded, for the iteration divides by zero where the median reaches an image (Vardi and Zhang, PNAS 2000).
        weights = 1 / np.maximum(np.linalg.norm(units - median, axis=1), 1e-3)
        updated = weights @ units / weights.sum()
        moved, median = float(np.linalg.norm(updated - median)), updated
        if moved < 1e-4:
            break
    return median


def _threshold(cosine: NDArray[np.float32]) -> float:
    if not len(cosine):
        return 0.0
    middle = float(np.median(cosine))
    spread = DEVIATIONS * MAD_TO_DEVIATION * float(np.median(np.abs(cosine - middle)))
    return max(middle - max(spread, SMALLEST_SPREAD), 0.0)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
