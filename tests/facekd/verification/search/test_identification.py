"""Tests 1:N search against loops over probes and entries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.search.block_search import search
from facekd.verification.search.identification import (
    SearchResult,
    identification_curves,
    mean_of_galleries,
    measure_search,
)


def naive(gallery, gallery_subjects, probes, probe_subjects, fpirs, ranks):
    """(TPIR of each FPIR, rate of each rank), by the words of the protocol."""
    mated, nonmated = [], []
    for probe, subject in zip(probes, probe_subjects, strict=True):
        scores = [float(np.clip(np.dot(probe, entry), -1, 1)) for entry in gallery]
        own = [s for s, of in zip(scores, gallery_subjects, strict=True) if of == subject]
        others = [s for s, of in zip(scores, gallery_subjects, strict=True) if of != subject]
        if own:
            mated.append((max(own), 1 + sum(score >= max(own) for score in others)))
        else:
            nonmated.append(max(scores))
    tpirs = []
    for fpir in fpirs:
        allowed = int(fpir * len(nonmated) + 1e-9)
        if not mated or allowed < 1:
            tpirs.append(None)
            continue
        limit = sorted(nonmated, reverse=True)[allowed] if allowed < len(nonmated) else -np.inf
        tpirs.append(np.mean([rank == 1 and score > limit for score, rank in mated]))
    return tpirs, [np.mean([rank <= r for _, rank in mated]) if mated else None for r in ranks]


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), coarse=st.booleans(), several=st.booleans())
def test_equals_loops(seed, coarse, several):
    generator = np.random.default_rng(seed)
    num_gallery, num_probes, size = generator.integers(1, 15), generator.integers(1, 60), 8
    gallery_subjects = generator.integers(0, 8, num_gallery) if several else generator.permutation(num_gallery)
    probe_subjects = generator.integers(0, 15, num_probes)
    centers = generator.standard_normal((15, size))
    vectors = [
        centers[of] + 0.9 * generator.standard_normal((len(of), size)) for of in (gallery_subjects, probe_subjects)
    ]
    if coarse:
        vectors = [np.round(vector) + 0.25 for vector in vectors]
    gallery, probes = (vector / np.linalg.norm(vector, axis=1, keepdims=True) for vector in vectors)
    fpirs, ranks = (0.05, 0.1, 0.5), (1, 2, 5)
    result = search(probes, probe_subjects, gallery, gallery_subjects)
    measured = measure_search(result, fpirs, ranks)
    tpirs, rates = naive(gallery, gallery_subjects, probes, probe_subjects, fpirs, ranks)
    if not coarse:  # rounding decides between equal scores, and differs between a product and a loop
        assert [point["tpir"] for point in measured["tpir_at_fpir"]] == pytest.approx(tpirs)
        assert [entry["rate"] for entry in measured["rank"]] == pytest.approx(rates)
    for point in measured["tpir_at_fpir"]:
        assert (point["reason"] is None) == (point["tpir"] is not None) == (point["ci95"] is not None)
        if point["tpir"] is not None:
            assert point["achieved_fpir"] <= point["fpir"]
            first = (result.mate_ranks == 1) & (result.mate_scores >= point["threshold"])
            assert point["tpir"] == first.mean()
            assert point["false_positives"] == (result.best_impostor_scores >= point["threshold"]).sum()


def test_a_tie_with_another_counts_against_the_mate():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    result = search(np.array([[1.0, 0.0]]), np.array([1]), gallery, np.array([1, 2, 3]))
    assert result.mate_ranks.tolist() == [2]


def test_curves_agree_with_the_table():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((80, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = search(vectors[20:], np.arange(60) % 30, vectors[:20], np.arange(20))
    measured, curves = measure_search(result, (0.1,), (1, 5)), identification_curves(result)
    assert [curves["cmc"][0], curves["cmc"][4]] == [entry["rate"] for entry in measured["rank"]]
    at = np.flatnonzero(curves["dir_fpir"] <= 0.1)[-1]
    assert curves["dir_tpir"][at] == measured["tpir_at_fpir"][0]["tpir"]


def test_galleries_are_averaged_and_what_one_lacks_is_not_made_up():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((60, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = [
        measure_search(search(vectors[10:], np.arange(50) % 12, vectors[some], np.arange(5) + at))
        for at, some in ((0, slice(0, 5)), (5, slice(5, 10)))
    ]
    mean = mean_of_galleries(found)
    assert mean["rank"][0]["rate"] == pytest.approx(np.mean([one["rank"][0]["rate"] for one in found]))
    assert mean["tpir_at_fpir"][0]["tpir"] is None and "not measurable" in mean["tpir_at_fpir"][0]["reason"]
    assert mean["tpir_at_fpir"][1]["tpir"] == pytest.approx(np.mean([one["tpir_at_fpir"][1]["tpir"] for one in found]))


def test_nothing_to_search_is_refused():
    with pytest.raises(InputError, match="G1: 0 gallery templates"):
        search(np.ones((1, 2)), np.zeros(1), np.zeros((0, 2)), np.zeros(0), name="G1")


def test_a_search_is_reported_in_full():
    # Mates at ranks 1, 1, 2, 1; the second of five non-mated probes may not come through.
    result = SearchResult(np.array([0.9, 0.2, 0.8, 0.6]), np.array([1, 1, 2, 1]), np.array([0.1, 0.5, 0.3, 0.7, 0]), 6)
    unmeasured = {"tpir": None, "threshold": None, "false_positives": None, "achieved_fpir": None, "ci95": None}
    measured = measure_search(result, (0.1, 0.2), (1, 2))
    reason = "not measurable: 5 non-mated probes allow 0.5 false positives at FPIR 0.1"
    assert measured == {
        "num_gallery": 6,
        "num_mated": 4,
        "num_nonmated": 5,
        "tpir_at_fpir": [
            {"fpir": 0.1, **unmeasured, "reason": reason},
            {
                "fpir": 0.2,
                "tpir": 0.5,
                "threshold": np.nextafter(0.5, 1),
                "false_positives": 1,
                "achieved_fpir": 0.2,
                "ci95": list(wilson_interval(2, 4)),
                "reason": None,
            },
        ],
        "rank": [{"rank": 1, "rate": 0.75}, {"rank": 2, "rate": 1.0}],
    }
    assert measure_search(result, (0.2,), (1,), within=2)["tpir_at_fpir"][0]["tpir"] == 0.75
    assert measure_search(result, (1.0,), (1,))["tpir_at_fpir"][0]["threshold"] == -1


@pytest.mark.parametrize(
    ("num_mated", "num_nonmated", "reason"),
    [
        (0, 5, "no probe has a mate in this gallery"),
        (4, 0, "0 non-mated probes allow 0 false positives at FPIR 0.5"),
        (4, 1, "1 non-mated probe allows 0.5 false positives at FPIR 0.5"),
    ],
)
def test_a_search_that_cannot_be_measured_says_why(num_mated, num_nonmated, reason):
    result = SearchResult(np.full(num_mated, 0.5), np.ones(num_mated, int), np.full(num_nonmated, 0.1), 6)
    measured = measure_search(result, (0.5,), (3,))
    unmeasured = {"tpir": None, "threshold": None, "false_positives": None, "achieved_fpir": None, "ci95": None}
    assert measured["tpir_at_fpir"] == [{"fpir": 0.5, **unmeasured, "reason": f"not measurable: {reason}"}]
    assert measured["rank"] == [{"rank": 3, "rate": 1.0 if num_mated else None}]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), decimals=st.integers(1, 9), within=st.integers(1, 3))
@example(seed=11, decimals=9, within=1)  # one probe of each kind
def test_curves_are_every_operating_point_of_loops(seed, decimals, within):
    generator = np.random.default_rng(seed)
    num_mated, num_nonmated = generator.integers(0, 12, 2)
    scores, ranks = generator.uniform(-0.5, 1, num_mated).round(decimals), generator.integers(1, 6, num_mated)
    impostor = generator.uniform(-1, 0.7, num_nonmated).round(decimals)
    curves = identification_curves(SearchResult(scores, ranks, impostor, 9), most_ranks=4, within=within)
    assert curves["cmc"] == pytest.approx([np.mean(ranks <= rank) for rank in range(1, 5)] if num_mated else [])
    # A threshold just above each score of a non-mated probe.
    points = []
    for score in sorted(set(impostor.tolist()), reverse=True) if num_mated else []:
        found = sum(one > score and rank <= within for one, rank in zip(scores, ranks, strict=True))
        points.append((np.mean(impostor > score), found / num_mated, np.nextafter(score, 2)))
    assert list(curves) == ["cmc", "dir_fpir", "dir_tpir", "dir_threshold"]
    for place, name in enumerate(("dir_fpir", "dir_tpir", "dir_threshold")):
        assert curves[name].shape == (len(points),)
        assert curves[name] == pytest.approx([point[place] for point in points], abs=1e-12)


def test_curves_of_many_probes_are_points_at_equal_steps_of_the_logarithm():
    impostor = np.random.default_rng(0).permutation(np.arange(700) / 1000)
    curves = identification_curves(SearchResult(np.array([0.5, 0.6]), np.array([1, 1]), impostor, 9), num_points=5)
    # 1, 5.1, 26.5, 136.1 and 700 are each 700^(1/4) times the one before; one less are let through.
    assert curves["dir_fpir"] * 700 == pytest.approx([0, 4, 25, 135, 699])
    assert curves["dir_threshold"] == pytest.approx([0.699, 0.695, 0.674, 0.564, 0])
    assert curves["dir_tpir"].tolist() == [0, 0, 0, 0.5, 1]
