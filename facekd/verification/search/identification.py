"""Measures searches of probes in a gallery (1:N identification): TPIR@FPIR, rank rates, and their curves.

The protocol is that of IJB (P. Grother, M. Ngan, "FRVT part 2", NIST; as in `ijb_evals.py` of
leondgarse/Keras_insightface, checked upstream against bob.measure), with each gallery evaluated by itself. Probes whose
subject is in the gallery are mated, the others non-mated. An FPIR of f allows floor(f n) of the n non-mated probes to
have a best score at or above the threshold; TPIR is the share of mated probes whose mate comes first *and* reaches the
threshold. Rank-r rates are closed-set: mated probes only. Equal scores count against the mate. The search itself is in
`block_search.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.errors import InputError
from facekd.utils.wording import counted
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.operating_points import far_threshold, first_refused_score, just_above, shown_below_one

DEFAULT_FPIRS, DEFAULT_RANKS = (1e-2, 1e-1), (1, 5, 10)
NEVER_FIRST = -2.0  # below every cosine


@dataclass(frozen=True)
class SearchResult:
    """Holds what the metrics need of a search. Mated and non-mated probes keep their order."""

    mate_scores: np.ndarray  # (M,) the best score of the probe's own subject
    mate_ranks: np.ndarray  # int (M,) from 1: 1 + the entries of other subjects with that score or more
    best_impostor_scores: np.ndarray  # (n,) the best score of each non-mated probe
    num_gallery: int


def check_entries(gallery: np.ndarray, probes: np.ndarray, name: str) -> None:
    """Raises an InputError that names the gallery if it or the probes are empty."""
    if not len(gallery) or not len(probes):
        raise InputError(
            f"{name}: {counted(len(gallery), 'gallery template')} and {counted(len(probes), 'probe template')} are "
            "left; a search needs some of both"
        )


def measure_search(
    result: SearchResult,
    fpirs: Sequence[float] = DEFAULT_FPIRS,
    ranks: Sequence[int] = DEFAULT_RANKS,
    within: int = 1,
) -> dict[str, Any]:
    """Computes TPIR@FPIR and rank rates, as plain values for JSON (docs/results.md).

    Args:
        result: the search.
        fpirs: targets of the false positive identification rate.
        ranks: ranks whose rates are computed.
        within: the rank that a mate must reach to count for TPIR; 1 is the rule of IJB, 20 that of SurvFace.
    """
    num_mated, num_nonmated = len(result.mate_ranks), len(result.best_impostor_scores)
    first = np.where(result.mate_ranks <= within, result.mate_scores, NEVER_FIRST)
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
    """Averages the results of `measure_search` over galleries, as published tables do."""
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


def identification_curves(
    result: SearchResult, most_ranks: int = 50, num_points: int = 300, within: int = 1
) -> dict[str, np.ndarray]:
    """Returns `cmc` (R,) and `dir_fpir`, `dir_tpir`, `dir_threshold` (K,), strictest first; empty without probes.

    `within` is that of `measure_search`.
    """
    num_mated, num_nonmated = len(result.mate_ranks), len(result.best_impostor_scores)
    # CMC: the share of mated probes whose mate is among the first 1, 2, ... R.
    counts = np.bincount(np.minimum(result.mate_ranks, most_ranks + 1), minlength=most_ranks + 2)[1:-1]
    curves = {"cmc": np.cumsum(counts) / num_mated if num_mated else np.zeros(0)}
    if not num_mated or not num_nonmated:
        return {**curves, **{f"dir_{name}": np.zeros(0) for name in ("fpir", "tpir", "threshold")}}
    # DIR: operating points evenly spread over the logarithm of the false positives.
    impostor = np.sort(result.best_impostor_scores)
    first = np.sort(result.mate_scores[result.mate_ranks <= within])
    allowed = np.unique(np.geomspace(1, num_nonmated, num_points).astype(np.int64)) - 1
    threshold = np.unique(just_above(first_refused_score(impostor, allowed)))[::-1]
    curves["dir_fpir"] = 1 - np.searchsorted(impostor, threshold, side="left") / num_nonmated
    curves["dir_tpir"] = (len(first) - np.searchsorted(first, threshold, side="left")) / num_mated
    curves["dir_threshold"] = threshold
    return curves


def _tpir(first: np.ndarray, impostor: np.ndarray, fpir: float) -> dict[str, Any]:
    """Computes one operating point; `first` holds the mates' scores, NEVER_FIRST for mates that do not come first."""
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
            "reason": (
                f"not measurable: {counted(len(impostor), 'non-mated probe allows', 'non-mated probes allow')} "
                f"{shown_below_one(fpir * len(impostor))} false positives at FPIR {fpir:g}"
            ),
        }
    # A probe is identified if its mate comes first and reaches the threshold.
    threshold = max(threshold, -1.0)  # the lowest cosine, if every non-mated probe may be accepted
    successes, false_positives = int((first >= threshold).sum()), int((impostor >= threshold).sum())
    return {
        **point,
        "tpir": successes / len(first),
        "threshold": threshold,
        "false_positives": false_positives,
        "achieved_fpir": false_positives / len(impostor),
        "ci95": list(wilson_interval(successes, len(first))),
    }
