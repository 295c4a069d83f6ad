"""Turns the templates of an IJB-style set into what is reported about them (docs/results.md): values and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.ijb.problems import Kept, is_published
from evaluation.ijb.protocol import TARGETS, IjbProtocol, SubjectTemplates
from evaluation.ijb.scoring import RefinedScores, rank_pairs, score_pairs_exactly
from evaluation.sets.cohort import Normaliser
from facekd.verification import Rule
from facekd.verification.groups.cell_rates import ListedErrors
from facekd.verification.measures import add_intervals
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.search.block_search import search
from facekd.verification.search.identification import identification_curves, mean_of_galleries, measure_search

NUM_WORST = 20


@dataclass(frozen=True)
class PairScores:
    """Holds the 1:1 scores of the pairs that were kept.

    Attributes:
        found: the scores, in the order of the pairs kept.
        ranked: the same scores, ranked.
        chosen: positions of the pairs kept; None for all.
        num_pairs: number of pairs P of the protocol.
    """

    found: RefinedScores
    ranked: RankedScores
    chosen: np.ndarray | None
    num_pairs: int

    @cached_property
    def scores(self) -> np.ndarray:
        """Returns float64 (P,) scores, NaN for pairs left out."""
        kept = self.found.as_float64()
        if self.chosen is None:
            return kept
        scores = np.full(self.num_pairs, np.nan)
        scores[self.chosen] = kept
        return scores


def score_protocol(
    templates: np.ndarray,
    protocol: IjbProtocol,
    kept: Kept,
    fars: Sequence[float],
    rule: Rule,
    normaliser: Normaliser | None = None,
) -> PairScores:
    """Scores the pairs of a protocol.

    Args:
        templates: float64 (T, D), unit rows.
        protocol: the protocol.
        kept: which of its pairs to score.
        fars, rule: the TAR@FAR that will be measured; scores that decide it are exact.
        normaliser: normalises the scores, which then are all float64; None leaves cosines.

    Raises:
        InputError: no genuine or no impostor pairs.
        DataError: the cohort of the normaliser does not fit.
    """
    first, second, is_same = protocol.pair_first, protocol.pair_second, protocol.is_same
    chosen = None if kept.pairs is None else np.flatnonzero(kept.pairs)
    if chosen is not None:
        first, second, is_same = first[chosen], second[chosen], is_same[chosen]
    if normaliser is not None:
        cosines = score_pairs_exactly(templates, first, second)
        scores = normaliser.apply(cosines, templates, first, second)
        found = RefinedScores(scores, np.zeros(0, np.int64), np.zeros(0))
        return PairScores(found, RankedScores(scores[is_same], scores[~is_same]), chosen, protocol.num_pairs)
    return PairScores(*rank_pairs(templates, first, second, is_same, fars, (rule,)), chosen, protocol.num_pairs)


def add_bootstrap(
    measured: dict[str, Any],
    pairs: PairScores,
    protocol: IjbProtocol,
    kept: Kept,
    subjects: np.ndarray,
    replicates: int,
    seed: int,
) -> None:
    """Adds intervals over subjects to what `measure_verification` returned: `add_intervals` for a protocol.

    Args:
        measured: changed in place.
        pairs: the scores.
        protocol, kept: the protocol, and which of its pairs were kept.
        subjects: (T,) the subject of each template.
        replicates: number of draws.
        seed: random seed of the draws.
    """
    chosen = slice(None) if kept.pairs is None else np.flatnonzero(kept.pairs)
    is_same = protocol.is_same[chosen]
    of_template = subjects.astype(np.uint16) if subjects.max() < 1 << 16 else subjects
    of_pairs = of_template[protocol.pair_first[chosen]], of_template[protocol.pair_second[chosen]]
    add_intervals(measured, pairs.ranked, pairs.scores[chosen], is_same, of_pairs, replicates, seed)


def listed_errors(pairs: PairScores, protocol: IjbProtocol, kept: Kept, subjects: np.ndarray) -> ListedErrors:
    """Returns the errors that the kept pairs make at any threshold; `subjects` is (T,), as for `add_bootstrap`."""
    chosen = slice(None) if kept.pairs is None else np.flatnonzero(kept.pairs)
    people = subjects[protocol.pair_first[chosen]], subjects[protocol.pair_second[chosen]]
    is_same = protocol.is_same[chosen]
    is_known = np.array_equal(people[0] == people[1], is_same)  # labels that contradict the subjects know nobody
    return ListedErrors(pairs.scores[chosen], is_same, people if is_known else None)


def find_worst(protocol: IjbProtocol, pairs: PairScores, count: int = NUM_WORST) -> dict[str, list[dict[str, Any]]]:
    """Returns the genuine pairs with the lowest scores and the impostor pairs with the highest, worst first."""
    scores, genuine, impostor = pairs.scores, pairs.ranked.genuine, pairs.ranked.impostor
    # Only pairs at least as bad as the count-th worst of their kind are sorted.
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


def describe_dataset(protocol: IjbProtocol, subjects: np.ndarray, subjects_from: str) -> dict[str, Any]:
    """Returns the entry `dataset` of results.json; `subjects` (T,) are those of the templates."""

    def about(some: Any) -> dict[str, int]:
        return {"num_templates": len(some), "num_subjects": len(np.unique(some.subjects))}

    # A medium is counted once per template.
    has_face = np.unique(protocol.face_templates)
    order = np.lexsort((protocol.face_media, protocol.face_templates))
    template, medium = protocol.face_templates[order], protocol.face_media[order]
    is_new = (template[1:] != template[:-1]) | (medium[1:] != medium[:-1])
    num_genuine = int(np.count_nonzero(protocol.is_same))
    return {
        "target": protocol.target,
        "root": str(protocol.root),
        "fingerprint": protocol.fingerprint,
        "published": TARGETS[protocol.target].name if is_published(protocol) else None,
        "num_images": protocol.num_listed,
        "num_faces": protocol.num_faces,
        "num_templates": len(has_face),
        "num_media": int(is_new.sum()) + 1,
        "num_pairs": protocol.num_pairs,
        "num_genuine": num_genuine,
        "num_impostor": protocol.num_pairs - num_genuine,
        "num_subjects": len(np.unique(subjects[has_face])),
        "subjects_from": subjects_from,
        "galleries": {name: about(gallery) for name, gallery in protocol.galleries.items()},
        "probes": about(protocol.probes) if protocol.probes is not None else None,
    }


def measure_identification(
    templates: np.ndarray, protocol: IjbProtocol, kept: Kept
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes `identification` of results.json, and the arrays `cmc_*` and `dir_*` of curves.npz."""
    assert protocol.probes is not None
    # Each gallery is searched with all probes; the tables of the field average over the galleries.
    probes = _kept(protocol.probes, kept)
    measured: dict[str, Any] = {}
    curves: dict[str, np.ndarray] = {}
    for name, whole in protocol.galleries.items():
        gallery = _kept(whole, kept)
        result = search(
            templates[probes.templates],
            probes.subjects,
            templates[gallery.templates],
            gallery.subjects,
            name=f"gallery {name}",
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
