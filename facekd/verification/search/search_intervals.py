"""Computes intervals of identification rates by resampling people: the probes of one person are not independent.

Each draw takes as many people as there are, with replacement; a probe counts as often as its person was drawn.
Non-mated probes are drawn apart from mated ones, and each draw finds its own threshold. As elsewhere, an interval is
never narrower than Wilson's, because a draw repeats only errors that were seen.

Shapes: M mated probes, n non-mated probes, S people, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.utils.wording import counted
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS, outer_interval, percentile_interval
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.operating_points import first_refused_position, num_allowed_false_accepts
from facekd.verification.search.identification import SearchResult


@dataclass(frozen=True)
class ProbePeople:
    """Names who is behind the probes of a `SearchResult`, in its order; whole numbers or text.

    Attributes:
        mated: (M,).
        nonmated: (n,); a probe whose person is not known has a name of its own.
    """

    mated: np.ndarray
    nonmated: np.ndarray


def add_search_intervals(
    measured: dict[str, Any],
    result: SearchResult,
    people: ProbePeople,
    draws: int,
    seed: int,
    within: int = 1,
    precisions: np.ndarray | None = None,
) -> str:
    """Adds `ci95` to the rates that `measure_search` returned: over people if there are enough, else Wilson's.

    Args:
        measured: changed in place; its key `mean_average_precision` gets an interval too, where there is one.
        result: the search that was measured.
        people: who the probes are of.
        draws: number of draws R; 0 for Wilson's intervals.
        seed: random seed of the draws.
        within: as in `measure_search`.
        precisions: (M,) the average precisions of the mated probes.

    Returns:
        How the intervals were made, in words.
    """
    num_mated = len(result.mate_ranks)
    for entry in measured["rank"]:
        hits = int((result.mate_ranks <= entry["rank"]).sum())
        entry["ci95"] = list(wilson_interval(hits, num_mated)) if num_mated else None
    num_people = len(np.unique(people.mated))
    if not draws or num_people < MIN_SUBJECTS:
        why = (
            f"only {counted(num_people, 'person has', 'people have')} mated probes, {MIN_SUBJECTS} are needed to "
            "resample them"
        )
        return "Wilson's, as if probes were independent" + ("" if not draws else f": {why}")

    # Draw after draw, the rates that each would have shown.
    ranks = [entry["rank"] for entry in measured["rank"]]
    points = [point for point in measured["tpir_at_fpir"] if point["tpir"] is not None]
    drawn = _Draws(result, people, ranks, [point["fpir"] for point in points], within, precisions)
    generator = np.random.default_rng(seed)
    values = np.array([drawn.one(generator) for _ in range(draws)])

    for column, entry in enumerate([*measured["rank"], *points]):
        entry["ci95"] = list(outer_interval(percentile_interval(values[:, column]), tuple(entry["ci95"])))
    if precisions is not None:
        measured["mean_average_precision"]["ci95"] = list(percentile_interval(values[:, -1]))
    return (
        f"{counted(draws, 'draw')} of {counted(num_people, 'person')}, each with its own thresholds; never narrower "
        "than Wilson's"
    )


class _Draws:
    """Measures the rates of one draw of people after another; see `add_search_intervals` for the arguments."""

    def __init__(
        self,
        result: SearchResult,
        people: ProbePeople,
        ranks: Sequence[int],
        fpirs: Sequence[float],
        within: int,
        precisions: np.ndarray | None,
    ) -> None:
        self._mated, self._num_mated_people = _numbered(people.mated)
        self._nonmated, self._num_nonmated_people = _numbered(people.nonmated)
        self._hits = np.stack([result.mate_ranks <= rank for rank in ranks], axis=1).astype(np.float64)
        self._fpirs, self._precisions = fpirs, precisions
        # Both kinds of scores from the highest on: what a threshold accepts is then a beginning.
        impostor = result.best_impostor_scores
        falling = np.argsort(-impostor, kind="stable")
        self._impostor, self._nonmated = impostor[falling], self._nonmated[falling]
        found = np.flatnonzero(result.mate_ranks <= within)
        self._found = found[np.argsort(-result.mate_scores[found], kind="stable")]
        self._accepted_above = np.searchsorted(-result.mate_scores[self._found], -self._impostor, side="left")

    def one(self, generator: np.random.Generator) -> list[float]:
        """Returns the rates of a draw: those of the ranks, TPIR at each FPIR, and the mean average precision."""
        weights = _weights(generator, self._mated, self._num_mated_people)
        total = weights.sum()
        rates = list((weights @ self._hits) / total)
        if self._fpirs:
            sums = np.cumsum(_weights(generator, self._nonmated, self._num_nonmated_people))
            accepted = np.concatenate([[0.0], np.cumsum(weights[self._found])])
            for fpir in self._fpirs:
                refused = int(first_refused_position(sums, num_allowed_false_accepts(fpir, float(sums[-1]))))
                upto = len(self._found) if refused == len(sums) else self._accepted_above[refused]
                rates.append(float(accepted[upto] / total))
        if self._precisions is not None:
            rates.append(float(weights @ self._precisions / total))
        return rates


def _numbered(people: np.ndarray) -> tuple[np.ndarray, int]:
    names, numbers = np.unique(people, return_inverse=True)
    return numbers.reshape(-1), len(names)


def _weights(generator: np.random.Generator, people: np.ndarray, count: int) -> np.ndarray:
    """Returns how often each probe counts in a draw of `count` people: float64."""
    return np.bincount(generator.integers(count, size=count), minlength=count)[people].astype(np.float64)
