"""1:N identification: probes searched in a gallery, by exact search in float64, a block of probes at a time.

The protocol of IJB (P. Grother, M. Ngan, "FRVT part 2", NIST; as `ijb_evals.py` of leondgarse/Keras_insightface,
checked upstream against bob.measure): each gallery apart. Probes whose subject is in it are mated, the others are not.
An FPIR of f allows floor(f n) of the n non-mated probes to have a best score at or above the threshold; TPIR is the
share of mated probes whose mate comes first *and* reaches it. Rank-r rates are closed-set: mated probes alone.
Equal scores count against the mate.

Shapes: G gallery templates, Q probes, D embedding values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.errors import InputError
from facekd.utils.progress import track
from facekd.verification.operating_points import far_threshold, first_refused_score, just_above
from facekd.verification.proportions import wilson_interval

DEFAULT_FPIRS, DEFAULT_RANKS = (1e-2, 1e-1), (1, 5, 10)
CELLS_AT_ONCE = 2_000_000  # of a product: 16 MB
NEVER_FIRST = -2.0  # below every cosine


@dataclass(frozen=True)
class SearchResult:
    """What the metrics need of a search. Mated and non-mated probes keep their order."""

    mate_scores: np.ndarray  # (M,) the best score of the probe's own subject
    mate_ranks: np.ndarray  # int (M,) from 1: 1 + the entries of other subjects with that score or more
    best_impostor_scores: np.ndarray  # (n,) the best score of each non-mated probe
    num_gallery: int


def search(
    gallery: np.ndarray,
    gallery_subjects: np.ndarray,
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    name: str = "gallery",
) -> SearchResult:
    """Compare every probe with the whole gallery.

    Args:
        gallery: float64 (G, D) of unit length.
        gallery_subjects: (G,); a subject may have several entries, the best of which counts.
        probes: float64 (Q, D) of unit length.
        probe_subjects: (Q,).
        name: for progress and messages.

    Raises:
        InputError: no entries or no probes.
    """
    if not len(gallery) or not len(probes):
        raise InputError(
            f"{name}: {len(gallery):,} gallery templates and {len(probes):,} probe templates are left; a search needs "
            "some of both"
        )
    subjects, subject_of = np.unique(gallery_subjects, return_inverse=True)
    place = np.minimum(np.searchsorted(subjects, probe_subjects), len(subjects) - 1)
    is_mated = subjects[place] == probe_subjects
    entries_of: list[list[int]] = [[] for _ in subjects]
    for entry, subject in enumerate(subject_of.tolist()):
        entries_of[subject].append(entry)
    # (subject, its entries), filled up with the first: the best of them is the same.
    most = max(map(len, entries_of))
    mates = np.array([entries + entries[:1] * (most - len(entries)) for entries in entries_of])
    mate_scores, mate_ranks, best = np.empty(len(probes)), np.zeros(len(probes), np.int64), np.empty(len(probes))
    at_once = max(CELLS_AT_ONCE // len(gallery), 1)
    starts = range(0, len(probes), at_once)
    across = np.ascontiguousarray(gallery.T)
    for start in track(starts, f"searching {name}", len(probes), at_once):
        some = slice(start, start + at_once)
        scores = np.clip(probes[some] @ across, -1.0, 1.0)
        rows = np.arange(len(scores))[:, None]
        own = mates[place[some]]
        best[some] = scores.max(axis=1)
        mate_scores[some] = mate = scores[rows, own].max(axis=1)
        scores[rows, own] = NEVER_FIRST
        mate_ranks[some] = 1 + (scores >= mate[:, None]).sum(axis=1)
    return SearchResult(mate_scores[is_mated], mate_ranks[is_mated], best[~is_mated], len(gallery))


def measure_search(
    result: SearchResult, fpirs: Sequence[float] = DEFAULT_FPIRS, ranks: Sequence[int] = DEFAULT_RANKS
) -> dict[str, Any]:
    """TPIR@FPIR and rank rates, as plain values for JSON (docs/results.md)."""
    num_mated, num_nonmated = len(result.mate_ranks), len(result.best_impostor_scores)
    first = np.where(result.mate_ranks == 1, result.mate_scores, NEVER_FIRST)
    return {
        "num_gallery": result.num_gallery,
        "num_mated": num_mated,
        "num_nonmated": num_nonmated,
        "tpir_at_fpir": [_tpir(first, result.best_impostor_scores, fpir) for fpir in fpirs],
        "rank": [
            {"rank": rank, "rate": float(np.mean(result.mate_ranks <= rank)) if num_mated else None} for rank in ranks
        ],
    }


def mean_of_galleries(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The average over galleries of `measure_search`, as tables of the field give it."""
    tpirs = []
    for points in zip(*(one["tpir_at_fpir"] for one in measured), strict=True):
        values = [point["tpir"] for point in points]
        reason = next((point["reason"] for point in points if point["reason"]), None)
        tpirs.append({"fpir": points[0]["fpir"], "tpir": None if reason else float(np.mean(values)), "reason": reason})
    ranks = []
    for entries in zip(*(one["rank"] for one in measured), strict=True):
        rates = [entry["rate"] for entry in entries]
        ranks.append({"rank": entries[0]["rank"], "rate": None if None in rates else float(np.mean(rates))})
    return {"tpir_at_fpir": tpirs, "rank": ranks}


