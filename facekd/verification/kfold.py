"""Computes k-fold verification accuracy (LFW): each fold is evaluated at the threshold chosen on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted
from facekd.verification.operating_points import (
    just_above,
    midway_threshold,
)
from facekd.verification.scores import checked_is_same, checked_scores, fold_indices

USUAL_FOLDS = 10  # those of LFW
FoldKind = Literal["auto", "contiguous", "balanced"]


@dataclass(frozen=True)
class KFoldAccuracy:
    """Holds the accuracy of each fold at the threshold that is best on the other folds; see `kfold_accuracy`."""

    mean: float
    std: float  # population standard deviation over the folds, as the face-verification tables give it
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def kfold_accuracy(scores: ArrayLike, is_same: ArrayLike, folds: int | ArrayLike = USUAL_FOLDS) -> KFoldAccuracy:
    """Computes the accuracy of each fold at the threshold that is most accurate on the other folds (LFW protocol).

    The threshold is exact: every midpoint between neighbouring scores of the other folds is tried, and both ends. Of
    several equally accurate thresholds the middle one is taken; of an even number, the lower of the two in the middle.

    Args:
        scores: (N,) in the order of the protocol.
        is_same: (N,) bool or 0 / 1.
        folds: number of folds (contiguous, the first N mod folds of them one larger), or (N,) the fold of each pair.

    Raises:
        InputError: shapes disagree, non-finite scores, one fold, fewer pairs than folds, a number of folds of which
            one would hold a single kind of pair (see `balanced_folds`), or folds whose complement lacks genuine or
            impostor pairs (no threshold can be learnt there).
    """
    scores = checked_scores(scores, "scores")
    is_same = checked_is_same(is_same, scores.size)
    fold_of = fold_indices(scores.size, folds)
    if np.ndim(folds) == 0 and (one_kind := one_kind_folds(is_same, fold_of)).size:
        raise InputError(
            f"{one_kind.size} of {counted(int(fold_of.max()) + 1, 'contiguous fold')} "
            f"{agreeing(one_kind.size, 'holds', 'hold')} one kind of pair only, the first "
            f"{describe_fold(is_same, fold_of, int(one_kind[0]))}, so thresholds would be chosen on too many of the "
            "other kind; pass balanced_folds(is_same, K), or the fold of each pair"
        )
    order = np.argsort(scores, kind="stable")  # sorted once for all folds
    accuracies, thresholds = [], []
    for fold in range(int(fold_of.max()) + 1):
        # Choose the threshold on the other folds.
        others = order[fold_of[order] != fold]
        genuine_share = is_same[others].mean()
        if genuine_share in (0.0, 1.0):
            kind = "genuine" if genuine_share == 0 else "impostor"
            raise InputError(
                f"without fold {fold + 1} of {int(fold_of.max()) + 1} no {kind} pairs remain to choose a threshold "
                "from: each fold must hold both kinds, as those of balanced_folds do"
            )
        threshold = most_accurate_threshold(scores[others], is_same[others])
        # Evaluate it on this one.
        inside = fold_of == fold
        accuracies.append(float(np.mean((scores[inside] >= threshold) == is_same[inside])))
        thresholds.append(float(threshold))
    return KFoldAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds))


def one_kind_folds(is_same: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Returns the numbers of the folds that hold genuine pairs only or impostor pairs only, ascending.

    The accuracy of such a fold says little: the other folds have too few pairs of its kind, so the threshold chosen on
    them is shifted against it, and a weak model is wrong about nearly all of its pairs.

    Args:
        is_same: bool (N,).
        fold_of: int64 (N,), the fold of each pair, from 0.
    """
    sizes = np.bincount(fold_of)
    num_genuine = np.bincount(fold_of[is_same], minlength=len(sizes))
    return np.flatnonzero((sizes > 0) & ((num_genuine == 0) | (num_genuine == sizes)))


@dataclass(frozen=True)
class ChosenFolds:
    """Holds the folds that the pairs of a set were given.

    Attributes:
        fold_of: int64 (N,), the fold of each pair, from 0.
        kind: how they were made: "contiguous" ranges of the pairs, as "recorded" with the set, or "balanced".
        warnings: sentences: how they differ from those asked for, and what makes the accuracy doubtful.
    """

    fold_of: np.ndarray
    kind: str
    warnings: tuple[str, ...] = ()


