"""Tests that kept scores are read, and that results they do not give are refused by name."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.results.kept_scores import check_curves, check_scores, read_checked_scores, read_scores
from facekd.verification import equal_error_rate, kfold_accuracy, roc_curve, tar_at_far

IS_SAME = np.arange(300) % 3 == 0
FOLD_OF = np.arange(300) // 30
SCORES = np.random.default_rng(0).normal(np.where(IS_SAME, 0.6, 0.0), 0.4)


def results(scores):
    """Builds what an evaluation records of its scores, with one FAR that so few impostors cannot measure."""
    kept = np.isfinite(scores)
    genuine, impostor = scores[kept & IS_SAME], scores[kept & ~IS_SAME]
    return {
        "eer": equal_error_rate(genuine, impostor),
        "tar_at_far": [dataclasses.asdict(point) for point in tar_at_far(genuine, impostor, [1e-6, 0.1, 0.01])],
        "accuracy": {"mean": kfold_accuracy(scores[kept], IS_SAME[kept], FOLD_OF[kept]).mean},
    }


def check(scores, result, folder, fold_of=FOLD_OF):
    check_scores(scores, IS_SAME, result, folder, folder / "its results.json", fold_of, "do this")


def test_scores_come_back_and_fit_their_results(tmp_path):
    assert read_scores(tmp_path) is None
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'scores.npy'}: is gone; do this")):
        read_checked_scores(tmp_path, results(SCORES), IS_SAME, "do this")
    np.save(tmp_path / "scores.npy", SCORES)
    np.testing.assert_array_equal(read_scores(tmp_path), SCORES)
    np.testing.assert_array_equal(read_checked_scores(tmp_path, results(SCORES), IS_SAME), SCORES)
    other = re.escape(f"{tmp_path / 'results.json'} and {tmp_path / 'scores.npy'} do not belong together")
    with pytest.raises(DataError, match=other + ".* 290 scores for 300 pairs; do this"):
        np.save(tmp_path / "scores.npy", SCORES[:290])
        read_checked_scores(tmp_path, results(SCORES), IS_SAME, "do this")


@pytest.mark.parametrize("wrong", [SCORES[:, None], SCORES.astype(np.int64), SCORES > 0.5])
def test_an_array_of_another_kind_is_no_scores(wrong, tmp_path):
    np.save(tmp_path / "scores.npy", wrong)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'scores.npy'}: expected one score for each pair; do")):
        read_scores(tmp_path, "do this")
    with pytest.raises(DataError, match="expected one score for each pair; do this"):
        read_checked_scores(tmp_path, results(SCORES), IS_SAME, "do this")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.update(eer=result["eer"] + 1e-8), r"the EER is \d+\.\d{4} % in the first, and"),
        (lambda result: result["tar_at_far"][1].update(tar=0.25), "the TAR at FAR 0.1 is 25.0000 % in the first, and"),
        (lambda result: result["tar_at_far"][2].update(achieved_far=0.5), "the FAR achieved for FAR 0.01 is 50.0000 %"),
        (lambda result: result["tar_at_far"][2].update(threshold=0.0), "the TAR at FAR 0.01 is"),
        (lambda result: result["tar_at_far"][0].update(num_genuine=99), "99 genuine and 200 impostor pairs in the"),
        (
            lambda result: result["tar_at_far"][0].update(num_impostor=7),
            "100 genuine and 7 impostor pairs in the first, 100 ",
        ),
        (lambda result: result["accuracy"].update(mean=float("nan")), "the accuracy is nan % in the first"),
    ],
)
def test_each_number_that_the_scores_do_not_give_is_named(change, message, tmp_path):
    result = results(SCORES)
    check(SCORES, result, tmp_path)
    change(result)
    with pytest.raises(DataError, match=message) as caught:
        check(SCORES, result, tmp_path)
    both = f"{tmp_path / 'its results.json'} and {tmp_path / 'scores.npy'} do not belong together: "
    assert str(caught.value).startswith(both) and str(caught.value).endswith("; do this")


def test_the_accuracy_is_left_unchecked_without_folds_or_with_pairs_left_out(tmp_path):
    result = results(SCORES)
    result["accuracy"]["mean"] = 0.0
    check(SCORES, result, tmp_path, fold_of=None)
    with_gaps = np.where(np.arange(300) % 50 == 0, np.nan, SCORES)
    check(with_gaps, {**results(with_gaps), "accuracy": {"mean": 0.0}}, tmp_path)
    del result["accuracy"]
    check(SCORES, result, tmp_path)


def test_a_roc_must_pass_through_the_operating_points(tmp_path):
    result = results(SCORES)
    roc = roc_curve(SCORES[IS_SAME], SCORES[~IS_SAME])
    curves = {"roc_far": roc.far, "roc_tar": roc.tar}
    check_curves(curves, result, tmp_path)
    check_curves({}, result, tmp_path)
    check_curves(curves, {**result, "tar_at_far": None}, tmp_path)
    check_curves(curves, {}, tmp_path)
    for point in (1, 2):
        for change in (-0.2, 0.2):
            moved = copy.deepcopy(result)
            moved["tar_at_far"][point]["tar"] += change
            message = f"misses the TAR at FAR {moved['tar_at_far'][point]['far']:g} of the first; run the evaluation"
            with pytest.raises(DataError, match=message):
                check_curves(curves, moved, tmp_path)
