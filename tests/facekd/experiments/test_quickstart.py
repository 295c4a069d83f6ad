"""Runs the quickstart at a size that learns nothing but takes every step, twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facekd.cli import main
from facekd.commands.config_files import parse_config
from facekd.experiments.quickstart import SIZES, Quickstart
from facekd.training.config.distill_config import DistillConfig


@pytest.mark.slow
@pytest.mark.usefixtures("full_depth")
def test_every_step_runs_once_and_lands_in_one_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "quick start"  # a path with a space
    command = ["quickstart", "--size", "tiny", "--output", str(folder)]
    assert main(command) == 0
    first = capfd.readouterr().out
    assert first.count("== ") == 22 and "done before" not in first

    results = json.loads((folder / "results.json").read_text())
    names = ["untrained", "arcface", "cosface", "student", "part", "th_kd", "sh_kd", "kd", "l2"]
    assert [model["name"] for model in results["models"]] == names
    for model in results["models"]:
        assert 0 <= model["accuracy"]["mean"] <= 1 and 0 <= model["eer"] <= 1
        assert {"far", "tar", "threshold", "false_accepts"} <= set(model["tar_at_far"][0])
    [exported] = [model["onnx"] for model in results["models"] if "onnx" in model]
    assert (folder / exported).stat().st_size > 10_000
    assert (folder / "data" / "train.rec").exists()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4

    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.onnx")}
    assert main(command) == 0
    assert "== " not in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    assert main([*command, "--seed", "1"]) == 2
    assert "holds results of another kind" in capfd.readouterr().err


@pytest.mark.parametrize("folder", ["a$b", "~c", "./~c"])
def test_a_folder_of_any_name_reaches_the_trainings_as_it_is(folder: str) -> None:
    step = next(step for step in Quickstart(Path(folder), SIZES["tiny"], 0).trainings() if step.words[0] == "distill")
    config = parse_config(DistillConfig, list(step.words[1:]), "facekd distill", "")
    assert Path(config.output) == step.makes and Path(config.teacher.model).parent == Path(folder)


def test_a_failed_step_says_so_and_is_not_marked_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # A file where the data should go: the first step cannot but fail.
    (tmp_path / "data").write_text("in the way")
    assert main(["quickstart", "--size", "tiny", "--output", str(tmp_path)]) == 2
    assert "the step 'generate faces' failed" in capfd.readouterr().err
    assert not (tmp_path / "steps.json").exists()
    assert (tmp_path / "data").read_text() == "in the way"
