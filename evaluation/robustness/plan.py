"""Holds which pairs are compared, and which of their images are degraded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.robustness.degraded_images import DegradedImages
from evaluation.sets.embedding_cache import ImageSubset
from evaluation.sets.pair_set import PairSet
from facekd.verification import balanced_folds

Sides = Literal["probe", "both"]
SIDES: tuple[Sides, ...] = ("probe", "both")


@dataclass(frozen=True)
class Comparisons:
    """Holds the n pairs that are compared.

    Attributes:
        pair_set: the pack that they are of.
        pairs: (n,) their numbers in it, ascending.
        is_same: bool (n,).
        fold_of: (n,) the fold of each.
        subjects: (n, 2) names, or None.
    """

    pair_set: PairSet
    pairs: np.ndarray
    is_same: np.ndarray
    fold_of: np.ndarray
    subjects: np.ndarray | None

    def clean_images(self) -> ImageSubset:
        """Returns the 2n images as they are: first and second of pair 0, first and second of pair 1, and so on."""
        return ImageSubset(self.pair_set, _places(self.pairs, "both"))

    def degraded_images(self, name: str, strength: float, sides: Sides, seed: int) -> DegradedImages:
        """Returns the images that are degraded: all 2n, or for "probe" the n second ones."""
        places = _places(self.pairs, sides)
        whole = ImageSubset(self.pair_set, places)
        digests = [hashlib.sha256(self.pair_set.images[place]).digest() for place in places.tolist()]
        return DegradedImages(whole, digests, name, strength, seed)


def choose_comparisons(pair_set: PairSet, sample: int | None, seed: int) -> Comparisons:
    """Returns all pairs of a pack, or `sample` of them drawn at random, half of each kind if there are as many.

    Drawn pairs get balanced folds, as many as the pack has, or fewer if there are not as many pairs of a kind.

    Args:
        pair_set: the pack.
        sample: number of pairs; None or more than there are for all.
        seed: random seed of the drawing.
    """
    if sample is None or sample >= len(pair_set):
        pairs = np.arange(len(pair_set))
        return Comparisons(pair_set, pairs, pair_set.is_same, pair_set.fold_of, pair_set.subjects)
    # Half of each kind; where one has fewer, more of the other.
    genuine, impostor = (np.flatnonzero(pair_set.is_same == kind) for kind in (True, False))
    num_genuine = min(len(genuine), max(sample // 2, sample - len(impostor)))
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(genuine, num_genuine, replace=False), rng.choice(impostor, sample - num_genuine, replace=False)]
    pairs = np.sort(np.concatenate(drawn))
    is_same = pair_set.is_same[pairs]
    folds = min(pair_set.num_folds, *map(len, drawn))
    subjects = None if pair_set.subjects is None else pair_set.subjects[pairs]
    return Comparisons(pair_set, pairs, is_same, balanced_folds(is_same, folds), subjects)


def _places(pairs: np.ndarray, sides: Sides) -> np.ndarray:
    """Returns the places of images in the pack, ascending."""
    return 2 * pairs + 1 if sides == "probe" else np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)
