"""Ranks impostor scores that come block by block, without holding them: counted in bins, exact where it matters.

Products of blocks of images are float32; they are counted in about a million bins, and thrown away. The bins in which a
threshold may lie are then visited once more: the scores in them are computed in float64. How far around a threshold
follows from a bound on the error of a product, which `evaluation.ijb.scoring` explains; beyond it, a count is all that
matters of a score.

Shapes: r rows and c columns of a block, G genuine scores, K impostor scores examined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted
from facekd.verification.counted_scores import CountedScores
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import score_error

NUM_BINS = 1 << 20  # of the scores from -1 to 1: far more than the error of a product needs, and they fit in a cache


@dataclass(frozen=True)
class Block:
    """Holds the scores of some impostor pairs.

    Attributes:
        products: float32 (r, c) the scores, with the error of a float32 product.
        bins: int32 (r, c) the bin of each; `NUM_BINS` for cells that are no impostor pair.
        exact: computes the float64 scores of cells, (n,), from their rows and columns, (n,) each.
    """

    products: np.ndarray
    bins: np.ndarray
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray]


def bins_of(products: np.ndarray) -> np.ndarray:
    """Returns the bin of each product, int32; products beyond -1 and 1 are changed in place to lie within."""
    np.clip(products, -1, 1, out=products)
    bins = ((products + 1) * np.float32(NUM_BINS / 2)).astype(np.int32)
    return np.minimum(bins, NUM_BINS - 1, out=bins)


def count_scores(blocks: Iterable[Block]) -> np.ndarray:
    """Counts the impostor scores in each bin: int64 (NUM_BINS,)."""
    counts = np.zeros(NUM_BINS, np.int64)
    for block in blocks:
        counts += np.bincount(block.bins.ravel(), minlength=NUM_BINS + 1)[:NUM_BINS]
    return counts


def rank_binned(
    genuine: np.ndarray,
    counts: np.ndarray,
    visit: Callable[[], Iterable[Block]],
    fars: Sequence[float],
    embedding_size: int,
    max_exact: int | None = None,
) -> RankedScores:
    """Ranks all scores; the TAR at some FARs and the EER are those of float64 scores.

    Args:
        genuine: float64 (G,) exact scores of the genuine pairs.
        counts: int64 (NUM_BINS,) of the impostor scores, by `count_scores`.
        visit: returns the blocks once more, the same as those that were counted.
        fars: targets at which TAR will be measured.
        embedding_size: number of values of an embedding; it bounds the error of a product.
        max_exact: how many scores may be computed in float64; None for any number.

    Raises:
        InputError: more scores than `max_exact` lie near the thresholds, or the products were others the second time.
    """
    is_fine, exact = np.zeros(NUM_BINS, bool), CountedParts()
    ranked = RankedScores.of_counted(genuine, exact.merged(counts, is_fine))
    reach = 2.05 * score_error(embedding_size) + 4 / NUM_BINS
    # Exact scores move a threshold, by less than the bound: one visit is nearly always enough.
    while True:
        ranges = [*filter(None, map(ranked.decisive_range, fars)), ranked.around_equal_error()]
        needed = np.zeros(NUM_BINS, bool)
        for low, high in ranges:
            needed[_bin_of(low - reach) : _bin_of(high + reach) + 1] = True
        if not (needed & ~is_fine & (counts > 0)).any():
            return ranked
        for low, high in ranges:
            is_fine[_bin_of(low - 1.1 * reach) : _bin_of(high + 1.1 * reach) + 1] = True
        near = int(counts[is_fine].sum())
        if max_exact is not None and near > max_exact:
            raise InputError(
                f"{near:,} of {counted(int(counts.sum()), 'impostor score')} {agreeing(near, 'lies', 'lie')} within "
                f"{reach:.1g} of a threshold, and at most {max_exact:,} are computed in float64: the model tells "
                "hardly anybody apart"
            )
        exact = _score_within(is_fine, counts, visit)
        ranked = RankedScores.of_counted(genuine, exact.merged(counts, is_fine))


class CountedParts:
    """Collects exact scores; equal ones of a block stand together, since a broken model makes millions of them."""

    def __init__(self) -> None:
        self._values, self._counts = [np.zeros(0)], [np.zeros(0, np.int64)]

    def add(self, scores: np.ndarray) -> None:
        """Adds scores (n,)."""
        values, counts = np.unique(scores, return_counts=True)
        self._values.append(values)
        self._counts.append(counts)

    def __len__(self) -> int:
        return int(sum(counts.sum() for counts in self._counts))

    def merged(self, counts: np.ndarray, is_fine: np.ndarray) -> CountedScores:
        """Returns all scores: those added, and for bins that are not `is_fine` the middle of each with its count."""
        coarse = np.flatnonzero(~is_fine & (counts > 0))
        middles = _lower_edge(coarse) + 1 / NUM_BINS
        values, place = np.unique(np.concatenate([middles, *self._values]), return_inverse=True)
        return CountedScores(
            values, np.bincount(place, np.concatenate([counts[coarse], *self._counts])).astype(np.int64)
        )


def _score_within(is_fine: np.ndarray, counts: np.ndarray, visit: Callable[[], Iterable[Block]]) -> CountedParts:
    """Computes the exact scores of the impostors in some bins, kept within the outer edges of those."""
    is_wanted, found = np.append(is_fine, False), CountedParts()
    edges = np.diff(is_fine.astype(np.int8), prepend=0, append=0)
    lows, highs = (_lower_edge(np.flatnonzero(edges == sign)) for sign in (1, -1))
    for block in visit():
        rows, columns = np.nonzero(is_wanted[block.bins])
        run = np.searchsorted(lows, block.products[rows, columns] + 2 / NUM_BINS, side="right") - 1
        # A score may be beyond an edge by the error of its product; no threshold is near, so put it on the edge.
        found.add(np.clip(block.exact(rows, columns), lows[np.maximum(run, 0)], highs[np.maximum(run, 0)]))
    # Equal products fall into equal bins; if they did not, a count would be wrong.
    if len(found) != counts[is_fine].sum():
        raise InputError(
            "the products of the embeddings differ from one time to the next, so their scores cannot be counted; "
            "try one thread (OMP_NUM_THREADS=1)"
        )
    return found


def _lower_edge(bins: np.ndarray) -> np.ndarray:
    return bins * (2 / NUM_BINS) - 1


def _bin_of(score: float) -> int:
    return min(max(int((score + 1) * (NUM_BINS / 2)), 0), NUM_BINS - 1)
