"""Computes what a quality head learns, between 0 and 1, from the embeddings of a labelled data set.

Shapes: N images, n of them to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from facekd.errors import InputError
from facekd.head.robust_centres import UnitEmbeddings
from facekd.quality.certainty_ratio import certainty_ratios
from facekd.quality.similarity_distance import similarity_distances
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import counted

TargetName = Literal["cr", "sdd"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)
IN_WORDS = {
    "cr": "certainty ratio (CR-FIQA): cosine to the own class centre / (1 + cosine to the nearest other)",
    "sdd": "similarity distribution distance (SDD-FIQA): Wasserstein, genuine to impostor cosines",
}
TAIL = 1.0  # percent of the images at each end that become 0 or 1
FEWEST = 10  # images: fewer have no hundredth parts


@dataclass(frozen=True)
class Targets:
    """Holds what to learn of some images.

    Attributes:
        images: (n,) their numbers, ascending.
        raw: (n,) their certainty ratios or distances.
        scaled: (n,) the same from 0 to 1.
        low, high: the raw values that became 0 and 1.
    """

    images: NDArray[np.int64]
    raw: NDArray[np.float64]
    scaled: NDArray[np.float64]
    low: float
    high: float


def make_targets(
    name: TargetName, embeddings: UnitEmbeddings, labels: NDArray[np.int64], num_images: int, seed: int = 0
) -> Targets:
    """Computes the targets of up to `num_images` images, evenly spread over the data.

    Both targets are brought to 0 .. 1 in the same way: the lowest hundredth of the images becomes 0, the highest 1, and
    what lies between stays in proportion.

    Args:
        name: "cr" or "sdd".
        embeddings: returns unit embeddings by image number.
        labels: (N,), -1 for images to skip.
        num_images: the most images.
        seed: random seed of what is drawn.

    Raises:
        InputError: fewer than two people with several images, fewer than ten images of such, or one value for all.
    """
    # Labels without images are left out of the count.
    labelled = np.flatnonzero(labels >= 0)
    people, numbers = np.unique(labels[labelled], return_inverse=True)
    if len(people) < 2:
        raise InputError(
            f"the data shows {counted(len(people), 'person')}, and quality is learnt by telling people apart"
        )
    dense = np.full(len(labels), -1, np.int64)
    dense[labelled] = numbers

    # An image that is the only one of its person has nothing to be compared with.
    candidates = labelled[np.bincount(numbers)[numbers] > 1]
    chosen = candidates[spread_evenly(len(candidates), num_images)]
    if len(chosen) >= FEWEST:
        compute = {
            "cr": lambda: certainty_ratios(embeddings, dense, chosen),
            "sdd": lambda: similarity_distances(embeddings, dense, chosen, seed),
        }
        raw = compute[name]()
        chosen, raw = chosen[np.isfinite(raw)], raw[np.isfinite(raw)]
    if len(chosen) < FEWEST:
        raise InputError(
            f"quality can be learnt from {counted(len(chosen), 'image')} only, those of people with two images or "
            f"more; at least {FEWEST} are needed, and thousands are better"
        )
    if len(np.unique(labels[chosen])) < 2:
        raise InputError("only one person has several images, and some people are held out: add images of others")
    low, high = (float(value) for value in np.percentile(raw, [TAIL, 100 - TAIL]))
    if not low < high:
        raise InputError(f"all images have the same target, {low:g}, so there is nothing to learn")
    return Targets(chosen, raw, np.clip((raw - low) / (high - low), 0, 1), low, high)
