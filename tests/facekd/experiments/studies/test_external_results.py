"""Others' results in a study: Welch's interval against scipy, what stands in the tables, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from facekd.cli import main
from facekd.errors import ConfigError, DataError
from facekd.experiments.studies.comparison import Values, unpaired_difference
from facekd.experiments.studies.file import load_study
from facekd.experiments.studies.results import gather
from tests.facekd.experiments.studies.test_classification_study import RESNET20, SEEDS, write, write_result
from tests.results_of_each_kind import pack

THEIRS = [0.81, 0.78, 0.85, 0.8, 0.79, 0.83]
METHODS = {"alone": {"verb": "train"}, "other": {"verb": "train", "config": RESNET20}}
PACK_RESULT = {"pair_set": {"sha256": "7", "num_subjects": 9}, "protocol": {"text": "cosine"}}


def with_theirs(folder: Path, results: Any, **changes: Any) -> Path:
    """Writes a study whose runs are evaluated, with others' results beside them; returns its file."""
    if not isinstance(results, Path):
        (folder / "theirs.json").write_text(json.dumps(results))
        results = folder / "theirs.json"
    methods = {"theirs": {"results": str(results), "note": "of a paper"}, **METHODS}
    path = write(folder, methods=methods, **changes)
    for run in load_study(path).runs:
        write_result(run.verification, {"other": "kd"}.get(run.method.name, run.method.name), run.seed)
    return path


def method_of(path: Path, name: str = "theirs") -> dict[str, Any]:
    return next(method for method in gather(load_study(path))["methods"] if method["name"] == name)


def values_of(path: Path, name: str, measure: str = "top1") -> list[float]:
    return list(method_of(path, name)["packs"]["cifar"][measure]["values"].values())


def test_several_values_are_compared_by_welchs_test(tmp_path: Path) -> None:
    path = with_theirs(tmp_path, {"cifar": {"top1": THEIRS, "mean_class_top1": [0.5]}, "svhn": {"top5": [0.9]}})
    theirs = method_of(path)
    found = theirs["packs"]["cifar"]["top1"]
    alone = values_of(path, "alone")
    assert len(alone) == len(SEEDS) != len(THEIRS)
    expected = stats.ttest_ind(THEIRS, alone, equal_var=False)
    interval = expected.confidence_interval(0.95)
    difference = found["difference"]
    assert difference["mean"] == pytest.approx(sum(THEIRS) / 6 - sum(alone) / 4)
    assert difference["ci95"] == pytest.approx([interval.low, interval.high])
    assert difference["p_value"] == pytest.approx(expected.pvalue)
    assert (difference["over"], difference["better_in"], difference["n"]) == ("seeds, unpaired", None, 6)
    # It counts among the methods that Holm's method corrects for.
    paired = stats.ttest_rel(values_of(path, "other"), alone).pvalue
    others = method_of(path, "other")["packs"]["cifar"]["top1"]["difference"]
    assert (others["num_compared"], difference["num_compared"]) == (2, 2)
    assert min(others["p_holm"], difference["p_holm"]) == pytest.approx(min(2 * min(paired, expected.pvalue), 1))
    # One value has a difference, and no interval; a measure that it lacks has nothing.
    assert theirs["packs"]["cifar"]["mean_class_top1"]["difference"]["ci95"] is None
    assert theirs["packs"]["cifar"]["top5"] is None
    assert (found["values"]["#1"], found["values"]["#6"]) == (THEIRS[0], THEIRS[-1])
    assert (theirs["verb"], theirs["results"]["by_facekd"], theirs["results"]["unused"]) == ("results", False, ["svhn"])


def test_equal_values_leave_no_doubt() -> None:
    own, other = Values({1: 0.5, 2: 0.5}, {}, are_seeds=False), Values({0: 0.25, 1: 0.25, 2: 0.25}, {})
    assert unpaired_difference(own, other)["ci95"] == [0.25, 0.25]
    assert (unpaired_difference(own, other)["p_value"], unpaired_difference(own, own)["p_value"]) == (0.0, 1.0)


