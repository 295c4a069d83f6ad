"""Tests the paired bootstrap against a restatement that counts every comparison of every draw one by one."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import (
    equal_error_rate,
    kfold_accuracy,
    num_allowed_false_accepts,
    tar_at_far,
)
from facekd.verification.intervals import paired_bootstrap
from facekd.verification.intervals.paired_bootstrap import PairedBootstrap, difference, differences

FARS = (1e-2, 1e-1, 0.5, 1.0)


def make_comparisons(num_subjects: int = 25, images: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor comparisons of all images: subjects (P, 2) and labels."""
    subject_of = np.repeat(np.arange(num_subjects), images)
    first, second = np.triu_indices(len(subject_of), 1)
    subjects = np.stack([subject_of[first], subject_of[second]], axis=1)
    order = np.random.default_rng(seed).permutation(len(first))
    return subjects[order], subjects[order][:, 0] == subjects[order][:, 1]


def make_scores(subjects: np.ndarray, is_same: np.ndarray, noise: float, seed: int, decimals: int = 2) -> np.ndarray:
    generator = np.random.default_rng(seed)
    per_subject = generator.normal(0, 0.4, subjects.max() + 1)
    scores = 2.0 * is_same + per_subject[subjects].mean(axis=1) + noise * generator.normal(size=len(is_same))
    return np.round(scores, decimals)  # ties, across the kinds too


def counted_one_by_one(scores: np.ndarray, is_same: np.ndarray, counts: np.ndarray, far: float) -> float:
    """TAR at a FAR when comparison i occurs `counts[i]` times: every comparison written out that often."""
    repeated = np.repeat(np.arange(len(scores)), counts.astype(int))
    genuine, impostor = scores[repeated][is_same[repeated]], scores[repeated][~is_same[repeated]]
    if not len(genuine) or num_allowed_false_accepts(far, len(impostor)) < 1:
        return float("nan")
    return tar_at_far(genuine, impostor, far)[0].tar  # type: ignore[return-value]


@pytest.mark.parametrize("known", [True, False], ids=["people", "comparisons"])
def test_each_draw_is_what_counting_gives(known: bool) -> None:
    subjects, is_same = make_comparisons()
    scores = make_scores(subjects, is_same, 0.6, 1)
    draws, seed = 100, 7
    bootstrap = PairedBootstrap(is_same, subjects if known else None, FARS, draws, seed)
    measured, drawn = bootstrap.tars(scores)
    assert measured.tolist() == [point.tar for point in tar_at_far(scores[is_same], scores[~is_same], FARS)]
    fold_of = np.arange(len(scores)) % 4
    eers, accuracies = bootstrap.eers(scores), bootstrap.accuracies(scores, fold_of)
    assert eers[0] == equal_error_rate(scores[is_same], scores[~is_same])
    assert accuracies[0] == kfold_accuracy(scores, is_same, fold_of).mean
    for draw in range(0, draws, 9):
        generator = np.random.default_rng([seed, draw])
        if known:
            people = np.bincount(generator.integers(25, size=25), minlength=25)
            counts = np.where(is_same, people[subjects[:, 0]], people[subjects[:, 0]] * people[subjects[:, 1]])
        else:
            counts = np.empty(len(scores))
            for kind in (is_same, ~is_same):
                size = int(kind.sum())
                counts[kind] = np.bincount(generator.integers(size, size=size), minlength=size)
        repeated = np.repeat(np.arange(len(scores)), counts.astype(int))
        same = is_same[repeated]
        assert eers[1][draw] == pytest.approx(equal_error_rate(scores[repeated][same], scores[repeated][~same]), 1e-12)
        expected_accuracy = kfold_accuracy(scores[repeated], same, fold_of[repeated]).mean
        assert accuracies[1][draw] == pytest.approx(expected_accuracy, 1e-12)
        expected = [counted_one_by_one(scores, is_same, counts, far) for far in FARS]
        assert np.array_equal(drawn[draw], expected, equal_nan=True)


def test_a_far_that_cannot_be_measured_is_none() -> None:
    subjects, is_same = make_comparisons()
    bootstrap = PairedBootstrap(is_same, subjects, [1e-6, 0.1], 100)
    one = bootstrap.tars(make_scores(subjects, is_same, 0.6, 1))
    first, second = differences(one, one, [1e-6, 0.1])
    assert first.difference is None and first.p_value is None
    assert second.difference == 0 and second.p_value == 1 and second.ci95 == (0, 0)


