"""1:1 scores of templates: products of blocks of gallery and probe templates, never gathered rows of pairs.

The products are float32, which is fast, and every pair close enough to a threshold for its rounding to matter is
scored again in float64, so that the metrics are exactly those of float64 scores. The closeness comes from a bound, not
from experience: a float32 product of D numbers errs by at most g = (D + 4) u / (1 - (D + 4) u) times the lengths of
the two vectors, in whatever order it is summed (N. J. Higham, "Accuracy and stability of numerical algorithms", 2nd
edition, section 3.1; u is half the distance from 1 to the next number; 4 covers the rounding of the vectors
themselves and of the result). A threshold is an order statistic of the scores, so it is off by no more than one score
may be: beyond twice the bound from it, a pair is on its right side already.

Shapes: T templates, P pairs, D embedding values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facekd.ranked_scores import RankedScores
from facekd.verification import Rule

CELLS_AT_ONCE = 3_000_000  # of a product: 12 MB
CELLS_PICKED_AT_ONCE = 1 << 15
PAIRS_AT_ONCE = 4096  # of the float64 and of the scattered products: their rows stay in the processor's cache
# A cell of a product costs a hundredth of a pair whose two rows are gathered: below this density, gather.
LEAST_DENSITY = 0.01
Band = tuple[float, float]  # of scores, both ends in it
MOST_AGAIN = 0.2  # share of pairs to score again from which on all are


def score_pairs(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines by float32 products: float32 (P,).

    Args:
        templates: (T, D) of unit length.
        first, second: integer (P,) rows of it, in any order; pairs grouped by `first` are fastest.
    """
    scores = np.empty(len(first), np.float32)
    if not len(first):
        return scores
    single = templates.astype(np.float32)
    rows, row_of = _distinct(first, len(templates))
    columns, column_of = _distinct(second, len(templates))
    if len(first) < LEAST_DENSITY * len(rows) * len(columns):
        for start in range(0, len(first), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            np.einsum("pd,pd->p", single[first[some]], single[second[some]], out=scores[some])
        return scores
    order = None if bool((first[1:] >= first[:-1]).all()) else np.argsort(first, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of[first], minlength=len(rows)))])
    across = np.ascontiguousarray(single[columns].T)
    at_once = max(CELLS_AT_ONCE // len(columns), 1)
    product = np.empty((at_once, len(columns)), np.float32)
    for low in range(0, len(rows), at_once):
        high = min(low + at_once, len(rows))
        block = np.matmul(single[rows[low:high]], across, out=product[: high - low]).reshape(-1)
        for begin in range(starts[low], starts[high], CELLS_PICKED_AT_ONCE):
            some = slice(begin, min(begin + CELLS_PICKED_AT_ONCE, starts[high]))
            pairs = some if order is None else order[some]
            cells = row_of[first[pairs]]
            cells -= low
            cells *= len(columns)
            cells += column_of[second[pairs]]
            if order is None:
                np.take(block, cells, out=scores[some], mode="clip")  # in place; the cells are right by construction
            else:
                scores[pairs] = block[cells]
    return scores


def score_pairs_exactly(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines by float64 products, a pair at a time: float64 (P,), at most 1. `templates` is float64 (T, D)."""
    scores = np.empty(len(first))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        np.einsum("pd,pd->p", templates[first[some]], templates[second[some]], out=scores[some])
    # Rounding can leave the cosine of two equal templates a hair above 1.
    return np.clip(scores, -1.0, 1.0, out=scores)


def rank_pairs(
    templates: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    fars: Sequence[float],
    rules: Sequence[Rule] = ("exact",),
) -> tuple[np.ndarray, RankedScores]:
    """Scores of all pairs, those that decide a TAR at these FARs or the EER in float64.

    Args:
        templates: float64 (T, D) of unit length.
        first, second: integer (P,) rows of it.
        is_same: bool (P,).
        fars: targets.
        rules: by which TAR@FAR will be asked for.

    Returns:
        scores: float64 (P,); ranked: the same, ranked. `ranked.tar_at_far` and `ranked.equal_error_point` give what
        they give for `score_pairs_exactly`; the AUC differs by less than 1e-6.

    Raises:
        VerificationError: pairs of one class only, or scores that are not finite.
    """
    rounded = score_pairs(templates, first, second)
    np.clip(rounded, -1.0, 1.0, out=rounded)
    ranked = RankedScores(rounded[is_same], rounded[~is_same])
    wide = RankedScores(ranked.genuine.astype(np.float64), ranked.impostor.astype(np.float64), is_sorted=True)
    scores = rounded.astype(np.float64)
    is_exact = np.zeros(len(scores), bool)
    reach = 2 * score_error(templates.shape[1])
    bands: list[Band] = []
    while True:
        bands = _merge([*bands, *_decisive_bands(wide, fars, rules, reach)], 4 * reach)
        wider = [(low - reach, high + reach) for low, high in bands]
        near = _find_within(rounded, wider)
        again = near[_is_within(rounded[near], bands) & ~is_exact[near]]
        if not again.size:
            return scores, wide
        if again.size > MOST_AGAIN * len(scores):
            scores = score_pairs_exactly(templates, first, second)
            return scores, RankedScores(scores[is_same], scores[~is_same])
        scores[again] = score_pairs_exactly(templates, first[again], second[again])
        is_exact[again] = True
        # Between the exact scores and the others lies a margin wider than the error: the order has changed in it only.
        for low, high in wider:
            here = near[_is_within(rounded[near], [(low, high)])]
            for kind, target, before in (
                (is_same[here], wide.genuine, ranked.genuine),
                (~is_same[here], wide.impostor, ranked.impostor),
            ):
                begin = np.searchsorted(before, np.float32(low), side="left")
                end = np.searchsorted(before, np.float32(high), side="right")
                target[begin:end] = np.sort(scores[here[kind]])


def score_error(embedding_size: int) -> float:
    """The most by which a cosine of `score_pairs` can differ from that of the same templates in float64."""
    unit = 2.0**-24
    terms = (embedding_size + 4) * unit
    return terms / (1 - terms)


def _decisive_bands(ranked: RankedScores, fars: Sequence[float], rules: Sequence[Rule], reach: float) -> list[Band]:
    ranges = [ranked.decisive_range(far, rule) for far in fars for rule in rules]
    found = [*filter(None, ranges), ranked.around_equal_error()]
    # A hair more, for the limits are rounded to float32 when the scores are compared with them.
    return [(low - 1.01 * reach, high + 1.01 * reach) for low, high in found]


def _merge(bands: list[Band], gap: float) -> list[Band]:
    """The bands ascending, those closer than `gap` made one."""
    merged: list[Band] = []
    for low, high in sorted(bands):
        if merged and low - gap <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _is_within(scores: np.ndarray, bands: list[Band]) -> np.ndarray:
    within = np.zeros(len(scores), bool)
    for low, high in bands:
        within |= (scores >= np.float32(low)) & (scores <= np.float32(high))
    return within


def _find_within(scores: np.ndarray, bands: list[Band]) -> np.ndarray:
    step = 1 << 18  # what is compared several times stays in the processor's cache
    parts = [
        start + np.flatnonzero(_is_within(scores[start : start + step], bands)) for start in range(0, len(scores), step)
    ]
    return np.concatenate(parts)


def _distinct(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rows that occur, ascending; the place of each row among them)."""
    seen = np.zeros(count, bool)
    seen[rows] = True
    return np.flatnonzero(seen), np.cumsum(seen) - 1
