"""Scores pairs of templates by products of blocks of templates, fast in float32 and exact where it matters.

The products are float32, and every pair close enough to a threshold for its rounding to matter is scored again in
float64, so that the metrics are exactly those of float64 scores. How close follows from a bound, not from experience: a
float32 product of D numbers errs by at most g = (D + 4) u / (1 - (D + 4) u) times the lengths of
the two vectors, in whatever order it is summed (N. J. Higham, "Accuracy and stability of numerical algorithms", 2nd
edition, section 3.1; u is half the distance from 1 to the next number; 4 covers the rounding of the vectors
themselves and of the result). A threshold is an order statistic of the scores, so its error is no larger than that of
one score: a pair further from it than twice the bound is already on the right side.

Shapes: T templates, P pairs, D embedding values.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from facekd.verification import Rule
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import score_error

CELLS_CHUNK = 8_000_000  # cells of one product: 32 MB
PAIRS_CHUNK = 512  # pairs of one float64 or gathered product: their rows stay in the processor's cache
ROWS_CHUNK = 1 << 15  # template rows converted together, for the same reason
# A cell of a product costs a hundredth of gathering the two rows of a pair: below this density of pairs, gather.
MIN_DENSITY = 0.01
Band = tuple[float, float]  # a range of scores, ends included
MAX_RESCORED = 0.2  # share of pairs to score again; if there are more, all are


@dataclass(frozen=True)
class RefinedScores:
    """Holds scores of pairs in float32, some of them in float64 as well: half the memory of float64 scores.

    Attributes:
        fast: (P,) scores of all pairs; not a copy.
        pairs: (E,) the pairs with exact scores, ascending.
        exact: float64 (E,) their scores.
    """

    fast: np.ndarray
    pairs: np.ndarray
    exact: np.ndarray

    def as_float64(self) -> np.ndarray:
        """Returns the best scores of all pairs: float64 (P,)."""
        scores = self.fast.astype(np.float64)
        scores[self.pairs] = self.exact
        return scores

    def of(self, some: np.ndarray) -> np.ndarray:
        """Returns the best scores of some pairs: float64."""
        scores = self.fast[some].astype(np.float64)
        if len(self.pairs):
            at = np.minimum(np.searchsorted(self.pairs, some), len(self.pairs) - 1)
            known = self.pairs[at] == some
            scores[known] = self.exact[at[known]]
        return scores

    def with_more(self, pairs: np.ndarray, exact: np.ndarray) -> RefinedScores:
        """Returns these scores with the exact ones of more pairs."""
        both, values = np.concatenate([self.pairs, pairs]), np.concatenate([self.exact, exact])
        order = np.argsort(both, kind="stable")
        return RefinedScores(self.fast, both[order], values[order])


def score_pairs(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes cosines by float32 products: float32 (P,).

    Args:
        templates: (T, D) of unit length.
        first, second: integer (P,) rows of `templates`, in any order; pairs grouped by `first` are fastest.
    """
    scores = np.empty(len(first), np.float32)
    if not len(first):
        return scores
    # Pairs grouped by their first template: a row of a product holds all the scores of a group.
    rows, starts, order = _group(first, len(templates))
    columns, column_of = _distinct(second, len(templates))
    # Few pairs of many templates: most cells of a product would be wasted.
    if len(first) < MIN_DENSITY * len(rows) * len(columns):
        single = templates.astype(np.float32)
        for start in range(0, len(first), PAIRS_CHUNK):
            some = slice(start, start + PAIRS_CHUNK)
            np.einsum("pd,pd->p", single[first[some]], single[second[some]], out=scores[some])
        return scores
    # Products of a block of first templates with all second ones.
    across = np.empty((len(columns), templates.shape[1]), np.float32)
    for start in range(0, len(columns), PAIRS_CHUNK):
        across[start : start + PAIRS_CHUNK] = templates[columns[start : start + PAIRS_CHUNK]]
    at_once = max(CELLS_CHUNK // len(columns), 1)
    product = np.empty((at_once, len(columns)), np.float32)
    for low in range(0, len(rows), at_once):
        high = min(low + at_once, len(rows))
        np.matmul(templates[rows[low:high]].astype(np.float32), across.T, out=product[: high - low])
        for row, start, stop in zip(product, starts[low:high], starts[low + 1 : high + 1], strict=False):
            if order is None:
                # "clip" writes in place, without a buffer; the indices are valid by construction.
                np.take(row, column_of[second[start:stop]], out=scores[start:stop], mode="clip")
            else:
                pairs = order[start:stop]
                scores[pairs] = row[column_of[second[pairs]]]
    return scores


def score_pairs_exactly(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes cosines in float64, pair by pair: float64 (P,), at most 1. `templates` is float64 (T, D)."""
    scores = np.empty(len(first))

    def score(start: int) -> None:
        some = slice(start, start + PAIRS_CHUNK)
        np.einsum("pd,pd->p", templates[first[some]], templates[second[some]], out=scores[some])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(score, range(0, len(first), PAIRS_CHUNK)))
    # Rounding can leave the cosine of two equal templates a hair above 1.
    return np.clip(scores, -1.0, 1.0, out=scores)


def rank_pairs(
    templates: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    fars: Sequence[float],
    rules: Sequence[Rule] = ("exact",),
) -> tuple[RefinedScores, RankedScores]:
    """Scores all pairs, in float64 those that decide the TAR at these FARs or the EER.

    Args:
        templates: float64 (T, D) of unit length.
        first, second: integer (P,) rows of `templates`.
        is_same: bool (P,).
        fars: targets.
        rules: the rules by which TAR@FAR will be measured.

    Returns:
        The scores of the pairs (P,), and the same scores ranked. `ranked.tar_at_far` and `ranked.equal_error_point`
        return the same as with the scores of `score_pairs_exactly`; the AUC differs by less than 1e-6.

    Raises:
        InputError: pairs of one class only, or scores that are not finite.
    """
    scores = score_pairs(templates, first, second)
    np.clip(scores, -1.0, 1.0, out=scores)
    ranked = RankedScores(*_split(scores, is_same), to_refine=True)
    is_exact = np.zeros(len(scores), bool)
    exact = RefinedScores(scores, np.zeros(0, np.int64), np.zeros(0))
    reach = 2 * score_error(templates.shape[1])
    bands: list[Band] = []
    # Refine until all scores that decide a threshold are exact; refining may move a threshold a little.
    while True:
        decisive = _decisive_bands(ranked, fars, rules, reach)
        if all(any(low <= first and last <= high for low, high in bands) for first, last in decisive):
            return exact, ranked
        # A little wider than needed: exact scores move the thresholds, by much less than the bound.
        margin = 0.05 * reach
        bands = _merge([*bands, *((low - margin, high + margin) for low, high in decisive)], 4 * reach)
        # Only within a margin wider than the error around the bands can exact scores change the order.
        wider = [(_single(low - reach), _single(high + reach)) for low, high in bands]
        near = _find_within(scores, wider)
        again = near[_is_within(scores[near], bands) & ~is_exact[near]]
        # If there are many, score all pairs exactly and be done.
        if again.size > MAX_RESCORED * len(scores):
            found = score_pairs_exactly(templates, first, second)
            return RefinedScores(found, np.zeros(0, np.int64), np.zeros(0)), RankedScores(
                found[is_same], found[~is_same]
            )
        is_exact[again] = True
        exact = exact.with_more(again, score_pairs_exactly(templates, first[again], second[again]))
        # Put the exact scores into the ranking.
        for low, high in wider:
            here = near[_is_within(scores[near], [(low, high)])]
            values = exact.of(here)
            ranked.replace(low, high, values[is_same[here]], values[~is_same[here]])


def _decisive_bands(ranked: RankedScores, fars: Sequence[float], rules: Sequence[Rule], reach: float) -> list[Band]:
    """Returns the ranges of scores that must be exact, widened by `reach`."""
    ranges = [ranked.decisive_range(far, rule) for far in fars for rule in rules]
    found = [*filter(None, ranges), ranked.around_equal_error()]
    # A hair more, because the limits are rounded to float32 when scores are compared with them.
    return [(low - 1.01 * reach, high + 1.01 * reach) for low, high in found]


def _merge(bands: list[Band], gap: float) -> list[Band]:
    """Returns the bands in ascending order, those closer than `gap` merged."""
    merged: list[Band] = []
    for low, high in sorted(bands):
        if merged and low - gap <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _is_within(scores: np.ndarray, bands: list[Band]) -> np.ndarray:
    """Tells which scores lie in a band."""
    within = np.zeros(len(scores), bool)
    for low, high in bands:
        within |= (scores >= np.float32(low)) & (scores <= np.float32(high))
    return within


def _find_within(scores: np.ndarray, bands: list[Band]) -> np.ndarray:
    """Returns the positions of the scores that lie in a band."""
    step = 1 << 18  # scores that are compared several times stay in the processor's cache
    parts = [
        start + np.flatnonzero(_is_within(scores[start : start + step], bands)) for start in range(0, len(scores), step)
    ]
    return np.concatenate(parts)


def _single(value: float) -> float:
    return float(np.float32(value))


def _split(scores: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (genuine, impostor) scores, the impostors out of order.

    The impostors are a copy of all scores in which those from the end overwrite the genuine ones: picking 99.9 % of
    millions by a mask would take four times as long.
    """
    genuine = np.flatnonzero(is_same)
    count = len(scores) - len(genuine)
    impostor = scores.copy()
    impostor[genuine[genuine < count]] = scores[count:][~is_same[count:]]
    return scores[genuine], impostor[:count]


def _group(rows: np.ndarray, count: int) -> tuple[np.ndarray, list[int], np.ndarray | None]:
    """Returns (the rows that occur, ascending; where the pairs of each begin, and the end; the order to group them)."""
    order = None if bool((rows[1:] >= rows[:-1]).all()) else np.argsort(rows, kind="stable")
    if order is None:  # bisect: counting would convert millions of rows
        starts = np.append(np.searchsorted(rows, np.arange(count, dtype=rows.dtype)), len(rows))
    else:
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    present = np.flatnonzero(np.diff(starts))
    return present, [*starts[present].tolist(), len(rows)], order


def _distinct(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the rows that occur, ascending; the place of each row among them)."""
    seen = np.zeros(count, bool)
    for start in range(0, len(rows), ROWS_CHUNK):
        seen[rows[start : start + ROWS_CHUNK].astype(np.intp)] = True
    return np.flatnonzero(seen), np.cumsum(seen) - 1
