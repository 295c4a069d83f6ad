"""Measures 1:1 verification of probes against each other and against strangers: MegaFace's second figure.

Genuine pairs are those of two probes of one person, impostor pairs those of a probe and a distractor. 3,530 probes and
a million distractors make 3.5 billion, which are scored block by block and counted (`evaluation.sets.binned_scores`).

Shapes: Q probes, D embedding values, G genuine pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluation.sets.binned_scores import Block, bins_of, count_scores, rank_binned
from facekd.errors import InputError
from facekd.utils.progress import track
from facekd.utils.wording import counted
from facekd.verification.groups.cell_rates import ListedErrors, cell_rates, draw_weights
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS
from facekd.verification.measures import measure_verification, notes_on_ties, verification_curves
from facekd.verification.search.block_search import (
    OTHERS_CHUNK,
    PROBES_CHUNK,
    UnitRows,
    exact_cosines,
    find_mates,
)

MAX_EXACT = 100_000_000  # scores near thresholds: a model that tells nobody apart would have all of them there
HELD = "people are drawn; the distractors and the thresholds are the same in every draw"


class StrangerPairs:
    """Visits the pairs of every probe with every stranger.

    Args:
        probes: float64 (Q, D) of unit length.
        strangers: the distractors.
    """

    def __init__(self, probes: np.ndarray, strangers: UnitRows) -> None:
        self._exact, self._single, self._strangers = probes, probes.astype(np.float32), strangers

    def visit(self, what: str) -> Iterator[Block]:
        """Yields all pairs, block by block; `what` says why, for the progress bar."""
        starts = range(0, len(self._strangers), OTHERS_CHUNK)
        for start in track(starts, what, len(self._strangers), OTHERS_CHUNK):
            strangers = self._strangers.read(start, min(start + OTHERS_CHUNK, len(self._strangers)))
            columns = strangers.astype(np.float32).T
            for first in range(0, len(self._exact), PROBES_CHUNK):
                some = slice(first, first + PROBES_CHUNK)
                products = self._single[some] @ columns
                yield Block(products, bins_of(products), partial(_cosines_of_cells, self._exact[some], strangers))


def measure_against_strangers(
    probes: np.ndarray, people: np.ndarray, strangers: UnitRows, fars: Sequence[float], draws: int, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures TAR@FAR and EER with intervals.

    Args:
        probes: float64 (Q, D) of unit length.
        people: (Q,) whose each is.
        strangers: the distractors.
        fars: targets for TAR@FAR.
        draws: number of draws of the intervals; 0 leaves Wilson's.
        seed: random seed of the draws.

    Returns:
        What results.json says of 1:1 pairs, with `notes`, and the arrays of curves.npz; only a note if nothing can be
        measured.
    """
    mates = find_mates(probes, people, probes, people)
    pairs = np.flatnonzero(mates.probe < mates.entry)
    genuine, of_person = mates.scores[pairs], people[mates.probe[pairs]]
    if not genuine.size or not len(strangers):
        return {"notes": ["1:1 was not measured: it needs people with two images, and distractors"]}, {}
    against = StrangerPairs(probes, strangers)
    counts = count_scores(against.visit("counting pairs with distractors"))
    again = partial(against.visit, "scoring pairs near thresholds")
    try:
        ranked = rank_binned(genuine, counts, again, fars, probes.shape[1], MAX_EXACT)
    except InputError as error:
        return {"notes": [f"1:1 was not measured: {error}"]}, {}
    measured = measure_verification(ranked, fars, "exact")
    _add_intervals(measured, genuine, of_person, draws, seed)
    measured["notes"] = notes_on_ties(ranked, measured)
    return measured, verification_curves(ranked)


def _add_intervals(measured: dict[str, Any], genuine: np.ndarray, people: np.ndarray, draws: int, seed: int) -> None:
    """Puts intervals over people in the place of Wilson's, at the thresholds of all pairs."""
    if not draws:
        return
    source = ListedErrors(genuine, np.ones(len(genuine), bool), (people, people))
    about = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": seed, "note": None}
    measured["bootstrap"] = about
    if source.num_units < MIN_SUBJECTS:
        known = (
            f"only {counted(source.num_units, 'subject has', 'subjects have')} genuine pairs, {MIN_SUBJECTS} are needed"
        )
        about["note"] = f"{known}: intervals are Wilson's"
        return
    about |= {"resampled": "subjects", "num_subjects": source.num_units, "replicates": draws, "note": HELD}
    weights = draw_weights(source.num_units, draws, seed)
    for point in measured["tar_at_far"]:
        if point["tar"] is not None:
            missed = cell_rates(source, "genuine", point["threshold"], weights).entry(0)
            point.update(ci95=[1 - missed["ci95"][1], 1 - missed["ci95"][0]], interval=missed["interval"])


def _cosines_of_cells(probes: np.ndarray, others: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return exact_cosines(probes, rows, others, columns)