def test_looking_further_down_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first look takes as many impostors as a FAR allows, the thresholds of many draws lie deeper."""
    subjects, is_same = make_comparisons()
    scores = make_scores(subjects, is_same, 0.6, 3, decimals=6)
    wide = PairedBootstrap(is_same, subjects, [0.01], 100, 5).tars(scores)[1]
    monkeypatch.setattr(paired_bootstrap, "SPARE", 1)
    monkeypatch.setattr(paired_bootstrap, "EXTRA", 0)
    narrow = PairedBootstrap(is_same, subjects, [0.01], 100, 5).tars(scores)[1]
    assert np.array_equal(narrow, wide)


def test_pairing_finds_what_two_intervals_cannot() -> None:
    """Both models share who is difficult; one is a little worse for everybody."""
    subjects, is_same = make_comparisons(40, 4)
    generator = np.random.default_rng(1)
    shared = make_scores(subjects, is_same, 0.4, 2, decimals=9)
    better = shared + 0.05 * generator.normal(size=len(shared))
    worse = shared + 0.05 * generator.normal(size=len(shared)) - 0.25 * is_same
    bootstrap = PairedBootstrap(is_same, subjects, [0.01], 400)
    first, second = bootstrap.tars(worse), bootstrap.tars(better)
    [found] = differences(first, second, [0.01])
    assert found.difference is not None and found.ci95 is not None and found.p_value is not None
    assert found.difference > 0 and found.ci95[0] > 0 and found.p_value < 0.02
    intervals = [np.quantile(model[1][:, 0], (0.025, 0.975)) for model in (first, second)]
    assert intervals[0][1] > intervals[1][0]  # apart they overlap
    [reverse] = differences(second, first, [0.01])
    assert reverse.difference == -found.difference and reverse.p_value == found.p_value


@pytest.mark.slow
def test_equal_models_are_called_different_about_as_often_as_claimed() -> None:
    called = 0
    for repetition in range(100):
        subjects, is_same = make_comparisons(40, 3, repetition)
        shared = make_scores(subjects, is_same, 0.5, repetition, decimals=9)
        generator = np.random.default_rng(1000 + repetition)
        models = [shared + 0.3 * generator.normal(size=len(shared)) for _ in range(2)]
        bootstrap = PairedBootstrap(is_same, subjects, [0.05], 300, repetition)
        [found] = differences(*(bootstrap.tars(scores) for scores in models), [0.05])
        called += (found.p_value or 0) < 0.05
    print(f"called different: {called} of 100")
    assert called <= 11  # of 100 at 5 %, once in a hundred runs by chance


def test_what_cannot_be_compared_is_refused() -> None:
    subjects, is_same = make_comparisons(12)
    with pytest.raises(InputError, match="50 draws are too few"):
        PairedBootstrap(is_same, subjects, [0.1], 50)
    with pytest.raises(InputError, match="contradict the labels"):
        PairedBootstrap(~is_same, subjects, [0.1])
    with pytest.raises(InputError, match="expected"):
        PairedBootstrap(is_same, subjects[:-1], [0.1])
    with pytest.raises(InputError, match="one kind is absent"):
        PairedBootstrap(np.ones(5, bool), None, [0.1])
    with pytest.raises(InputError, match=r"model\.onnx: 3 scores"):
        PairedBootstrap(is_same, subjects, [0.1]).tars(np.zeros(3), "model.onnx")
    with pytest.raises(InputError, match=r"^scores: 3 scores"):
        PairedBootstrap(is_same, subjects, [0.1]).eers(np.zeros(3))


def test_people_are_counted_where_they_are_known() -> None:
    subjects, is_same = make_comparisons()
    assert PairedBootstrap(is_same, subjects, FARS, 100).num_subjects == subjects.max() + 1
    assert PairedBootstrap(is_same, None, FARS, 100).num_subjects is None


def test_many_people_are_counted_by_couples_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects, is_same = make_comparisons()
    scores = make_scores(subjects, is_same, 0.6, 1)
    dense = PairedBootstrap(is_same, subjects, FARS, 100).tars(scores)[1]
    monkeypatch.setattr("facekd.verification.intervals.subject_bootstrap.MAX_DENSE_SUBJECTS", 3)
    assert np.array_equal(PairedBootstrap(is_same, subjects, FARS, 100).tars(scores)[1], dense, equal_nan=True)


def test_a_difference_of_any_measure_needs_finite_draws() -> None:
    drawn = np.random.default_rng(0).normal(size=(2, 200))
    found = difference((1.0, drawn[0]), (1.5, drawn[1]))
    assert found is not None
    assert found[0] == 0.5
    assert found[1] == pytest.approx(tuple(np.quantile(drawn[1] - drawn[0], (0.025, 0.975))))
    assert difference((1.0, drawn[0]), (float("nan"), drawn[1])) is None
    drawn[0, :150] = np.nan
    assert difference((1.0, drawn[0]), (1.5, drawn[1])) is None
