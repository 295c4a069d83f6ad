"""Searches probes in a gallery of any size, block by block, with the results of float64 cosines.

Products of blocks are float32. Wherever their error could change a rank or a best score, the cosine is computed again
in float64, pair by pair, so that equal embeddings have equal cosines wherever they stand. `score_error` is the bound.
Memory: the probes, a block of others, and their product; the others may be a file of millions of rows.

Shapes: Q probes, G others, D embedding values, P pairs of a probe and a mate of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facekd.utils.progress import track
from facekd.verification.scores import score_error
from facekd.verification.search.identification import NEVER_FIRST, SearchResult, check_entries

PROBES_CHUNK = 4096
OTHERS_CHUNK = 2048  # with PROBES_CHUNK: a product of 32 MB
PAIRS_CHUNK = 4096  # pairs scored in float64 at a time
CELLS_CHUNK = 4_000_000  # cells of a product that are looked at again at a time


class UnitRows(Protocol):
    """Provides embeddings of unit length, a block at a time."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop`: float64 (n, D) of unit length."""
        ...


@dataclass(frozen=True)
class Others:
    """Holds what mates are ranked among.

    Attributes:
        rows: the embeddings (G, D).
        subjects: int (G,) whose they are: those of a probe's own subject do not compete with its mates; None if they
            are all of strangers, such as distractors.
    """

    rows: UnitRows
    subjects: np.ndarray | None = None


@dataclass(frozen=True)
class Mates:
    """Holds the pairs of a probe and an entry of the same subject, probe by probe.

    Attributes:
        probe, entry: int64 (P,) the numbers of the probe, ascending, and of the entry.
        scores: float64 (P,) their cosines.
    """

    probe: np.ndarray
    entry: np.ndarray
    scores: np.ndarray

    def best(self) -> np.ndarray:
        """Returns the pairs that are the best of their probe: positions, ascending by probe."""
        order = np.lexsort((-self.scores, self.probe))
        return order[np.flatnonzero(np.diff(self.probe[order], prepend=-1))]

    def some(self, pairs: np.ndarray) -> Mates:
        """Returns some of the pairs, by position or mask, which must leave the probes ascending."""
        return Mates(self.probe[pairs], self.entry[pairs], self.scores[pairs])


def find_mates(
    probes: np.ndarray, probe_subjects: np.ndarray, gallery: np.ndarray, gallery_subjects: np.ndarray
) -> Mates:
    """Finds and scores all mates of all probes.

    Args:
        probes, gallery: float64 (Q, D) and (G, D) of unit length.
        probe_subjects, gallery_subjects: int (Q,) and (G,).
    """
    order = np.argsort(gallery_subjects, kind="stable")
    of_entry = np.asarray(gallery_subjects)[order]
    low = np.searchsorted(of_entry, probe_subjects, side="left")
    count = np.searchsorted(of_entry, probe_subjects, side="right") - low
    probe = np.repeat(np.arange(len(probes)), count)
    place = np.arange(len(probe)) - np.repeat(np.cumsum(count) - count, count)
    entry = order[np.repeat(low, count) + place]
    return Mates(probe, entry, exact_cosines(probes, probe, gallery, entry))