def test_the_page_says_that_it_was_not_trained_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_theirs(tmp_path, {"cifar": {"top1": THEIRS}, "svhn": {"top1": [0.9]}})
    assert main(["study", str(path), "--report-only"]) == 0
    printed, folder = capsys.readouterr().out, tmp_path / "out"
    assert re.search(r"\ntheirs \(not trained here\) +6 +81\.00 ± \d\.\d\d +[+−]\d+\.\d\d \(.*\), p .* - +", printed)
    page = (folder / "report.html").read_text()
    for text in (
        "theirs was not trained here: 6 values from ",
        "as another program gave them: that it measured the same images in the same way was not checked. It is",
        "Not shown, because the study does not measure it: svhn.",
        "theirs: of a paper.",
    ):
        assert text in page and text in (folder / "results.md").read_text()
    lines = [one for one in csv.DictReader((folder / "results.csv").open()) if one["method"] == "theirs"]
    assert [one["seed"] for one in lines] == ["", *(f"#{number}" for number in range(1, 7))]
    assert main(["study", str(path), "--power"]) == 0  # of the other method alone


def test_evaluations_of_facekd_count_on_the_same_images_alone(tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    one = write_result(place, "kd", 9)
    path = with_theirs(tmp_path, place)
    found = method_of(path)
    assert found["packs"]["cifar"]["top5"]["values"] == {"#1": one["top5"]}
    assert found["results"]["by_facekd"] and found["packs"]["cifar"]["top1"]["difference"]["ci95"] is None
    # In subfolders, each counts.
    (place / "results.json").unlink()
    shares = [write_result(place / name, "kd", seed)["top1"] for seed, name in enumerate("ab")]
    assert values_of(path, "theirs") == shares
    write_result(place / "b", "kd", 1, images_sha256="of others")
    assert values_of(path, "theirs") == shares[:1]
    write_result(place / "a", "kd", 0, images_sha256="of others")
    with pytest.raises(DataError, match=r"theirs: has results on other images or classes, and the study's are on cif"):
        gather(load_study(path))
    result = json.loads((place / "a" / "results.json").read_text())
    (place / "a" / "results.json").write_text(json.dumps({**result, "heads": {"head": {"top1": "0.9"}}}))
    with pytest.raises(DataError, match=r"a/results\.json: heads\.head\.top1 is '0\.9'"):
        gather(load_study(path))


def test_tars_of_packs(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(
        json.dumps({"test": {"eer": [0.2, 0.22], "tar@1e-1": [0.7, 0.8], "tar@0.001": [0.1]}})
    )
    methods = {"alone": {"verb": "train"}, "theirs": {"results": "{study}/theirs.json"}}
    path = write(tmp_path, output=str(tmp_path), classification=None, packs=["x/test.bin"], methods=methods)
    for run in load_study(path).runs:
        points = [{"far": 0.1, "tar": 0.5 + 0.01 * run.seed}, {"far": 0.01, "tar": None}]
        numbers = {"eer": 0.3 + 0.01 * run.seed**2, "accuracy": {"mean": 0.8}, "num_genuine": 9, "num_impostor": 50}
        run.verification.mkdir(parents=True)
        (run.verification / "results.json").write_text(json.dumps({**PACK_RESULT, **numbers, "tar_at_far": points}))
    theirs = method_of(path)
    found = theirs["packs"]["test"]
    assert [(point["far"], point["tar"] is None) for point in found["tar_at_far"]] == [(0.1, False), (0.01, True)]
    expected = stats.ttest_ind([0.7, 0.8], [0.5, 0.51, 0.52, 0.53], equal_var=False)
    assert found["tar_at_far"][0]["tar"]["difference"]["p_value"] == pytest.approx(expected.pvalue)
    assert found["eer"]["mean"] == pytest.approx(0.21) and found["accuracy"] is None
    assert theirs["results"]["unused"] == ["test, tar@0.001"]
    # One measure under two names would make two trainings of one.
    twice = {"test": {"eer": [0.1], "tar@0.01": [0.9], "tar@1e-2": [0.1]}}
    (tmp_path / "theirs.json").write_text(json.dumps(twice))
    with pytest.raises(DataError, match=r"theirs\.json: test has tar@0\.01 and tar@1e-2, which are one measure; give"):
        method_of(path)


def test_a_pack_or_a_far_that_an_evaluation_has_twice_counts_once_or_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "results.json"
    methods = {"alone": {"verb": "train"}, "theirs": {"results": str(theirs.parent)}}
    path = write(tmp_path, output=str(tmp_path), classification=None, packs=["x/test.bin"], methods=methods)
    own = {key: value for key, value in pack().items() if key != "format"}
    for run in load_study(path).runs:
        run.verification.mkdir(parents=True)
        (run.verification / "results.json").write_text(json.dumps(own))
    theirs.parent.mkdir()
    theirs.write_text(json.dumps({**pack(), "tar_at_far": [pack()["tar_at_far"][0]] * 2}))  # `--fars 0.1,0.1`
    assert len(method_of(path)["packs"]["test"]["tar_at_far"][0]["tar"]["values"]) == 1
    protocol = {"text": "another", "score": "s-norm", "flip": False, "folds": 3}
    theirs.write_text(json.dumps({**pack(), "protocol": protocol}))
    differences = "score is cosine and s-norm, flip is True and False, folds is 2 and 3"  # in this order in every run
    with pytest.raises(DataError, match=rf"has results on test by another protocol \({differences}\), and the"):
        method_of(path)
    theirs.write_text(json.dumps({"format": "facekd-verification-summary", "version": 1, "pair_sets": [own, own]}))
    with pytest.raises(DataError, match=r"results\.json: has two results on test, and one training gives one"):
        method_of(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theirs": {"results": "x", "verb": "train"}}, "methods.theirs: results are shown as they are, nothing runs"),
        ({"theirs": {"results": "x", "judge": False}}, "nothing runs: leave out judge"),
        ({"theirs": {"results": "x", "seeds": [1]}}, "nothing runs: leave out seeds"),
        ({"alone": {"results": "x"}}, "reference: 'alone' is not a method that is trained and evaluated"),
        (
            {"theirs": {"results": "x"}, "kd": {"verb": "train", "config": {"shared_head": "{theirs}"}}},
            "methods.kd: {theirs} names results alone, which no method can learn from",
        ),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_study(write(tmp_path, methods={**METHODS, **changes}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cifar": {"top1": [81.0]}}, "cifar: top1: expected a list of shares from 0 to 1 (not percents)"),
        ({"cifar": {"top1": 0.8}}, "expected a list of shares from 0 to 1 (not percents), one for each training, fou"),
        ({"cifar": {"top1": []}}, "one for each training, found []"),
        ({"cifar": {"top1": [0.5, True]}}, "found True"),
        ({"cifar": {"top1": [float("nan")]}}, "found nan"),
        ({"cifar": {"top_1": [0.8]}}, "top_1 is no measure of this study; did you mean top1? It has top1, top5, mean"),
        ({"cifar": {"tar@0.1": [0.8]}}, "tar@0.1 is no measure of this study"),
        ({"cifar": [0.8]}, "cifar holds no measures"),
        ({"cifar": {"top1": [10**400]}}, "expected a list of shares from 0 to 1"),
        ({"svhn": {"top1": [0.8]}}, "has results on svhn, and the study's are on cifar"),
        ({}, "has results on none, and the study's are on cifar"),
        ({"format": "facekd-folder", "version": 1}, "theirs.json"),
        ({"format": "facekd-study", "version": 1}, "is of facekd-study, and this study's runs are evaluated by"),
    ],
)
def test_results_that_cannot_be_are_found_before_anything_runs(
    tmp_path: Path, content: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_theirs(tmp_path, content)
    before = sorted(tmp_path.rglob("*"))
    assert main(["study", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and "theirs.json: " in error
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_results_are_found_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(with_theirs(tmp_path, tmp_path / "none"))]) == 2
    assert "none: no results there; name a results.json, a folder with one" in capsys.readouterr().err


def test_others_results_alone_are_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs.json").write_text(json.dumps({"cifar": {"top1": THEIRS}}))
    methods = {**METHODS, "theirs": {"results": str(tmp_path / "theirs.json")}}
    assert main(["study", str(write(tmp_path, methods=methods)), "--report-only"]) == 2
    assert "no run is evaluated yet" in capsys.readouterr().err
