"""Thresholds that an evaluation measured: counted again by loops, refused where they do not fit new images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import ConfigError, DataError
from facekd.results.thresholds import read_thresholds
from facekd.verification.measures import verification_curves
from facekd.verification.operating_points import false_accept_among
from facekd.verification.ranked_scores import RankedScores
from tests.measured_results import MODEL, folder_result, write_result

FARS = (0.5, 0.1, 0.01, 0.0001)


def scores_of(seed: int, num_impostor: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor scores with many ties."""
    generator = np.random.default_rng(seed)
    return (
        generator.normal(0.6, 0.2, 80).round(2).clip(-1, 1),
        generator.normal(0.0, 0.2, num_impostor).round(2).clip(-1, 1),
    )


RESULT = folder_result(*scores_of(0), FARS)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 40, 300]), st.lists(st.floats(-1, 1), min_size=1))
def test_the_rates_of_a_cosine_lie_within_the_range_stated(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_impostor: int, cosines: list[float]
) -> None:
    genuine, impostor = scores_of(seed, num_impostor)
    folder = tmp_path_factory.mktemp("x")
    write_result(folder / "results.json", folder_result(genuine, impostor, FARS))
    coarse = read_thresholds(folder)
    np.savez(folder / "curves.npz", **verification_curves(RankedScores(genuine, impostor)))  # pyright: ignore
    fine = read_thresholds(folder)
    for cosine in [*cosines, *genuine[:5], *impostor[:5], *coarse.threshold]:
        far = sum(score >= cosine for score in impostor) / num_impostor
        tar = sum(score >= cosine for score in genuine) / len(genuine)
        wide, narrow = coarse.rates_at(cosine), fine.rates_at(cosine)
        for rates in (wide, narrow):
            assert rates.far[0] - 1e-9 <= far <= rates.far[1] + 1e-9
            assert rates.tar[0] - 1e-9 <= tar <= rates.tar[1] + 1e-9
        assert wide.far[0] - 1e-9 <= narrow.far[0] and narrow.far[1] <= wide.far[1] + 1e-9
    for threshold in coarse.threshold:  # at a threshold that was measured nothing is left open
        rates = coarse.rates_at(threshold)
        assert rates.far[0] == rates.far[1] and rates.tar[0] == rates.tar[1]


def test_a_point_is_chosen_by_its_far(tmp_path: Path) -> None:
    thresholds = read_thresholds(write_result(tmp_path / "deployed.json", RESULT))
    point = thresholds.point_at(0.1)
    assert point.threshold == RESULT["tar_at_far"][1]["threshold"] and point.tar == RESULT["tar_at_far"][1]["tar"]
    assert thresholds.data == "people" and thresholds.flip is True
    with pytest.raises(ConfigError, match=r"for FAR 0\.02; --far takes what it has: 0\.5, 0\.1, 0\.01, or"):
        thresholds.point_at(0.02)
    with pytest.raises(ConfigError, match=r"FAR 0\.0001 is not measurable: 300 impostor .*takes what it has"):
        thresholds.point_at(0.0001)


@pytest.mark.parametrize(
    ("model", "flip", "message"),
    [
        (
            {"fingerprint": "ff"},
            False,
            "with those of the mirror images, and these faces are without them; evaluate again with --no-flip, or",
        ),
        ({"fingerprint": "other"}, True, r"another model \(m\.onnx\), or other options, than these faces"),
        ({**MODEL, "fingerprint": "other", "sha256": "bb"}, True, r"another model \(m\.onnx\) than these faces"),
        (
            {**MODEL, "fingerprint": "other", "preprocessing": {"color": "bgr", "mean": (1.0, 2.0)}},
            True,
            r"the same file \(m\.onnx\), but otherwise \(color rgb, not bgr\), than these faces",
        ),
        (
            {**MODEL, "fingerprint": "other", "output": "z"},
            True,
            r"\(m\.onnx\), but otherwise \(output y, not z\), than these faces",
        ),
        ({**MODEL, "fingerprint": "other"}, True, r"the same file \(m\.onnx\), but with another --resize, than"),
    ],
)
def test_thresholds_of_another_model_are_refused(
    model: dict[str, Any], flip: bool, message: str, tmp_path: Path
) -> None:
    thresholds = read_thresholds(write_result(tmp_path / "results.json", RESULT))
    thresholds.check_settings(MODEL, True, "these faces")
    with pytest.raises(DataError, match=message):
        thresholds.check_settings(model, flip, "these faces")


