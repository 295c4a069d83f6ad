"""Scores of a pair set to everything that is reported about it: the content of `results.json` (docs/results.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from facekd.verification import Rule, area_under_roc, equal_error_point, kfold_accuracy, tar_at_far
from facekd.verification.bootstrap import MIN_SUBJECTS, bootstrap_intervals

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
        VerificationError: see the functions of `facekd.verification` and `facekd.verification.bootstrap`.
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
