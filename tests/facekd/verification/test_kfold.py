"""Tests which folds the pairs of a set are given, and what is said about them; test_metrics.py tests the accuracy."""

from __future__ import annotations

import re

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import balanced_folds, fold_indices
from facekd.verification.kfold import FoldKind, choose_folds

MIXED = np.tile([True, False], 10)
RECORDED = np.roll(np.arange(20) // 2 % 5, 2)  # pairs 0 and 1 in fold 4, each fold with two of each kind
BY_KIND = np.arange(12) < 6  # three contiguous folds: 4 genuine pairs, 2 of each kind, 4 impostor pairs
ABOUT = (
    "2 of its 3 contiguous folds hold one kind of pair only, the first fold 1 (4 genuine, 0 impostor), which misplaces "
    "the thresholds of the accuracy; "
)


@pytest.mark.parametrize("kind", ["auto", "contiguous"])
@pytest.mark.parametrize(
    ("recorded", "expected", "made"),
    [
        (None, fold_indices(20, 5), "contiguous"),
        (RECORDED, RECORDED, "recorded"),
        (np.zeros(20, np.int64), fold_indices(20, 5), "contiguous"),  # a set that records none
    ],
)
def test_folds_with_both_kinds_are_contiguous_or_those_of_the_set(
    kind: FoldKind, recorded: np.ndarray | None, expected: np.ndarray, made: str
) -> None:
    chosen = choose_folds(MIXED, 5, recorded, kind)
    np.testing.assert_array_equal(chosen.fold_of, expected)
    assert (chosen.kind, chosen.warnings) == (made, ())


@pytest.mark.parametrize("kind", ["auto", "contiguous"])
def test_recorded_folds_of_another_number_than_asked_for_are_said_to_be_left(kind: FoldKind) -> None:
    chosen = choose_folds(MIXED, 5, np.arange(20) // 2 % 4, kind)
    np.testing.assert_array_equal(chosen.fold_of, fold_indices(20, 5))
    left = "records 4 folds of its own, which an accuracy over 5 folds does not take"
    told = f"{left} (`facekd evaluate lfw --folds 4` does)"
    assert (chosen.kind, chosen.warnings) == ("contiguous", (told,))


def test_folds_with_one_kind_are_kept_with_a_warning_or_replaced_by_balanced_ones() -> None:
    kept, replaced = choose_folds(BY_KIND, 3, kind="contiguous"), choose_folds(BY_KIND, 3)
    np.testing.assert_array_equal(kept.fold_of, fold_indices(12, 3))
    remedy = "take the accuracy of --fold-kind balanced, which gives each fold a share of both kinds"
    assert (kept.kind, kept.warnings) == ("contiguous", (ABOUT + remedy,))
    np.testing.assert_array_equal(replaced.fold_of, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2])
    instead = (
        "genuine and impostor pairs were each cut into contiguous parts instead (`facekd evaluate lfw --fold-kind "
        "balanced`; `--fold-kind contiguous` keeps the contiguous ones)"
    )
    assert (replaced.kind, replaced.warnings) == ("balanced", (ABOUT + instead,))


def test_a_recorded_fold_with_one_kind_is_named() -> None:
    recorded = np.array([0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1])
    about = "1 of its 3 recorded folds holds one kind of pair only, the first fold 3 (2 genuine, 0 impostor), which "
    kept, replaced = choose_folds(BY_KIND, 3, recorded, "contiguous"), choose_folds(BY_KIND, 3, recorded)
    np.testing.assert_array_equal(kept.fold_of, recorded)
    assert kept.kind == "recorded" and len(kept.warnings) == 1 and kept.warnings[0].startswith(about)
    np.testing.assert_array_equal(replaced.fold_of, balanced_folds(BY_KIND, 3))
    assert replaced.kind == "balanced" and len(replaced.warnings) == 1 and replaced.warnings[0].startswith(about)
    assert replaced.warnings[0].endswith("`--fold-kind contiguous` keeps the recorded ones)")


def test_balanced_folds_are_made_where_they_are_asked_for() -> None:
    chosen = choose_folds(MIXED, 5, RECORDED, "balanced")
    np.testing.assert_array_equal(chosen.fold_of, balanced_folds(MIXED, 5))
    assert (chosen.kind, chosen.warnings) == ("balanced", ())


def test_fewer_folds_are_used_with_a_warning_where_pairs_are_too_few() -> None:
    few = "holds only 6 pairs of a kind; 6 folds are used instead of 10"
    for kind in ("auto", "balanced"):
        chosen = choose_folds(BY_KIND, kind=kind, fewer=True)
        np.testing.assert_array_equal(chosen.fold_of, [0, 1, 2, 3, 4, 5] * 2)
        assert chosen.kind == "balanced" and chosen.warnings[0] == few
    assert choose_folds(MIXED, 10, fewer=True).warnings == ()  # exactly enough
    mixed = choose_folds(MIXED, 20, fewer=True)
    np.testing.assert_array_equal(mixed.fold_of, fold_indices(20, 10))
    assert mixed.warnings == ("holds only 10 pairs of a kind; 10 folds are used instead of 20",)


@pytest.mark.parametrize(
    ("is_same", "folds", "asked", "remedy"),
    [
        (BY_KIND, 7, "7 folds of 6 genuine and 6 impostor pairs", "take 2 to 6 folds"),
        (BY_KIND, 1, "1 fold of 6 genuine and 6 impostor pairs", "take 2 to 6 folds"),
        (np.arange(4) < 3, 2, "2 folds of 3 genuine and 1 impostor pair", "at least two pairs of each kind are needed"),
    ],
)
def test_balanced_folds_that_cannot_be_made_say_what_can(
    is_same: np.ndarray, folds: int, asked: str, remedy: str
) -> None:
    message = f"^{re.escape(f'{asked} cannot be made, since each must hold both kinds; {remedy}')}$"
    with pytest.raises(InputError, match=message):
        balanced_folds(is_same, folds)
    with pytest.raises(InputError, match=message):
        choose_folds(is_same, folds, kind="balanced")