def exact_cosines(first: np.ndarray, rows: np.ndarray, second: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Computes the cosines of pairs of rows of two float64 arrays of unit length, each by itself: float64 (P,)."""
    cosines = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_CHUNK):
        some = slice(start, start + PAIRS_CHUNK)
        np.einsum("pd,pd->p", first[rows[some]], second[columns[some]], out=cosines[some])
    return np.clip(cosines, -1.0, 1.0, out=cosines)


def rank_mates(
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    mates: Mates,
    others: Sequence[Others],
    name: str = "gallery",
) -> tuple[np.ndarray, np.ndarray]:
    """Counts for each mate the others that come before it, and finds the best other of each probe without a mate.

    Args:
        probes: float64 (Q, D) of unit length.
        probe_subjects: int (Q,).
        mates: the mates to rank; equal scores count against them.
        others: what they are ranked among.
        name: name of the gallery, for the progress bar.

    Returns:
        int64 (P,): how many others have the score of the mate or more; and float64 (Q,): the best score of any other
        for the probes that `mates` does not name, `NEVER_FIRST` for the rest and where there are no others.
    """
    before, best = np.zeros(len(mates.probe), np.int64), np.full(len(probes), NEVER_FIRST)
    starts = range(0, len(probes), PROBES_CHUNK)
    for start in track(starts, f"searching {name}", len(probes), PROBES_CHUNK):
        stop = min(start + PROBES_CHUNK, len(probes))
        low, high = np.searchsorted(mates.probe, (start, stop))
        chunk = _Chunk(probes[start:stop], mates.probe[low:high] - start, mates.scores[low:high])
        for one in others:
            _rank_among(chunk, np.asarray(probe_subjects)[start:stop], one)
        before[low:high], best[start:stop] = chunk.before, chunk.best
    return before, best


def search(
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    gallery: np.ndarray,
    gallery_subjects: np.ndarray,
    distractors: UnitRows | None = None,
    name: str = "gallery",
) -> SearchResult:
    """Compares every probe with a gallery, and with distractors if there are any.

    Args:
        probes, gallery: float64 (Q, D) and (G, D) of unit length.
        probe_subjects, gallery_subjects: int (Q,) and (G,); a subject may have several entries, the best of which
            counts.
        distractors: faces of strangers, added to the gallery.
        name: name of the gallery, for the progress bar and messages.

    Raises:
        InputError: no entries or no probes.
    """
    check_entries(gallery, probes, name)
    mates = find_mates(probes, probe_subjects, gallery, gallery_subjects)
    mates = mates.some(mates.best())
    others = [Others(HeldRows(gallery), gallery_subjects), *([] if distractors is None else [Others(distractors)])]
    before, best = rank_mates(probes, probe_subjects, mates, others, name)
    is_mated = np.zeros(len(probes), bool)
    is_mated[mates.probe] = True
    num_gallery = len(gallery) + (0 if distractors is None else len(distractors))
    return SearchResult(mates.scores, 1 + before, best[~is_mated], num_gallery)


class HeldRows:
    """Provides the rows of an array that is in memory: float64 (G, D) of unit length."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop`."""
        return self._rows[start:stop]


class _Chunk:
    """Holds some probes, their mates, and what has been found so far.

    Args:
        probes: float64 (q, D).
        of_mate: int (p,) the probe of each mate, ascending.
        scores: float64 (p,) the scores of the mates.
    """

    def __init__(self, probes: np.ndarray, of_mate: np.ndarray, scores: np.ndarray) -> None:
        self.exact, self.single = probes, probes.astype(np.float32)
        self.of_mate, self.scores = of_mate, scores
        self.before, self.best = np.zeros(len(of_mate), np.int64), np.full(len(probes), NEVER_FIRST)
        self.is_alone = np.ones(len(probes), bool)  # without a mate
        self.is_alone[of_mate] = False


def _rank_among(chunk: _Chunk, subjects: np.ndarray, others: Others) -> None:
    """Counts the others before each mate of a chunk, and finds the best other of each probe without a mate."""
    reach = 1.01 * score_error(chunk.exact.shape[1]) + 2.0**-23  # and the rounding of a float64 limit to float32
    order = np.argsort(subjects, kind="stable")
    for start in range(0, len(others.rows), OTHERS_CHUNK):
        exact = others.rows.read(start, min(start + OTHERS_CHUNK, len(others.rows)))
        products = chunk.single @ exact.astype(np.float32).T
        if others.subjects is not None:
            rows, columns = _of_one_subject(subjects, order, others.subjects[start : start + OTHERS_CHUNK])
            products[rows, columns] = NEVER_FIRST
        highest = products.max(axis=1)
        _count_before(chunk, products, highest, exact, reach)
        _find_best(chunk, products, highest, exact, reach)


def _of_one_subject(subjects: np.ndarray, order: np.ndarray, of_other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows and columns of the cells whose probe and other are of one subject."""
    sorted_subjects = subjects[order]
    low = np.searchsorted(sorted_subjects, of_other, side="left")
    count = np.searchsorted(sorted_subjects, of_other, side="right") - low
    columns = np.repeat(np.arange(len(of_other)), count)
    place = np.arange(len(columns)) - np.repeat(np.cumsum(count) - count, count)
    return order[np.repeat(low, count) + place], columns


def _count_before(chunk: _Chunk, products: np.ndarray, highest: np.ndarray, exact: np.ndarray, reach: float) -> None:
    """Adds the others of a block that are not below the mates; pairs near the score of the mate are scored exactly."""
    # Most blocks hold nobody who comes near a mate.
    near_mates = np.flatnonzero(highest[chunk.of_mate] >= chunk.scores - reach)
    at_once = max(CELLS_CHUNK // products.shape[1], 1)
    for start in range(0, len(near_mates), at_once):
        mates = near_mates[start : start + at_once]
        probes, scores = chunk.of_mate[mates], chunk.scores[mates]
        cells = products[probes]
        is_above = cells > (scores + reach).astype(np.float32)[:, None]
        chunk.before[mates] += is_above.sum(axis=1)
        row, column = np.nonzero((cells >= (scores - reach).astype(np.float32)[:, None]) & ~is_above)
        found = exact_cosines(chunk.exact, probes[row], exact, column)
        chunk.before[mates] += np.bincount(row[found >= scores[row]], minlength=len(mates))


def _find_best(chunk: _Chunk, products: np.ndarray, highest: np.ndarray, exact: np.ndarray, reach: float) -> None:
    """Raises the best scores of probes without a mate to those of a block."""
    better = np.flatnonzero(chunk.is_alone & (highest >= chunk.best - reach) & (highest > NEVER_FIRST + 0.5))
    at_once = max(CELLS_CHUNK // products.shape[1], 1)
    for start in range(0, len(better), at_once):
        probes = better[start : start + at_once]
        # The best is among the cells that are at most two errors below the highest product.
        row, column = np.nonzero(products[probes] >= (highest[probes] - 2 * reach)[:, None])
        np.maximum.at(chunk.best, probes[row], exact_cosines(chunk.exact, probes[row], exact, column))