def choose_folds(
    is_same: np.ndarray,
    folds: int = USUAL_FOLDS,
    recorded: np.ndarray | None = None,
    kind: FoldKind = "auto",
    fewer: bool = False,
) -> ChosenFolds:
    """Gives each pair of a set its fold, as `facekd evaluate lfw` and model cards do.

    Args:
        is_same: bool (N,).
        folds: number of folds K.
        recorded: int64 (N,), the folds that came with the set; they take the place of contiguous ones if they are K.
        kind: "contiguous"; "balanced", see `balanced_folds`; or "auto", which takes contiguous folds if each holds both
            kinds of pair, and otherwise balanced ones, with a warning.
        fewer: whether to take fewer folds where there are not enough pairs of a kind for all of them.

    Raises:
        InputError: fewer than two folds, or more than there are pairs, or pairs of a kind for balanced ones.
    """
    asked, num_genuine = folds, int(is_same.sum())
    most, warnings = min(num_genuine, len(is_same) - num_genuine), list[str]()
    if fewer and 2 <= most < folds:
        warnings.append(
            f"holds only {counted(most, 'pair')} of a kind; {counted(most, 'fold is', 'folds are')} used instead of "
            f"{folds}"
        )
        folds = most
    if kind == "balanced":
        return ChosenFolds(balanced_folds(is_same, folds), "balanced", tuple(warnings))

    # Contiguous ones, or the set's own, which may differ in size.
    fold_of, made = fold_indices(len(is_same), folds), "contiguous"
    num_recorded = 0 if recorded is None else int(recorded.max()) + 1
    if recorded is not None and num_recorded == folds:
        fold_of, made = recorded, "recorded"
    elif num_recorded not in {0, 1, asked}:
        # Contiguous parts may share people, whom the set's own folds keep apart.
        warnings.append(
            f"records {counted(num_recorded, 'fold')} of its own, which an accuracy over {counted(asked, 'fold')} does "
            f"not take (`facekd evaluate lfw --folds {num_recorded}` does)"
        )
    one_kind = one_kind_folds(is_same, fold_of)
    if not one_kind.size:
        return ChosenFolds(fold_of, made, tuple(warnings))
    about = (
        f"{one_kind.size} of its {counted(folds, made + ' fold')} {agreeing(one_kind.size, 'holds', 'hold')} one kind "
        f"of pair only, the first {describe_fold(is_same, fold_of, int(one_kind[0]))}, which misplaces the thresholds "
        "of the accuracy"
    )
    if kind == "contiguous":
        remedy = "take the accuracy of --fold-kind balanced, which gives each fold a share of both kinds"
        return ChosenFolds(fold_of, made, (*warnings, f"{about}; {remedy}"))
    instead = (
        "genuine and impostor pairs were each cut into contiguous parts instead (`facekd evaluate lfw --fold-kind "
        f"balanced`; `--fold-kind contiguous` keeps the {made} ones)"
    )
    return ChosenFolds(balanced_folds(is_same, folds), "balanced", (*warnings, f"{about}; {instead}"))


def describe_fold(is_same: np.ndarray, fold_of: np.ndarray, fold: int) -> str:
    """Writes what a fold holds, numbered from 1 as people count: `fold 1 (600 genuine, 0 impostor)`."""
    inside = is_same[fold_of == fold]
    return f"fold {fold + 1} ({int(inside.sum()):,} genuine, {int((~inside).sum()):,} impostor)"


def balanced_folds(is_same: ArrayLike, folds: int) -> np.ndarray:
    """Cuts genuine and impostor pairs, each kind by itself, into contiguous parts: int64 (N,), the fold of each pair.

    Every fold then holds its share of both kinds, whatever the order of the pairs.

    Args:
        is_same: (N,) bool or 0 / 1.
        folds: number of folds K.

    Raises:
        InputError: fewer than two folds, or fewer genuine or impostor pairs than folds.
    """
    is_same = checked_is_same(is_same, np.size(is_same))
    num_genuine, num_impostor = int(is_same.sum()), int((~is_same).sum())
    most = min(num_genuine, num_impostor)
    if not 2 <= folds <= most:
        remedy = f"take 2 to {counted(most, 'fold')}" if most >= 2 else "at least two pairs of each kind are needed"
        raise InputError(
            f"{counted(folds, 'fold')} of {num_genuine:,} genuine and {counted(num_impostor, 'impostor pair')} cannot "
            f"be made, since each must hold both kinds; {remedy}"
        )
    fold_of = np.empty(is_same.size, np.int64)
    for kind in (True, False):
        members = np.flatnonzero(is_same == kind)
        fold_of[members] = fold_indices(members.size, folds)
    return fold_of


def most_accurate_threshold(scores: np.ndarray, is_same: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Returns the threshold at which most pairs are classified correctly; see `kfold_accuracy` for ties.

    Args:
        scores: (n,) ascending.
        is_same: bool (n,).
        weights: (n,) how often each pair counts, whole numbers above 0; None counts each once.
    """
    # Cut j rejects the first j pairs; only cuts between different scores can be made.
    weighed = np.ones(scores.size) if weights is None else weights
    rejected_impostors = np.concatenate([[0], np.cumsum(weighed * ~is_same)])
    rejected_genuine = np.concatenate([[0], np.cumsum(weighed)]) - rejected_impostors
    correct = rejected_impostors - rejected_genuine  # plus the number of genuine pairs, the same for every cut
    cuts = np.concatenate([[0], np.flatnonzero(scores[1:] > scores[:-1]) + 1, [scores.size]])
    best = cuts[correct[cuts] == correct[cuts].max()]
    cut = best[(best.size - 1) // 2]
    if cut == 0:
        return scores[0]
    if cut == scores.size:
        return just_above(scores[-1])
    return midway_threshold(scores[cut - 1], scores[cut])
