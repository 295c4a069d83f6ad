"""Finds the nearest faces of a gallery to each probe, exactly: no index, and no cosine that is only nearly right.

A product in float32 over a block of the gallery picks the few faces that can be among the nearest; their cosines are
then computed in float64, one face at a time, so that they depend neither on the block nor on the other probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facekd.errors import InputError
from facekd.utils.progress import track

PROBES_CHUNK = 128
GALLERY_CHUNK = 8192  # with 128 probes: 4 MB of cosines, which stay in the processor's cache
PAIRS_CHUNK = 4096  # cosines computed in float64 at a time


@dataclass(frozen=True)
class Nearest:
    """Holds the nearest faces of each of Q probes, the nearest first; equal cosines in the order of the gallery.

    Attributes:
        rows: int64 (Q, K), rows of the gallery.
        cosines: float64 (Q, K).
    """

    rows: np.ndarray
    cosines: np.ndarray


def find_nearest(
    probes: np.ndarray, gallery: np.ndarray, count: int, people: Sequence[str] | np.ndarray | None = None
) -> Nearest:
    """Compares every probe with the whole gallery.

    Args:
        probes: float32 (Q, D) of unit length.
        gallery: float32 (N, D) of unit length; may be mapped from a file.
        count: how many faces to find; K is this, or the number of people if there are fewer.
        people: (N,) who is who: of the faces of one person only the nearest is found. A face whose person is unknown
            ("") stands for itself, as every face does without `people`.

    Raises:
        InputError: an empty gallery, another embedding size, or a count below 1.
    """
    if not len(gallery) or probes.shape[1:] != gallery.shape[1:] or count < 1:
        raise InputError(f"cannot find {count} nearest of {gallery.shape} embeddings to {probes.shape}")
    person_of = _number_people(len(gallery), people)
    count = min(count, int(person_of.max()) + 1)

    # Block by block, the probes outside, so that few candidates are held at a time.
    found = []
    starts = range(0, len(probes), PROBES_CHUNK)
    for start in track(starts, "searching", len(probes), PROBES_CHUNK):
        found.append(_search(probes[start : start + PROBES_CHUNK], gallery, count, person_of))
    rows = np.concatenate([one.rows for one in found]) if found else np.zeros((0, count), np.int64)
    cosines = np.concatenate([one.cosines for one in found]) if found else np.zeros((0, count))
    return Nearest(rows, cosines)


def _number_people(num_rows: int, people: Sequence[str] | np.ndarray | None) -> np.ndarray:
    """Returns the number of each row's person, from 0 without a gap: (N,)."""
    if people is None:
        return np.arange(num_rows)
    names = np.asarray(people)
    person_of = np.unique(names, return_inverse=True)[1]
    unknown = np.flatnonzero(names == "")
    person_of[unknown] = person_of.max() + 1 + np.arange(unknown.size)
    return np.unique(person_of, return_inverse=True)[1]  # without a gap where the unknown were


def _search(probes: np.ndarray, gallery: np.ndarray, count: int, person_of: np.ndarray) -> Nearest:
    """Searches for a chunk of probes; `person_of` is that of `_number_people`."""
    num_probes, size = probes.shape
    best = Nearest(np.full((num_probes, count), -1), np.full((num_probes, count), -np.inf))
    # The error of a product of D terms in float32, twice, for the bound itself is of that precision.
    margin = np.float32(4 * size * 2.0**-24)
    for start in range(0, len(gallery), GALLERY_CHUNK):
        block = gallery[start : start + GALLERY_CHUNK]
        scores = probes @ block.T

        # Whoever reaches the last of the best so far may be among them: of many, only the best of the block.
        may_be_best = scores >= best.cosines[:, -1:].astype(np.float32) - margin
        many, persons = 4 * count * num_probes, person_of[start : start + GALLERY_CHUNK]
        if np.count_nonzero(may_be_best) > many:
            may_be_best &= scores >= _last_of_the_best(scores, persons, count)[:, None] - margin
        if np.count_nonzero(may_be_best) > many:
            may_be_best &= _can_be_listed(block, persons, count)
        probe, column = np.nonzero(may_be_best)
        if probe.size:
            exact = _exact_cosines(probes, probe, block, column)
            best = _merge(best, probe, start + column, exact, person_of)
    return best


