"""`facekd threshold`: what it prints of results that were made from known scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ConfigError, DataError
from facekd.faces.show_threshold import main
from facekd.verification import far_threshold, wilson_interval
from tests.measured_results import MODEL, folder_result, write_result

GENUINE, IMPOSTOR = np.linspace(0.1, 0.9, 200), np.linspace(-0.4, 0.5, 2000)


def results(folder: Path, **values: object) -> Path:
    result = folder_result(GENUINE, IMPOSTOR, (0.1, 0.01, 0.001, 1e-6))
    return write_result(folder / "results.json", {**result, "command": "facekd x", **values})


def test_says_what_to_deploy_and_what_it_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path, num_impostor_people_pairs=190, set_sha256="5e7")
    assert main([str(tmp_path), "--fmr", "0.01"]) == 0
    printed = capsys.readouterr().out
    threshold = far_threshold(IMPOSTOR, 0.01)
    assert f"threshold {threshold!r} for FMR 0.01" in printed and "2,000 comparisons of 190 pairs of people" in printed
    assert "20 of them" in printed and "fingerprint ff" in printed and "mean [1.0, 2.0]" in printed
    assert "add its embedding" in printed and str(path) in printed
    low, high = wilson_interval(20, 2000)
    assert f"95 % {100 * low:.3g} % .. {100 * high:.3g} %" in printed
    # The same as JSON.
    assert main([str(path), "--fmr", "0.01", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["threshold"], found["set_digest"], found["flip"]) == (threshold, "5e7", True)
    assert found["fmr_ci95"] == [low, high] and found["point"]["false_accepts"] == 20
    assert {key: found["model"][key] for key in MODEL} == dict(MODEL)


@pytest.mark.parametrize("flip", [False, True])
def test_another_set_is_to_be_embedded_as_this_one_was(
    flip: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "results.json", folder_result(GENUINE, IMPOSTOR, (0.1,), flip=flip))
    assert main([str(tmp_path), "--fmr", "0.1"]) == 0
    assert f"--images OTHERS --{'flip' if flip else 'no-flip'} --thresholds-from " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fmr", "expected"),
    [
        ("0.1", "resolved      yes: 200 false matches are expected among 2,000"),
        ("0.01", "barely: 20 false matches are expected among 2,000 comparisons, fewer than 30"),
        ("0.001", "no: 2 false matches are expected"),
    ],
)
def test_says_whether_the_comparisons_show_such_a_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fmr: str, expected: str
) -> None:
    results(tmp_path)
    assert main([str(tmp_path), "--fmr", fmr]) == 0
    printed = capsys.readouterr().out
    assert expected in printed and "how many people are behind them is not known" in printed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pair_set": "abc"}, "pair_set is no object"),
        ({"dataset": "abc"}, "dataset is no object"),
        ({"num_impostor_people_pairs": "abc"}, "num_impostor_people_pairs is 'abc', and a whole number from 0"),
        ({"num_impostor_people_pairs": {"a": 1}}, "num_impostor_people_pairs is '{'a': 1}', and a whole number from 0"),
        ({"num_pairs": 10**400}, r"num_pairs is '1000\d+ \.\.\. \(341 more characters\) \.\.\. 0+', and a number"),
        ({"software": {"a": [[10**400]]}}, r"software\.a\[0\]\[0\] is '1000"),
        ({"software": json.loads("[" * 60 + "]" * 60)}, "is nested more than 40 levels deep"),
    ],
)
def test_results_with_other_things_in_them_are_refused(values: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"results\.json: .*{message}"):
        main([str(results(tmp_path, **values))])


def test_rates_that_were_not_measured_are_refused(tmp_path: Path) -> None:
    results(tmp_path)
    with pytest.raises(ConfigError, match="FAR 1e-06 is not measurable"):
        main([str(tmp_path), "--fmr", "1e-6"])
    with pytest.raises(ConfigError, match=r"has no threshold for FAR 0\.02; --far takes what it has"):
        main([str(tmp_path), "--fmr", "0.02"])
    with pytest.raises(DataError, match="no results there"):
        main([str(tmp_path / "nothing")])


def test_what_was_assumed_of_the_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path, model={"fingerprint": "f\x1b[31mf", "assumed": ["color"]})
    assert main([str(tmp_path), "--fmr", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "assumed       color: neither recorded" in printed and "\x1b" not in printed
    assert "SHA-256       not recorded" in printed