PACK = {**RESULT, "format": "facekd-verification", "accuracy": {"mean": 0.9}}
PACK["pair_set"] = {"name": "lfw", "path": "lfw.bin", "sha256": "aa"}
PACK["protocol"] = {"text": "cosine", "score": "cosine", "flip": False, "folds": 10}
IJB = {
    **RESULT,
    "format": "facekd-ijb",
    "dataset": {"root": "IJBC", "target": "IJBC", "fingerprint": "f", "published": None},
}
IJB["protocol"] = {"text": "cosine of sums", "name": "norm", "flip_augment": True}


def test_results_of_each_evaluation_of_pairs_are_read(tmp_path: Path) -> None:
    pack = read_thresholds(write_result(tmp_path / "lfw" / "results.json", PACK))
    assert (pack.data, pack.flip, pack.remarks) == ("lfw", False, [])
    ijb = read_thresholds(write_result(tmp_path / "ijb" / "results.json", IJB).parent)
    assert (ijb.data, ijb.flip) == ("IJBC", True) and "templates" in ijb.remarks[0]
    assert ijb.point_at(0.1) == pack.point_at(0.1)
    named = {**IJB, "dataset": {**IJB["dataset"], "published": "IJB-C"}}
    assert read_thresholds(write_result(tmp_path / "c" / "results.json", named)).data == "IJB-C"


def _with_point(**changes: Any) -> dict[str, Any]:
    result = copy.deepcopy(RESULT)
    result["tar_at_far"][1].update(changes)
    return result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"format": "facekd-study", "version": 1}, "holds facekd-study; thresholds are measured by"),
        ({"format": "facekd-classification", "version": 1}, "holds facekd-classification"),
        (
            {"format": "facekd-verification-summary", "version": 1, "pair_sets": [PACK]},
            "results of several packs; give the folder of one in .*: lfw$",
        ),
        ({**RESULT, "eer": None, "tar_at_far": None}, "no thresholds, since no pairs were evaluated"),
        ({**RESULT, "tar_at_far": None}, "it has no tar_at_far"),
        ({**RESULT, "model": None, "embeddings": {"path": "e.npy"}}, "for embeddings that were made elsewhere"),
        ({**RESULT, "model": {"path": "m.onnx"}}, "for a model that it does not name"),
        ({**RESULT, "model": {"fingerprint": 5}}, "model.fingerprint is '5', and text is expected"),
        ({**PACK, "protocol": {**PACK["protocol"], "score": "distance"}}, "for the score 'distance'"),
        ({**RESULT, "protocol": {"text": "t"}}, "does not say whether mirror images"),
        (_with_point(achieved_far=0.7, false_accepts=210), "a lower threshold accepts fewer comparisons"),
        (_with_point(achieved_far=0.7), r"tar_at_far\[1\] contradicts itself: its achieved_far is 0.7, and 29 of 300"),
        (_with_point(achieved_far=1.5), "achieved_far is '1.5', and a share from 0 to 1 is expected"),
        (_with_point(false_accepts=301), "impossible counts: 301 false accepts among 300 impostor"),
        (_with_point(ci95=[0.1, 0.2]), r"its tar [0-9.]+ is not in its interval from 0.1 to 0.2"),
        (_with_point(ci95=[1, 0]), "an interval goes from its lower end to its higher one"),
        (_with_point(threshold=77), r"tar_at_far\[1\] the threshold 77, and cosines are from -1 to 1"),
        (_with_point(threshold="x"), "threshold is 'x', and a number is expected"),
    ],
)
def test_results_that_give_no_thresholds_are_refused(result: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"results.json: .*{message}"):
        read_thresholds(write_result(tmp_path / "results.json", result))


def test_what_is_no_results_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x/results\.json: no results there"):
        read_thresholds(tmp_path / "x")
    with pytest.raises(DataError, match=r"x\.json: no results there"):
        read_thresholds(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(DataError, match=r"x\.json: damaged, not the results of an evaluation"):
        read_thresholds(tmp_path / "x.json")


@given(st.floats(0, 1), st.integers(0, 60))
def test_the_rate_of_a_search_grows_with_its_comparisons(far: float, count: int) -> None:
    none = 1.0
    for _ in range(count):
        none *= 1 - far
    found = false_accept_among(far, count)
    assert found == pytest.approx(1 - none, abs=1e-12) and found <= count * far + 1e-12
    assert false_accept_among(1e-20, 10**6) == pytest.approx(1e-14, rel=1e-9)
