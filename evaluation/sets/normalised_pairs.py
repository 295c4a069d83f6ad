"""Lists all pairs of the images of people and normalises their scores, which `AllPairs` cannot: it counts cosines."""

from __future__ import annotations

import numpy as np

from evaluation.ijb.scoring import score_pairs_exactly
from evaluation.sets.cohort import Normaliser
from facekd.errors import InputError
from facekd.utils.wording import counted
from facekd.verification.ranked_scores import RankedScores

MAX_PAIRS = 20_000_000  # all are listed: 6,325 images


class NormalisedPairs:
    """Holds the normalised scores of every pair of different images, once each; P of N images.

    Args:
        embeddings: float64 (N, D) of unit length.
        people: (N,) names or numbers.
        normaliser: how scores are normalised; the first image of a pair is the one that is listed first.

    Attributes:
        scores, is_same: (P,).
        first, second: int32 (P,), the images of each pair.
        people: (N,) the person of each image, numbered in order of the names.
        ranked: the scores, ranked.
        num_genuine_people: number of people with several images.

    Raises:
        InputError: too many pairs, or pairs of one kind only.
        DataError: the cohort does not fit.
    """

    def __init__(self, embeddings: np.ndarray, people: np.ndarray, normaliser: Normaliser) -> None:
        count = len(people)
        if count * (count - 1) // 2 > MAX_PAIRS:
            raise InputError(
                f"{counted(count, 'image')} make more than the {MAX_PAIRS:,} pairs that --score-norm takes; "
                "--images-per-person takes fewer"
            )
        self.people: np.ndarray = np.unique(people, return_inverse=True)[1]
        first, second = np.triu_indices(count, 1)
        self.first, self.second = first.astype(np.int32), second.astype(np.int32)
        cosines = score_pairs_exactly(embeddings, self.first, self.second)
        self.scores: np.ndarray = normaliser.apply(cosines, embeddings, self.first, self.second)
        self.is_same: np.ndarray = self.people[self.first] == self.people[self.second]
        if self.is_same.all() or not self.is_same.any():
            raise InputError("pairs of one and of two people are needed")
        self.ranked: RankedScores = RankedScores(self.scores[self.is_same], self.scores[~self.is_same])
        self.num_genuine_people = int((np.bincount(self.people) > 1).sum())

    def sides(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what belongs to the first and to the second image of each pair, (P,) each, of values (N,)."""
        return values[self.first], values[self.second]