def _last_of_the_best(scores: np.ndarray, persons: np.ndarray, count: int) -> np.ndarray:
    """Returns, for each probe (Q,), the score of the person at place `count`; minus infinity with fewer people.

    Args:
        scores: (Q, B) of a block.
        persons: (B,) the numbers of their people.
        count: the place, from 1.
    """
    order = np.argsort(persons, kind="stable")
    firsts = np.flatnonzero(np.diff(persons[order], prepend=-1))
    if len(firsts) < count:
        return np.full(len(scores), -np.inf, scores.dtype)
    by_person = np.maximum.reduceat(scores[:, order], firsts, axis=1)
    return np.partition(by_person, -count, axis=1)[:, -count]


def _can_be_listed(block: np.ndarray, persons: np.ndarray, count: int) -> np.ndarray:
    """Tells for each face of a block (B,) whether it can be among the nearest beside equal ones that come before it.

    A broken model embeds all faces alike: without this, every pair of them would be compared in float64.
    """
    rows = np.ascontiguousarray(block)
    direction = np.unique(rows.view(np.dtype((np.void, rows[0].nbytes)))[:, 0], return_inverse=True)[1]
    # Of equal faces of one person the first, and of equal faces of several people as many as are listed.
    firsts = np.unique(direction * (int(persons.max()) + 1) + persons, return_index=True)[1]
    firsts = firsts[np.lexsort((firsts, direction[firsts]))]
    place = np.arange(len(firsts)) - np.searchsorted(direction[firsts], direction[firsts], side="left")
    can = np.zeros(len(block), dtype=bool)
    can[firsts[place < count]] = True
    return can


def _exact_cosines(probes: np.ndarray, probe: np.ndarray, block: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Computes the cosines of pairs (P,) in float64, each by itself."""
    cosines = np.empty(len(probe))
    for start in range(0, len(probe), PAIRS_CHUNK):
        some = slice(start, start + PAIRS_CHUNK)
        first, second = probes[probe[some]].astype(np.float64), block[column[some]].astype(np.float64)
        lengths = np.sqrt((first * first).sum(axis=1) * (second * second).sum(axis=1))
        cosines[some] = (first * second).sum(axis=1) / lengths
    return np.clip(cosines, -1.0, 1.0)


def _merge(best: Nearest, probe: np.ndarray, rows: np.ndarray, cosines: np.ndarray, person_of: np.ndarray) -> Nearest:
    """Returns the best of those found so far and of candidates: (P,) numbers of probes, rows, and cosines."""
    # All in one list; places that are not taken yet have no row.
    num_probes, count = best.rows.shape
    taken = best.rows.ravel() >= 0
    probe = np.concatenate([np.repeat(np.arange(num_probes), count)[taken], probe])
    rows = np.concatenate([best.rows.ravel()[taken], rows])
    cosines = np.concatenate([best.cosines.ravel()[taken], cosines])

    # Of each person the nearest face, then of each probe the nearest people.
    by_person = np.lexsort((rows, -cosines, person_of[rows], probe))
    person = person_of[rows[by_person]]
    is_first = (np.diff(person, prepend=-1) != 0) | (np.diff(probe[by_person], prepend=-1) != 0)
    kept = by_person[is_first]
    kept = kept[np.lexsort((rows[kept], -cosines[kept], probe[kept]))]
    place = np.arange(len(kept)) - np.searchsorted(probe[kept], probe[kept], side="left")
    kept, place = kept[place < count], place[place < count]
    merged = Nearest(np.full_like(best.rows, -1), np.full_like(best.cosines, -np.inf))
    merged.rows[probe[kept], place], merged.cosines[probe[kept], place] = rows[kept], cosines[kept]
    return merged
