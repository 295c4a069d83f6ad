"""Turns 1:1 scores into what results.json and curves.npz report about them (docs/results.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from facekd.utils.wording import counted
from facekd.verification import KFoldAccuracy, Rule, kfold_accuracy
from facekd.verification.intervals.bootstrap import (
    MIN_SUBJECTS,
    BootstrapIntervals,
    bootstrap_intervals,
    intervals_of_draws,
)
from facekd.verification.intervals.subject_bootstrap import Comparisons, measure_draws
from facekd.verification.ranked_scores import RankedScores

MAX_TIED = 0.01  # share of the false accepts allowed; a larger tie at a threshold is reported
LFW_FARS = (1e-1, 1e-2, 1e-3, 1e-4)  # a pack of 6,000 pairs measures no stricter one
Subjects = tuple[np.ndarray, np.ndarray]  # the first and the second subject of each pair, (N,) each


def measure_pairs(
    scores: np.ndarray,
    is_same: np.ndarray,
    fold_of: int | np.ndarray = 10,
    fars: Sequence[float] = LFW_FARS,
    rule: Rule = "exact",
    subjects: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes k-fold accuracy, EER, AUC and TAR@FAR of a pair set with intervals, as plain values for JSON.

    Args:
        scores: (N,) in the order of the protocol.
        is_same: bool (N,).
        fold_of: number of contiguous folds, or (N,) the fold of each pair.
        fars: targets for TAR@FAR.
        rule: see `facekd.verification.tar_at_far`.
        subjects: (N, 2), if known: intervals then resample subjects. If subjects are not known or too few, pairs are
            resampled, and the result says which.
        replicates: number of bootstrap draws; 0 leaves only Wilson's intervals, at the threshold taken.
        seed: random seed of the draws.

    Raises:
        InputError: see the functions of `facekd.verification` and `facekd.verification.intervals.bootstrap`.
    """
    # The point estimates, with Wilson's intervals at the threshold taken.
    accuracy = kfold_accuracy(scores, is_same, fold_of)
    ranked = RankedScores(scores[is_same], scores[~is_same])
    measured = measure_verification(ranked, fars, rule, accuracy)
    # Bootstrap intervals, which let the threshold vary too.
    if replicates:
        columns = None if subjects is None else (subjects[:, 0], subjects[:, 1])
        add_intervals(measured, ranked, scores, is_same, columns, replicates, seed, if_few="pairs")
    return measured


def measure_verification(
    ranked: RankedScores, fars: Sequence[float], rule: Rule, accuracy: KFoldAccuracy | None = None
) -> dict[str, Any]:
    """Computes counts, EER, AUC and TAR@FAR with Wilson's intervals, as plain values for JSON.

    Args:
        ranked: the scores.
        fars: targets for TAR@FAR.
        rule: see `facekd.verification.tar_at_far`.
        accuracy: k-fold accuracy of the same scores, if the protocol has folds; reported with the rest.
    """
    equal_error = ranked.equal_error_point()
    points = [_plain(asdict(point)) for point in ranked.tar_at_far(fars, rule)]
    for point in points:
        point["ci95_at_threshold"] = point["ci95"]  # Wilson's; a bootstrap lets the threshold vary too
    return {
        "num_pairs": ranked.genuine.size + ranked.impostor.size,
        "num_genuine": ranked.genuine.size,
        "num_impostor": ranked.impostor.size,
        **({} if accuracy is None else {"accuracy": _plain(asdict(accuracy))}),
        "eer": equal_error.eer,
        "eer_threshold": equal_error.threshold,
        "eer_ci95": None,
        "auc": ranked.area_under_roc(),
        "tar_at_far": points,
        "bootstrap": None,
    }


