"""SH-KD as one command: what each stage is told, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from facekd.config import ConfigError
from facekd.pipeline import load_pipeline

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **changes: Any) -> str:
    content = {
        "output": "runs/sh",
        "base": {"data": {"train": "data", "image_size": 64}, "backbone": {"embedding_size": 64}},
        "teacher": {"config": {"backbone.width": 2.0}},
        "distilled": {"config": {"loss": {"embedding_l2": 1}}},
        **changes,
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(("head", "shared"), [("shared", "runs/sh/student"), ("free", "")])
def test_each_stage_gets_the_run_before_it(tmp_path: Path, head: str, shared: str) -> None:
    pipeline = load_pipeline([write(tmp_path), "--head", head, "--seed", "5"])
    pipeline.check()
    student, teacher, distilled, export = pipeline.steps()
    base = ["--data.train", "data", "--data.image_size", "64", "--backbone.embedding_size", "64"]
    seed = ["--seed", "5"]
    assert list(student.words) == ["train", *base, *seed, "--output", "runs/sh/student"]
    under = ["--output", "runs/sh/teacher", "--shared_head", "runs/sh/student"]
    assert list(teacher.words) == ["train", *base, "--backbone.width", "2.0", *seed, *under]
    by = ["--output", "runs/sh/distilled", "--teacher.model", "runs/sh/teacher", "--shared_head", shared]
    assert list(distilled.words) == ["distill", *base, "--loss.embedding_l2", "1", *seed, *by]
    assert distilled.after == (student.title, teacher.title) and export.after == (distilled.title,)


def test_the_pipeline_that_comes_along_parses() -> None:
    load_pipeline([str(ROOT / "configs/distill/ms1mv3_sh_kd_pipeline.yaml"), "--data.train", "x"]).check()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"haed": "free"}, [], r"'haed' is not a key here \(did you mean 'head'\?\)"),
        ({"head": "both"}, [], "expected shared or free"),
        ({"processes": 0}, [], "expected a whole number from 1"),
        ({"base": {"shared_head": "x"}}, [], "shared_head is set by the pipeline"),
        ({}, ["--teacher.model", "x"], "distilled: teacher.model is set by the pipeline"),
        (
            {"teacher": {"config": {"backbone.embedding_size": 32}}},
            [],
            "student 64, teacher 32, distilled 64",
        ),
        ({"distilled": {"config": {"loss.cosine": 1}}}, [], "distilled: 'loss.cosine' is not a configuration key"),
    ],
)
def test_pipelines_that_cannot_be(tmp_path: Path, changes: Any, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pipeline([write(tmp_path, **changes), *words]).check()
