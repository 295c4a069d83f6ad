"""Templates of an IJB-style set to what is reported about them (docs/results.md): plain values and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.ijb.problems import Kept
from evaluation.ijb.protocol import IjbProtocol, SubjectTemplates
from evaluation.ijb.scoring import RefinedScores, rank_pairs
from evaluation.measures import add_intervals
from facekd.verification import Rule
from facekd.verification.identification import identification_curves, mean_of_galleries, measure_search, search
from facekd.verification.ranked_scores import RankedScores

NUM_WORST = 20


@dataclass(frozen=True)
class PairScores:
    """1:1 scores of the pairs kept.

    Attributes:
        found: of the pairs kept.
        ranked: the same, ranked.
        chosen: which pairs were kept; None for all.
        num_pairs: P, of the protocol.
    """

    found: RefinedScores
    ranked: RankedScores
    chosen: np.ndarray | None
    num_pairs: int

    @cached_property
    def scores(self) -> np.ndarray:
        """float64 (P,), NaN for pairs left out."""
        kept = self.found.as_float64()
        if self.chosen is None:
            return kept
        scores = np.full(self.num_pairs, np.nan)
        scores[self.chosen] = kept
        return scores


def score_protocol(
    templates: np.ndarray, protocol: IjbProtocol, kept: Kept, fars: Sequence[float], rule: Rule
) -> PairScores:
    """Score the pairs of a protocol.

    Args:
        templates: float64 (T, D), unit rows.
        protocol: whose pairs.
        kept: which of them.
        fars, rule: what will be asked of the scores.

    Raises:
        InputError: no genuine or no impostor pairs.
    """
    first, second, is_same = protocol.pair_first, protocol.pair_second, protocol.is_same
    chosen = None if kept.pairs is None else np.flatnonzero(kept.pairs)
    if chosen is not None:
        first, second, is_same = first[chosen], second[chosen], is_same[chosen]
    return PairScores(*rank_pairs(templates, first, second, is_same, fars, (rule,)), chosen, protocol.num_pairs)


def add_bootstrap(
    measured: dict[str, Any],
    pairs: PairScores,
    protocol: IjbProtocol,
    kept: Kept,
    subjects: np.ndarray,
    fars: Sequence[float],
    replicates: int,
    seed: int,
) -> None:
    """Put intervals over subjects into what `measure_verification` found: `add_intervals` for a protocol.

    Args:
        measured: changed in place.
        pairs: the scores.
        protocol, kept: whose pairs, and which.
        subjects: (T,) the subject of each template.
        fars: as measured.
        replicates, seed: of the draws.
    """
    chosen = slice(None) if kept.pairs is None else np.flatnonzero(kept.pairs)
    is_same = protocol.is_same[chosen]
    of_template = subjects.astype(np.uint16) if subjects.max() < 1 << 16 else subjects
    first, second = of_template[protocol.pair_first[chosen]], of_template[protocol.pair_second[chosen]]
    scores = pairs.scores[chosen]
    add_intervals(measured, pairs.ranked, scores, is_same, first, second, fars, replicates, seed)


def find_worst(protocol: IjbProtocol, pairs: PairScores, count: int = NUM_WORST) -> dict[str, list[dict[str, Any]]]:
    """The genuine pairs of the lowest scores and the impostor pairs of the highest, worst first."""
    scores, genuine, impostor = pairs.scores, pairs.ranked.genuine, pairs.ranked.impostor
    found = {}
    for kind, sign, mask in (
        ("genuine", 1.0, scores <= genuine[min(count, genuine.size) - 1]),
        ("impostor", -1.0, scores >= impostor[-min(count, impostor.size)]),
    ):
        near = np.flatnonzero(mask)
        near = near[protocol.is_same[near] == (kind == "genuine")]
        worst = near[np.argsort(sign * scores[near], kind="stable")][:count]
        ids = protocol.template_ids
        found[kind] = [
            {
                "pair": int(pair),
                "score": float(scores[pair]),
                "first": int(ids[protocol.pair_first[pair]]),
                "second": int(ids[protocol.pair_second[pair]]),
            }
            for pair in worst
        ]
    return found


def measure_identification(
    templates: np.ndarray, protocol: IjbProtocol, kept: Kept
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`identification` of results.json, and the arrays `cmc_*` and `dir_*` of curves.npz."""
    assert protocol.probes is not None
    probes = _kept(protocol.probes, kept)
    measured: dict[str, Any] = {}
    curves: dict[str, np.ndarray] = {}
    for name, whole in protocol.galleries.items():
        gallery = _kept(whole, kept)
        result = search(
            templates[gallery.templates],
            gallery.subjects,
            templates[probes.templates],
            probes.subjects,
            f"gallery {name}",
        )
        measured[name] = measure_search(result)
        for kind, array in identification_curves(result).items():
            prefix, _, rest = kind.partition("_")
            curves["_".join(filter(None, (prefix, name, rest)))] = array
    measured["mean"] = mean_of_galleries([measured[name] for name in protocol.galleries])
    return measured, curves


def _kept(some: SubjectTemplates, kept: Kept) -> SubjectTemplates:
    left = kept.templates[some.templates]
    return some if left.all() else SubjectTemplates(some.templates[left], some.subjects[left])
