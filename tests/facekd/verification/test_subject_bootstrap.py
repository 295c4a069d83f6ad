"""The fast subject bootstrap against the plain one: the same draws, the same intervals."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import subject_bootstrap
from facekd.verification.bootstrap import bootstrap_intervals
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.subject_bootstrap import subject_bootstrap_intervals

FARS = [0.001, 0.01, 0.1, 0.3, 1.0]


def draw(seed: int, num_subjects: int, decimals: int, shift: float):
    generator = np.random.default_rng(seed)
    effect = generator.normal(0, 1, num_subjects)
    own = np.repeat(np.arange(num_subjects), 1 + seed % 6)
    first, second = np.triu_indices(num_subjects, 1)
    scores = np.concatenate(
        [
            3 + shift + effect[own] + generator.normal(0, 0.7, own.size),
            0.5 * (effect[first] + effect[second]) + generator.normal(0, 0.7, first.size),
        ]
    )
    subjects = np.concatenate([np.stack([own, own], 1), np.stack([first, second], 1)])
    order = generator.permutation(scores.size)
    return np.round(scores, decimals)[order], (np.arange(scores.size) < own.size)[order], subjects[order]


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_plain_bootstrap(monkeypatch, seed):
    monkeypatch.setattr(subject_bootstrap, "FIRST_SEGMENT", (1, 5, 64)[seed % 3])
    monkeypatch.setattr(subject_bootstrap, "SLACK", (0.3, 1.6)[seed % 2])
    monkeypatch.setattr(subject_bootstrap, "EXTRA", 0)
    monkeypatch.setattr(subject_bootstrap, "DENSE_SUBJECTS", (0, 5000)[seed % 2])
    monkeypatch.setattr(subject_bootstrap, "CELLS_AT_ONCE", 50)
    fars = FARS[: 3 + seed % 3]
    scores, is_same, subjects = draw(seed, 12 + seed, (1, 9)[seed % 2], (0, -3)[seed % 4 == 0])
    subjects = 3 * subjects + 5  # numbers with gaps
    ranked = RankedScores(scores[is_same], scores[~is_same])
    plain = bootstrap_intervals(scores, is_same, fars, subjects, 150, seed)
    found = subject_bootstrap_intervals(ranked, scores, is_same, subjects[:, 0], subjects[:, 1], fars, 150, seed)
    assert found.tar == plain.tar and found.eer == pytest.approx(plain.eer, abs=1e-12)
    assert (found.num_subjects, found.replicates) == (plain.num_subjects, plain.replicates)


def test_subjects_at_odds_with_labels_or_too_few_are_refused():
    scores, is_same, subjects = draw(1, 12, 9, 0)
    ranked = RankedScores(scores[is_same], scores[~is_same])
    with pytest.raises(InputError, match="contradict"):
        subject_bootstrap_intervals(ranked, scores, is_same, subjects[:, 0], subjects[:, 0], FARS, 100)
    with pytest.raises(InputError, match="at least 100"):
        subject_bootstrap_intervals(ranked, scores, is_same, subjects[:, 0], subjects[:, 1], FARS, 10)
    few = (subjects < 5).all(axis=1)
    ranked = RankedScores(scores[few & is_same], scores[few & ~is_same])
    with pytest.raises(InputError, match="5 of 5 subjects"):
        subject_bootstrap_intervals(ranked, scores[few], is_same[few], *subjects[few].T, FARS, 100)