def identification_curves(result: SearchResult, most_ranks: int = 50, num_points: int = 300) -> dict[str, np.ndarray]:
    """`cmc` (R,); `dir_fpir`, `dir_tpir`, `dir_threshold` (K,), strictest first; empty where nothing was searched."""
    num_mated, num_nonmated = len(result.mate_ranks), len(result.best_impostor_scores)
    counts = np.bincount(np.minimum(result.mate_ranks, most_ranks + 1), minlength=most_ranks + 2)[1:-1]
    curves = {"cmc": np.cumsum(counts) / num_mated if num_mated else np.zeros(0)}
    if not num_mated or not num_nonmated:
        return {**curves, **{f"dir_{name}": np.zeros(0) for name in ("fpir", "tpir", "threshold")}}
    impostor = np.sort(result.best_impostor_scores)
    first = np.sort(result.mate_scores[result.mate_ranks == 1])
    allowed = np.unique(np.geomspace(1, num_nonmated, num_points).astype(np.int64)) - 1
    threshold = np.unique(just_above(first_refused_score(impostor, allowed)))[::-1]
    curves["dir_fpir"] = 1 - np.searchsorted(impostor, threshold, side="left") / num_nonmated
    curves["dir_tpir"] = (len(first) - np.searchsorted(first, threshold, side="left")) / num_mated
    curves["dir_threshold"] = threshold
    return curves


def _tpir(first: np.ndarray, impostor: np.ndarray, fpir: float) -> dict[str, Any]:
    point: dict[str, Any] = {
        "fpir": fpir,
        "tpir": None,
        "threshold": None,
        "false_positives": None,
        "achieved_fpir": None,
        "ci95": None,
        "reason": None,
    }
    if not len(first):
        return {**point, "reason": "not measurable: no probe has a mate in this gallery"}
    threshold = far_threshold(impostor, fpir) if len(impostor) else None
    if threshold is None:
        return {
            **point,
            "reason": f"not measurable: {len(impostor):,} non-mated probes allow {fpir * len(impostor):.2g} false "
            f"positives at FPIR {fpir:g}",
        }
    threshold = max(threshold, -1.0)  # the lowest cosine, should every non-mated probe be allowed
    successes, false_positives = int((first >= threshold).sum()), int((impostor >= threshold).sum())
    return {
        **point,
        "tpir": successes / len(first),
        "threshold": threshold,
        "false_positives": false_positives,
        "achieved_fpir": false_positives / len(impostor),
        "ci95": list(wilson_interval(successes, len(first))),
    }
