"""A dry run: what it tells of a training, and that it leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.backbones import count_macs, count_parameters
from facekd.distributed import World
from facekd.training import distill, dry_run
from facekd.training.config import TrainConfig
from facekd.training.dry_run import describe, try_run
from facekd.training.recognizer import build_recognizer, make_backbone
from facekd.training.train import main

ALONE = World(0, 1, torch.device("cpu"))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_tells_what_would_be_trained_and_writes_nothing(
    tiny_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "SECONDS", 1e9)
    assert main(["--dry-run", *tiny_arguments]) == 0
    printed = capsys.readouterr().out
    assert "image_size: 32" in printed and "120 images (2.86 epochs)" in printed
    assert "images/s in a trial of 9 steps" in printed  # the first of ten is not timed
    assert not list(tmp_path.iterdir())


def test_its_numbers(tiny_config: Callable[..., TrainConfig]) -> None:
    config = tiny_config()
    backbone = make_backbone(config, None)
    trial = try_run(config, ALONE, build_recognizer)
    assert (trial.num_parameters, trial.macs) == (count_parameters(backbone), count_macs(backbone, 32))
    assert (trial.total_images, trial.images_done) == (120, 0)
    assert trial.seconds == pytest.approx(120 / trial.images_per_second)
    assert replace(trial, images_done=90).seconds == pytest.approx(30 / trial.images_per_second)
    assert 0 <= trial.data_wait <= 1 and trial.peak_memory > 50e6
    assert "of which" not in describe(trial, config, ALONE)
    assert try_run(tiny_config(images=12, schedule__warmup_images=0), ALONE, build_recognizer).num_steps == 1


def test_a_run_that_has_begun_is_left_as_it_is(
    tiny_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--schedule.warmup_images", "0", "--schedule.name", "constant"]
    assert main([*tiny_arguments, *short, "--images", "24"]) == 0
    before = contents(tmp_path)
    assert main([*tiny_arguments, *short, "--dry-run"]) == 0
    assert "for 120 images, of which 24 are done; " in capsys.readouterr().out
    # A distillation from it is tried as well.
    words = [
        "--teacher.model",
        str(tmp_path / "run"),
        "--loss.embedding_l2",
        "1",
        "--output",
        str(tmp_path / "student"),
    ]
    assert distill.main([*tiny_arguments, *short, *words, "--dry-run"]) == 0
    assert "embedding_l2 1" in capsys.readouterr().out
    assert contents(tmp_path) == before


def test_what_would_stop_the_run_stops_the_trial(
    tiny_arguments: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    status, _, said = run(main, *tiny_arguments, "--data.train", tmp_path / "none", "--dry-run")
    assert (status, said.count("\n")) == (2, 1) and f"error: no data at {tmp_path / 'none'}" in said
