"""Ranked 1:1 scores to what is reported about them (docs/results.md): plain values and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from facekd.verification import Rule, area_under_roc, equal_error_point, kfold_accuracy, tar_at_far
from facekd.verification.bootstrap import MIN_SUBJECTS, bootstrap_intervals
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.subject_bootstrap import subject_bootstrap_intervals

MOST_TIED = 0.01  # share of the false accepts allowed, from which on a tie is worth a word


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


def add_intervals(
    measured: dict[str, Any],
    ranked: RankedScores,
    scores: np.ndarray,
    is_same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    fars: Sequence[float],
    replicates: int,
    seed: int,
) -> None:
    """Put intervals over subjects into what `measure_verification` found; a note says where they cannot be.

    Args:
        measured: changed in place.
        ranked: the scores.
        scores, is_same: (P,) the same, pair by pair.
        first, second: integer (P,) the subjects of each pair.
        fars: as measured.
        replicates, seed: of the draws.
    """
    note = None
    if ((first == second) != is_same).any():
        note = "the labels of the pairs contradict each other's subjects: no interval over subjects can be made"
    elif (known := len(np.unique(first[is_same]))) < MIN_SUBJECTS:
        note = f"only {known} subjects have genuine pairs, {MIN_SUBJECTS} are needed: intervals are Wilson's"
    if note is not None:
        measured["bootstrap"] = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": seed, "note": note}
        return
    found = subject_bootstrap_intervals(ranked, scores, is_same, first, second, fars, replicates, seed)
    measured["eer_ci95"] = list(found.eer)
    measured["bootstrap"] = {
        "resampled": "subjects",
        "num_subjects": found.num_subjects,
        "replicates": found.replicates,
        "seed": seed,
        "note": None,
    }
    # The draws find their thresholds by the exact rule; beside the other rule's TAR they would mislead.
    for point, bounds in zip(measured["tar_at_far"], found.tar, strict=True):
        if bounds is not None and point["rule"] == "exact":
            point.update(ci95=list(bounds), interval=found.kind)


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


DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4)


def measure_pairs(
    scores: np.ndarray,
    is_same: np.ndarray,
    fold_of: int | np.ndarray = 10,
    fars: Sequence[float] = DEFAULT_FARS,
    rule: Rule = "exact",
    subjects: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, EER, AUC and TAR@FAR with intervals, as plain values for JSON.

    Args:
        scores: (N,) in the order of the protocol.
        is_same: bool (N,).
        fold_of: number of contiguous folds, or (N,) the fold of each pair.
        fars: targets for TAR@FAR.
        rule: see `facekd.verification.tar_at_far`.
        subjects: (N, 2), where known: intervals then resample subjects. Pairs are resampled where subjects are not
            known or too few, and the result says which.
        replicates: draws of the bootstrap; 0 leaves Wilson's intervals, at the threshold taken, alone.
        seed: of the draws.

    Raises:
        InputError: see the functions of `facekd.verification` and `facekd.verification.bootstrap`.
    """
    genuine, impostor = scores[is_same], scores[~is_same]
    accuracy = kfold_accuracy(scores, is_same, fold_of)
    equal_error = equal_error_point(genuine, impostor)
    points = [asdict(point) for point in tar_at_far(genuine, impostor, fars, rule)]
    for point in points:
        point["ci95_at_threshold"] = point["ci95"]  # Wilson's; the bootstrap below lets the threshold vary too
    result: dict[str, Any] = {
        "num_pairs": len(scores),
        "num_genuine": len(genuine),
        "num_impostor": len(impostor),
        "accuracy": asdict(accuracy),
        "eer": equal_error.eer,
        "eer_threshold": equal_error.threshold,
        "eer_ci95": None,
        "auc": area_under_roc(genuine, impostor),
        "tar_at_far": points,
        "bootstrap": None,
    }
    if replicates:
        note = None
        if subjects is not None and (known := len(np.unique(subjects[is_same, 0]))) < MIN_SUBJECTS:
            note = f"only {known} subjects have genuine pairs, {MIN_SUBJECTS} are needed: pairs were resampled instead"
            subjects = None
        intervals = bootstrap_intervals(scores, is_same, fars, subjects, replicates, seed)
        result["eer_ci95"] = intervals.eer
        result["bootstrap"] = {
            "resampled": "subjects" if intervals.num_subjects else "pairs",
            "num_subjects": intervals.num_subjects,
            "replicates": intervals.replicates,
            "seed": seed,
            "note": note,
        }
        # The draws find their thresholds by the exact rule; beside the other rule's TAR they would mislead.
        for point, interval in zip(points, intervals.tar, strict=True):
            if interval is not None and rule == "exact":
                point.update(ci95=interval, interval=intervals.kind)
    return _plain(result)


def _plain(value: Any) -> Any:
    """Tuples as lists: what JSON makes of them anyway, so that the value returned equals the file read back."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
