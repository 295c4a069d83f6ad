"""Reads the scores that an evaluation left beside its results, and refuses results that those scores do not give.

Whoever draws a curve of `scores.npy` beside a number of `results.json` checks the two first: files that were copied
together, or left by a run that was stopped, look like any others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_npy
from facekd.results.shape import ROUNDING
from facekd.utils.wording import counted
from facekd.verification.kfold import kfold_accuracy
from facekd.verification.ranked_scores import RankedScores

REMEDY = "run the evaluation again"


def read_scores(folder: Path, remedy: str = REMEDY) -> np.ndarray | None:
    """Reads the scores (P,) that an evaluation left in a folder; returns None if it left none.

    Raises:
        DataError: the file is damaged, or holds no scores.
    """
    path = folder / "scores.npy"
    try:
        scores = read_npy(path, remedy)
    except FileNotFoundError:
        return None
    if scores.ndim != 1 or scores.dtype.kind != "f":
        raise DataError(f"{path}: expected one score for each pair; {remedy}")
    return scores


def read_checked_scores(
    folder: Path, result: Mapping[str, Any], is_same: np.ndarray, remedy: str = REMEDY
) -> np.ndarray:
    """Reads the scores (P,) of a folder whose results are known, and checks them; see `check_scores`.

    Raises:
        DataError: there are none, or they give other numbers.
    """
    scores = read_scores(folder, remedy)
    if scores is None:
        raise DataError(f"{folder / 'scores.npy'}: is gone; {remedy}")
    check_scores(scores, is_same, result, folder, folder / "results.json", remedy=remedy)
    return scores


def check_scores(
    scores: np.ndarray,
    is_same: np.ndarray,
    result: Mapping[str, Any],
    folder: Path,
    file: Path,
    fold_of: np.ndarray | None = None,
    remedy: str = REMEDY,
) -> None:
    """Counts the scores again: at each threshold of the results, the EER, and the accuracy if the folds are known.

    Args:
        scores: (P,) as `read_scores` returns them; NaN for pairs left out.
        is_same: bool (P,), true for genuine pairs.
        result: what `results.json` says of these pairs.
        folder: folder of the scores.
        file: the file of the results.
        fold_of: (P,) the fold of each pair; None leaves the accuracy unchecked.
        remedy: what to do about it, for the message.

    Raises:
        DataError: the scores give other numbers; the message names both files.
    """
    # The pairs: all of the set, but those left out.
    kept = np.isfinite(scores)
    both = f"{file} and {folder / 'scores.npy'} do not belong together"
    if len(scores) != len(is_same):
        raise DataError(
            f"{both}: the second holds {counted(len(scores), 'score')} for {counted(len(is_same), 'pair')}; {remedy}"
        )
    genuine, impostor = scores[kept & is_same], scores[kept & ~is_same]
    counts = result["tar_at_far"][0]["num_genuine"], result["tar_at_far"][0]["num_impostor"]
    if counts != (len(genuine), len(impostor)):
        raise DataError(
            f"{both}: {counts[0]:,} genuine and {counted(counts[1], 'impostor pair')} in the first, {len(genuine):,} "
            f"and {len(impostor):,} in the second; {remedy}"
        )

    # Each number with what the scores give: (its name, recorded, found).
    ranked = RankedScores(genuine, impostor)
    numbers = [("the EER", result["eer"], ranked.equal_error_point().eer)]
    for point in result["tar_at_far"]:
        if point["tar"] is not None:
            false_accepts, true_accepts = ranked.accepted(point["threshold"])
            numbers.append((f"the TAR at FAR {point['far']:g}", point["tar"], true_accepts / len(genuine)))
            achieved = false_accepts / len(impostor)
            numbers.append((f"the FAR achieved for FAR {point['far']:g}", point["achieved_far"], achieved))
    if fold_of is not None and kept.all() and "accuracy" in result:
        accuracy = kfold_accuracy(scores, is_same, fold_of).mean
        numbers.append(("the accuracy", result["accuracy"]["mean"], accuracy))
    for name, recorded, found in numbers:
        if not abs(recorded - found) <= ROUNDING:
            raise DataError(
                f"{both}: {name} is {100 * recorded:.4f} % in the first, and {100 * found:.4f} % by the second; "
                f"{remedy}"
            )


def check_curves(curves: Mapping[str, np.ndarray], result: Mapping[str, Any], folder: Path) -> None:
    """Checks that the ROC of `curves.npz` passes through the operating points of the results.

    A ROC never falls: a point of it further to the right than an operating point cannot lie below that.

    Args:
        curves: its arrays, with `roc_far` and `roc_tar` (K,) or without.
        result: the results.
        folder: the folder of both.

    Raises:
        DataError: it does not.
    """
    if "roc_far" not in curves:
        return
    far, tar = curves["roc_far"], curves["roc_tar"]
    for point in result.get("tar_at_far") or []:
        if point["tar"] is None:
            continue
        above = (far < point["achieved_far"] - ROUNDING) & (tar > point["tar"] + ROUNDING)
        below = (far > point["achieved_far"] + ROUNDING) & (tar < point["tar"] - ROUNDING)
        if (above | below).any():
            raise DataError(
                f"{folder / 'results.json'} and {folder / 'curves.npz'} do not belong together: the ROC of the second "
                f"misses the TAR at FAR {point['far']:g} of the first; {REMEDY}"
            )
