"""1:1 of probes against strangers, against all scores listed one by one: ties, broken models, and too little data."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.protocols import stranger_pairs
from evaluation.protocols.stranger_pairs import measure_against_strangers
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.search.block_search import HeldRows

FARS = [1.0, 0.2, 0.01, 1e-4, 1e-6]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_rows(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns probes (Q, 8), whose they are, and strangers (n, 8); without `decimals` each has its equal."""
    generator = np.random.default_rng(seed)
    people = np.repeat(np.arange(14), [1, *[3] * 10, 2, 5, 4])
    probes = generator.normal(size=(14, 8))[people] + 0.7 * generator.normal(size=(len(people), 8))
    strangers = generator.normal(size=(900, 8))
    if not decimals:
        strangers[450:] = strangers[:450]
    return unit(np.round(probes, decimals) + 1e-3), people, unit(np.round(strangers, decimals) + 1e-3)


@pytest.mark.parametrize("decimals", [9, 0])
def test_measures_are_those_of_all_scores(decimals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stranger_pairs, "OTHERS_CHUNK", 70)
    monkeypatch.setattr(stranger_pairs, "PROBES_CHUNK", 9)
    probes, people, strangers = make_rows(1, decimals)
    first, second = np.triu_indices(len(people), 1)
    scores = np.clip(np.einsum("pd,pd->p", probes[first], probes[second]), -1, 1)
    every = np.repeat(np.arange(len(probes)), len(strangers)), np.tile(np.arange(len(strangers)), len(probes))
    impostor = np.clip(np.einsum("pd,pd->p", probes[every[0]], strangers[every[1]]), -1, 1)
    expected = RankedScores(scores[people[first] == people[second]], impostor)
    found, curves = measure_against_strangers(probes, people, HeldRows(strangers), FARS, 0, 0)
    for own, plain in zip(found["tar_at_far"], expected.tar_at_far(FARS), strict=True):
        assert (own["tar"], own["false_accepts"]) == (plain.tar, plain.false_accepts)
        assert own["threshold"] is None or own["threshold"] == pytest.approx(plain.threshold, abs=1e-12)
    assert found["tar_at_far"][-1]["tar"] is None and "at least 1,000,000" in found["tar_at_far"][-1]["reason"]
    assert found["eer"] == pytest.approx(expected.equal_error_point().eer, abs=1e-12)
    assert found["auc"] == pytest.approx(expected.area_under_roc(), abs=1e-5)
    assert curves["histogram_impostor"].sum() == found["num_impostor"] == len(probes) * len(strangers)
    assert (len(np.unique(impostor)) < len(impostor) / 2) == (decimals == 0), "of each score there are two at least"


def test_intervals_draw_people_at_the_threshold_of_all_pairs() -> None:
    probes, people, strangers = make_rows(2, 9)
    found, _ = measure_against_strangers(probes, people, HeldRows(strangers), [0.01], 400, 0)
    [point] = found["tar_at_far"]
    # The same draws by hand: how often the pairs of each person are accepted.
    first, second = np.triu_indices(len(people), 1)
    is_same = people[first] == people[second]
    accepted = (probes[first] * probes[second]).sum(axis=1)[is_same] >= point["threshold"]
    owners = np.unique(people[first[is_same]], return_inverse=True)[1]
    generator, rates = np.random.default_rng(5), []
    for _ in range(2000):
        weights = np.bincount(generator.integers(13, size=13), minlength=13)[owners]
        rates.append((weights @ accepted) / weights.sum())
    low, high = np.quantile(rates, [0.025, 0.975])
    assert point["interval"] == "subject bootstrap" and found["bootstrap"]["num_subjects"] == 13
    assert point["ci95"][0] <= low + 0.03 and point["ci95"][1] >= high - 0.03
    assert point["ci95"][0] <= point["ci95_at_threshold"][0] and point["ci95"][1] >= point["ci95_at_threshold"][1]


def test_few_people_leave_wilsons_intervals() -> None:
    probes, people, strangers = make_rows(3, 9)
    found, _ = measure_against_strangers(probes[:13], people[:13], HeldRows(strangers), [0.01], 100, 0)
    assert found["tar_at_far"][0]["interval"] == "wilson" and "only 4 subjects" in found["bootstrap"]["note"]


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    probes, people, strangers = make_rows(4, 9)
    none, curves = measure_against_strangers(probes, np.arange(len(probes)), HeldRows(strangers), FARS, 0, 0)
    assert list(none) == ["notes"] and not curves and "people with two images, and distractors" in none["notes"][0]
    assert list(measure_against_strangers(probes, people, HeldRows(strangers[:0]), FARS, 0, 0)[0]) == ["notes"]
    # A model that tells nobody apart: all scores lie at every threshold.
    monkeypatch.setattr(stranger_pairs, "MAX_EXACT", 10_000)
    found, _ = measure_against_strangers(np.ones((42, 4)) / 2, people, HeldRows(np.ones((900, 4)) / 2), FARS, 0, 0)
    assert "37,800 of 37,800 impostor scores lie within" in found["notes"][0] and "anybody apart" in found["notes"][0]
