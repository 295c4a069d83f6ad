"""Compares all pairs of the images of people, block by block, with the exact metrics of float64 scores.

The memory depends on the number of images, not of pairs: `evaluation.sets.binned_scores` says how.

Shapes: N images, D embedding values, S people, G genuine pairs, R draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from evaluation.ijb.scoring import score_error, score_pairs_exactly
from evaluation.sets import binned_scores
from evaluation.sets.binned_scores import Block, bins_of, count_scores, rank_binned
from facekd.errors import InputError
from facekd.utils.wording import counted
from facekd.verification.intervals.subject_bootstrap import Tail

CELLS_CHUNK = 8_000_000  # cells of one product: 32 MB
MAX_GENUINE = 20_000_000  # genuine scores are all kept


class AllPairs:
    """Ranks the scores of every pair of different images, once each, and lends the highest to a bootstrap over people.

    It is a `Comparisons` of `facekd.verification.intervals.subject_bootstrap`; units are the people, in order of their
    names.

    Args:
        embeddings: float64 (N, D) of unit length.
        people: (N,) names or numbers.
        fars: targets at which TAR will be measured.

    Attributes:
        ranked: the scores. TAR at `fars` and EER are those of float64 scores; the AUC differs by less than 1e-5.
        genuine, genuine_units, num_impostor, num_units: see `Comparisons`.
        num_genuine_people: number of people with several images.

    Raises:
        InputError: pairs of one kind only, too many genuine ones, or a processor whose products are not repeatable.
    """

    def __init__(self, embeddings: np.ndarray, people: np.ndarray, fars: Sequence[float]) -> None:
        # The images person by person: the impostors of an image are then all after the last of its person.
        codes = np.unique(people, return_inverse=True)[1]
        order = np.argsort(codes, kind="stable")
        self._exact, self._codes, self._order = embeddings[order], codes[order], order
        self._single = self._exact.astype(np.float32)
        self._images_each = np.bincount(self._codes)
        self._ends = np.cumsum(self._images_each)[self._codes]
        self.num_units, self.num_genuine_people = len(self._images_each), int((self._images_each > 1).sum())
        num_genuine = int((self._images_each * (self._images_each - 1) // 2).sum())
        self.num_impostor = len(people) * (len(people) - 1) // 2 - num_genuine
        if not num_genuine or not self.num_impostor:
            raise InputError("pairs of one and of two people are needed")
        if num_genuine > MAX_GENUINE:
            raise InputError(
                f"{counted(num_genuine, 'genuine pair is', 'genuine pairs are')} more than the {MAX_GENUINE:,} that "
                "are kept; take fewer images of each person (--images-per-person)"
            )

        # Genuine scores are few and all exact; impostors are counted, then examined where they decide something.
        scores, units = self._score_genuine()
        falling = np.argsort(-scores, kind="stable")
        self.genuine, self.genuine_units = scores[falling], units[falling]
        self._counts = self._count_impostors()
        self.ranked = rank_binned(self.genuine, self._counts, self._impostors, fars, self._single.shape[1])

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """See `Comparisons.draw`."""
        people = self.num_units
        return np.bincount(generator.integers(people, size=people), minlength=people).astype(np.float64)

    def totals(self, drawn: np.ndarray) -> np.ndarray:
        """See `Comparisons.totals`: all images of two people are compared."""
        images = drawn * self._images_each
        return (images.sum(axis=1) ** 2 - (images**2).sum(axis=1)) / 2

    def highest(self, count: int) -> Tail:
        """See `Comparisons.highest`; the scores are float32."""
        # The lowest bin that is needed, and then everything from there on.
        above = np.cumsum(self._counts[::-1])[::-1]
        lowest = max(int(np.count_nonzero(above >= min(count, self.num_impostor))) - 1, 0)
        codes = self._codes.astype(np.min_scalar_type(self.num_units))
        scores, first, second = [], [], []
        for start, products, bins in self._blocks():
            rows, columns = np.nonzero((bins >= lowest) & (bins < binned_scores.NUM_BINS))
            scores.append(products[rows, columns])
            first.append(codes[start + rows])
            second.append(codes[start + columns])
        found = np.concatenate(scores), np.concatenate(first), np.concatenate(second)
        return Tail.sorted(*found, is_all=len(found[0]) == self.num_impostor)

    @property
    def units(self) -> np.ndarray:
        """Returns the person of each image (N,), numbered in order of the names, in the order of the embeddings."""
        units = np.empty_like(self._codes)
        units[self._order] = self._codes
        return units

    def genuine_pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the positions of both images of every genuine pair, and its score: (G,) each."""
        first, second = self._genuine_rows()
        return self._order[first], self._order[second], score_pairs_exactly(self._exact, first, second)

    def accepted_impostors(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions of both images of every impostor pair whose float64 score reaches a threshold."""
        # The product decides, unless its error could turn the decision.
        reach = 1.05 * score_error(self._single.shape[1]) + 2e-7  # and the threshold is rounded to float32
        firsts, seconds = [], []
        for start, products, bins in self._blocks():
            rows, columns = np.nonzero((products >= threshold - reach) & (bins < binned_scores.NUM_BINS))
            is_accepted = products[rows, columns] >= threshold + reach
            near = np.flatnonzero(~is_accepted)
            exact = score_pairs_exactly(self._exact, start + rows[near], start + columns[near])
            is_accepted[near] = exact >= threshold
            firsts.append(self._order[start + rows[is_accepted]])
            seconds.append(self._order[start + columns[is_accepted]])
        return np.concatenate(firsts), np.concatenate(seconds)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields blocks of images against those from there on: the first row, the scores, and the bin of each.

        Cells that are no impostor pair are those of one person, and pairs the other way round.
        """
        start, num_images = 0, len(self._single)
        while start < num_images:
            stop = min(start + max(CELLS_CHUNK // (num_images - start), 1), num_images)
            products = self._single[start:stop] @ self._single[start:].T
            bins = bins_of(products)
            for row, end in zip(bins, self._ends[start:stop].tolist(), strict=True):
                row[: end - start] = binned_scores.NUM_BINS
            yield start, products, bins
            start = stop

    def _impostors(self) -> Iterator[Block]:
        """Yields the impostor pairs."""
        for start, products, bins in self._blocks():
            yield Block(products, bins, partial(self._score_exactly, start))

    def _score_exactly(self, start: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return score_pairs_exactly(self._exact, start + rows, start + columns)

    def _score_genuine(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores of the genuine pairs (G,) and whose they are."""
        first, second = self._genuine_rows()
        return score_pairs_exactly(self._exact, first, second), self._codes[first]

    def _genuine_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both rows of every genuine pair (G,), person by person."""
        rows = np.arange(len(self._codes))
        after = self._ends - rows - 1  # how many images of the same person follow
        first = np.repeat(rows, after)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(after) - after, after)
        return first, second

    def _count_impostors(self) -> np.ndarray:
        return count_scores(self._impostors())
