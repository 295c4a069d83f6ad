"""Templates of an IJB-style set to what is reported about them (docs/results.md): plain values and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.identification import identification_curves, mean_of_galleries, measure_search, search
from evaluation.ijb import IjbProtocol, SubjectTemplates
from evaluation.ijb_problems import Kept
from evaluation.ijb_scoring import RefinedScores, rank_pairs
from facekd.ranked_scores import RankedScores
from facekd.subject_bootstrap import subject_bootstrap_intervals
from facekd.verification import Rule
from facekd.verification_intervals import MIN_SUBJECTS

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
NUM_WORST = 20
MOST_TIED = 0.01  # share of the false accepts allowed, from which on a tie is worth a word


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
        VerificationError: no genuine or no impostor pairs.
    """
    first, second, is_same = protocol.pair_first, protocol.pair_second, protocol.is_same
    chosen = None if kept.pairs is None else np.flatnonzero(kept.pairs)
    if chosen is not None:
        first, second, is_same = first[chosen], second[chosen], is_same[chosen]
    return PairScores(*rank_pairs(templates, first, second, is_same, fars, (rule,)), chosen, protocol.num_pairs)


def measure_verification(ranked: RankedScores, fars: Sequence[float], rule: Rule) -> dict[str, Any]:
    """Counts, EER, AUC and TAR@FAR with Wilson's intervals."""
    equal_error = ranked.equal_error_point()
    points = [asdict(point) for point in ranked.tar_at_far(fars, rule)]
    for point in points:
        point["ci95"] = None if point["ci95"] is None else list(point["ci95"])
        point["ci95_at_threshold"] = point["ci95"]  # Wilson's; a bootstrap lets the threshold vary too
    return {
        "num_pairs": ranked.genuine.size + ranked.impostor.size,
        "num_genuine": ranked.genuine.size,
        "num_impostor": ranked.impostor.size,
        "eer": equal_error.eer,
        "eer_threshold": equal_error.threshold,
        "eer_ci95": None,
        "auc": ranked.area_under_roc(),
        "tar_at_far": points,
        "bootstrap": None,
        "calibration": None,
    }


def notes_on_ties(ranked: RankedScores, measured: dict[str, Any]) -> list[str]:
    """What ties do to the thresholds: equal scores are let in or kept out together."""
    notes = []
    for point in measured["tar_at_far"]:
        if point["tar"] is None:
            continue
        tied = ranked.num_tied_at(point["threshold"])
        if tied > max(1, MOST_TIED * point["far"] * ranked.impostor.size):
            notes.append(
                f"FAR {point['far']:g}: {tied:,} impostor pairs share the score just below the threshold, which lets "
                f"in {point['false_accepts']:,} impostors for that reason; "
                "look for equal images in different templates, or embeddings of too few digits"
            )
    return notes


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
    """Put intervals over subjects into what `measure_verification` found; a note says where they cannot be.

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
    note = None
    if ((first == second) != is_same).any():
        note = "the labels of the pairs contradict each other's subjects: no interval over subjects can be made"
    elif (known := len(np.unique(first[is_same]))) < MIN_SUBJECTS:
        note = f"only {known} subjects have genuine pairs, {MIN_SUBJECTS} are needed: intervals are Wilson's"
    if note is not None:
        measured["bootstrap"] = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": seed, "note": note}
        return
    found = subject_bootstrap_intervals(
        pairs.ranked, pairs.scores[chosen], is_same, first, second, fars, replicates, seed
    )
    measured["eer_ci95"] = list(found.eer)
    measured["bootstrap"] = {
        "resampled": "subjects",
        "num_subjects": found.num_subjects,
        "replicates": found.replicates,
        "seed": seed,
        "note": None,
    }
    # The draws find their thresholds by the exact rule; beside the other rule's TAR they would mislead.
    for point, interval in zip(measured["tar_at_far"], found.tar, strict=True):
        if interval is not None and point["rule"] == "exact":
            point.update(ci95=list(interval), interval=found.kind)


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


def verification_curves(ranked: RankedScores) -> dict[str, np.ndarray]:
    """The arrays `roc_*` and `histogram_*` of curves.npz."""
    roc = ranked.thinned_roc()
    edges, genuine, impostor = ranked.histogram()
    return {
        "roc_far": roc.far,
        "roc_tar": roc.tar,
        "roc_threshold": roc.threshold,
        "histogram_edges": edges,
        "histogram_genuine": genuine,
        "histogram_impostor": impostor,
    }


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