def add_intervals(
    measured: dict[str, Any],
    ranked: RankedScores,
    scores: np.ndarray,
    is_same: np.ndarray,
    subjects: Subjects | None,
    replicates: int,
    seed: int,
    if_few: Literal["pairs", "wilson"] = "wilson",
) -> None:
    """Adds bootstrap intervals to what `measure_verification` returned; a note says if they are of another kind.

    Args:
        measured: changed in place.
        ranked: the scores, ranked.
        scores, is_same: (P,) the same scores pair by pair, and which pairs are genuine.
        subjects: first and second subject of each pair, (P,) each, names or whole numbers; None resamples pairs.
        replicates: number of draws.
        seed: random seed of the draws.
        if_few: what to do if too few subjects are known: resample pairs, or leave Wilson's intervals.

    Raises:
        InputError: see `facekd.verification.intervals.bootstrap.bootstrap_intervals`.
    """
    about: dict[str, Any] = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": seed, "note": None}
    measured["bootstrap"] = about

    # Where an interval over subjects is impossible, say so.
    if subjects is not None:
        first, second = subjects
        known = len(np.unique(first[is_same]))
        if if_few == "wilson" and ((first == second) != is_same).any():
            about["note"] = (
                "the labels of the pairs contradict each other's subjects: no interval over subjects can be made"
            )
            return
        if known < MIN_SUBJECTS:
            found = _too_few(known)
            if if_few == "wilson":
                about["note"] = f"{found}intervals are Wilson's"
                return
            about["note"], subjects = f"{found}pairs were resampled instead", None

    fars = [point["far"] for point in measured["tar_at_far"]]
    put_intervals(measured, bootstrap_intervals(scores, is_same, fars, subjects, replicates, seed, ranked))


def add_intervals_of_all_pairs(
    measured: dict[str, Any],
    ranked: RankedScores,
    pairs: Comparisons,
    num_genuine_people: int,
    replicates: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Adds bootstrap intervals over people to what `measure_verification` returned, or a note that there are too few.

    Args:
        measured: changed in place.
        ranked: the scores of all pairs of a set, ranked.
        pairs: the same pairs, whose units are people.
        num_genuine_people: number of people with several images.
        replicates: number of draws; 0 for none.
        seed: random seed of the draws.

    Returns:
        What was measured in each draw, the arrays of draws.npz: `eer` (R,), `fars` (F,) those that are measurable, and
        `tar` (F, R). Nothing without draws.
    """
    if not replicates:
        return {}
    about: dict[str, Any] = {"resampled": None, "num_subjects": None, "replicates": 0, "seed": seed, "note": None}
    measured["bootstrap"] = about
    if num_genuine_people < MIN_SUBJECTS:
        about["note"] = _too_few(num_genuine_people) + "intervals are Wilson's"
        return {}
    points = measured["tar_at_far"]
    fars, equal_error_far = [point["far"] for point in points], ranked.equal_error_point().far
    draws = measure_draws(pairs, equal_error_far, fars, replicates, seed)
    put_intervals(measured, intervals_of_draws(ranked, fars, draws, pairs.num_units))
    kept = [row for row, point in enumerate(points) if point["tar"] is not None]
    return {"eer": draws.eer, "fars": np.array([fars[row] for row in kept]), "tar": draws.tar[kept]}


def put_intervals(measured: dict[str, Any], intervals: BootstrapIntervals) -> None:
    """Puts bootstrap intervals in the place of Wilson's, and says how they were made."""
    about = measured["bootstrap"]
    measured["eer_ci95"] = list(intervals.eer)
    about["resampled"] = "pairs" if intervals.num_subjects is None else "subjects"
    about["num_subjects"], about["replicates"] = intervals.num_subjects, intervals.replicates
    # The draws find their thresholds by the exact rule; beside the TAR of the other rule they would mislead.
    for point, bounds in zip(measured["tar_at_far"], intervals.tar, strict=True):
        if bounds is not None and point["rule"] == "exact":
            point.update(ci95=list(bounds), interval=intervals.kind)


def _too_few(known: int) -> str:
    return f"only {counted(known, 'subject has', 'subjects have')} genuine pairs, {MIN_SUBJECTS} are needed: "


def notes_on_ties(ranked: RankedScores, measured: dict[str, Any]) -> list[str]:
    """Returns a sentence for each threshold that a large tie moves: equal scores are accepted or refused together."""
    notes = []
    for point in measured["tar_at_far"]:
        if point["tar"] is None:
            continue
        tied = ranked.num_tied_at(point["threshold"])
        if tied > max(1, MAX_TIED * point["far"] * ranked.impostor.size):
            notes.append(
                f"FAR {point['far']:g}: {counted(tied, 'impostor pair shares', 'impostor pairs share')} the score "
                f"just below the threshold, so it accepts only {counted(point['false_accepts'], 'impostor')}; look "
                "for equal images in different templates, or embeddings of too few digits"
            )
    return notes


def verification_curves(ranked: RankedScores) -> dict[str, np.ndarray]:
    """Returns the arrays `roc_*` and `histogram_*` of curves.npz."""
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


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Makes lists of tuples, as JSON does, so that the values returned equal the file read back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
