"""Checks what each stage of SH-KD is told, and which pipelines are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.commands.config_files import parse_config
from facekd.commands.open_sections import flatten
from facekd.embedder import open_embedder
from facekd.errors import ConfigError
from facekd.experiments.sh_kd import load_pipeline, main
from facekd.experiments.sharing_stages import STAGES
from facekd.training.config.distill_config import DistillConfig
from facekd.training.logbook import read_log
from facekd.training.train import main as train

ROOT = Path(__file__).resolve().parents[3]


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


def test_a_folder_with_a_dollar_sign_reaches_the_stages_as_it_is(tmp_path: Path) -> None:
    pipeline = load_pipeline([write(tmp_path, output="runs/a$$b")])
    pipeline.check()
    student, _, distilled, export = pipeline.steps()
    config = parse_config(DistillConfig, list(distilled.words[1:]), "facekd distill", "")
    assert (config.output, config.shared_head) == ("runs/a$b/distilled", "runs/a$b/student")
    assert config.teacher.model == "runs/a$b/teacher" and student.makes == Path("runs/a$b/student")
    assert export.words[1] == "runs/a$b/distilled"  # a verb without a config expands nothing


@pytest.mark.parametrize("name", ["sh_kd", "meeting_head", "refo"])
def test_the_pipelines_that_come_along_parse(name: str) -> None:
    load_pipeline([str(ROOT / f"configs/distill/ms1mv3_{name}_pipeline.yaml"), "--data.train", "x"]).check()


@pytest.mark.parametrize(("kind", "blend"), [("means", []), ("blend", ["--blend", "0.75"])])
def test_class_means_are_computed_and_handed_on(tmp_path: Path, kind: str, blend: list[str]) -> None:
    path = write(tmp_path, base={"data": {"train": "a$$b", "image_size": 64, "on_bad_record": "skip", "resize": True}})
    words = ["--shared-head", kind, "--power=0.5", *blend, "--teacher-from", "runs/t$$", "--student_from", "student"]
    pipeline = load_pipeline([path, *words, "--device", "cpu"])
    pipeline.check()
    student, means, teacher, distilled, _ = pipeline.steps()
    skip = ["--on-bad-record", "skip", "--power", "0.5", *blend, "--resize"]
    made = "runs/sh/shared_head.pt"
    assert list(means.words) == ["rebuild-head", "runs/sh/student", "--data", "a$b", "--output", made, *skip]
    on_gpu = load_pipeline([path, *words, "--device", "cuda:1"]).words_of_means()
    assert on_gpu[on_gpu.index("--device") + 1] == "cuda:1"
    assert means.makes == Path(made) and means.after == (student.title,) and teacher.after[-1] == means.title
    assert list(teacher.words)[-4:] == ["--shared_head", made, "--backbone.weights", "runs/t$$"]
    assert list(distilled.words)[-4:] == ["--shared_head", made, "--backbone.weights", "runs/sh/student"]


def test_a_first_student_can_be_taught(tmp_path: Path) -> None:
    path = write(tmp_path, student={"config": {"share": 1}}, shared_head="means", power=None)
    pipeline = load_pipeline([path, "--first_student", "taught", "--teacher_from", "runs/t"])
    pipeline.check()
    student, means, teacher, *_ = pipeline.steps()
    assert student.words[0] == "distill" and list(student.words)[-2:] == ["--teacher.model", "runs/t"]
    assert "--power" not in means.words
    assert list(teacher.words)[-2:] == ["--backbone.weights", "runs/t"]
    assert pipeline.stage_configs["distilled"].shared_head == "runs/sh/shared_head.pt"


def test_a_teacher_pulled_softly_learns_from_the_student_and_shares_nothing(tmp_path: Path) -> None:
    config = {"backbone": {"width": 2.0, "embedding_size": 128}, "loss": {"embedding_l2": 1}}
    pipeline = load_pipeline([write(tmp_path, teacher={"config": config}), "--pull", "soft", "--head", "free"])
    pipeline.check()
    _, teacher, distilled, _ = pipeline.steps()
    assert teacher.words[0] == "distill"
    assert list(teacher.words)[-4:] == ["--output", "runs/sh/teacher", "--teacher.model", "runs/sh/student"]
    assert list(distilled.words)[-4:] == ["--teacher.model", "runs/sh/teacher", "--shared_head", ""]


def test_options_go_to_the_pipeline_or_to_its_stages_wherever_the_file_stands(tmp_path: Path) -> None:
    words = ["--seed", "5", "--head=free", "--student.config.images", "7", write(tmp_path), "--processes", "2"]
    pipeline = load_pipeline([*words, "--head.scale", "16"])
    assert (pipeline.plan.head, pipeline.processes) == ("free", 2)
    assert pipeline.extra == ("--seed", "5", "--head.scale", "16")
    assert [pipeline.configs[stage].get("images") for stage in ("student", "teacher")] == [7, None]


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"haed": "free"}, [], r"pipeline.yaml: 'haed' is not a configuration key; did you mean 'head'\?"),
        ({"head": "both"}, [], r"pipeline.yaml: head: expected one of 'shared', 'free'"),
        ({"teacher": {"recipes": "x"}}, [], r"pipeline.yaml: .*recipes' is not a .*; did you mean 'teacher.recipe'\?"),
        ({"power": 2}, [], "power: expected a number from 0 to 1, found 2"),
        ({}, ["--blend", "-1"], "blend: expected a number from 0 to 1"),
        ({"power": None}, [], "power = null has no effect with shared_head: rows; set that to means or blend"),
        ({"shared_head": "means", "blend": 0.1}, [], "blend = 0.1 has no effect with shared_head: means"),
        ({"pull": "soft"}, [], "pull: soft shares no classifier"),
        ({"pull": "soft", "head": "free", "shared_head": "means"}, [], "pull: soft shares no classifier"),
        ({"pull": "soft", "head": "free"}, [], "teacher: loss.ce alone is training"),
        ({"first_student": "taught"}, [], "first_student: taught learns from a trained teacher: name it"),
        (
            {"teacher_from": "t", "base": {"backbone.weights": "x", "data.train": "d"}},
            [],
            "teacher: backbone.weights is set by the pipeline",
        ),
        (
            {"shared_head": "means", "base": {"data.train": "d", "head": {"kind": "linear"}}},
            [],
            "shared_head: means makes a margin classifier, and head.kind of the student is 'linear'",
        ),
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


TINY = {
    "data": {"train": "synthetic:10x6:1", "image_size": 32, "workers": 0},
    "backbone": {"width": 0.125, "embedding_size": 16},
    "head": {"margin_value": 0.2, "scale": 16},
    "schedule": {"lr": 0.01},
    "images": 48,
    "global_batch_size": 12,
    "log_every_images": 24,
    "device": "cpu",
    "tensorboard": False,
}


@pytest.mark.slow
@pytest.mark.usefixtures("full_depth")
def test_the_meeting_head_from_a_teacher_to_a_model_and_not_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    words = [word for key, value in flatten(TINY).items() for word in (f"--{key}", str(value))]
    assert train([*words, "--backbone.width", "0.25", "--output", str(first)]) == 0
    path = write(
        tmp_path,
        output=str(tmp_path / "met"),
        base=TINY,
        first_student="taught",
        shared_head="means",
        teacher_from=str(first),
        student_from="student",
        student={"config": {"share": 1, "loss": {"kl": 1}}},
        teacher={"config": {"backbone.width": 0.25}},
        distilled={"config": {"loss": {"kl": 1}}},
    )
    assert main([path]) == 0
    met = tmp_path / "met"
    shared = load_checkpoint(met / "shared_head.pt")
    assert shared["config"]["rebuilt_head"]["centres"]["power"] == 0.25
    for stage in ("teacher", "distilled"):
        assert torch.equal(load_checkpoint(met / stage)["head"]["weight"], shared["head"]["weight"])
    taught = load_checkpoint(met / "student")
    assert torch.equal(taught["head"]["weight"], load_checkpoint(first)["head"]["weight"])
    begun = [load_checkpoint(met / stage)["started_from"]["backbone"]["file"] for stage in ("teacher", "distilled")]
    assert [Path(file).parts[-3] for file in begun] == ["first", "student"]
    assert all(read_log(met / stage, "centres") for stage in STAGES)
    capfd.readouterr()
    assert main([path]) == 0
    assert capfd.readouterr().out.count("done before") == 5


@pytest.mark.slow
def test_from_nothing_to_a_model_and_not_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        output=str(tmp_path / "sh"),
        base=TINY,
        teacher={"config": {"backbone.width": 0.25}},
    )
    assert main([path]) == 0
    runs = [tmp_path / "sh" / stage for stage in ("student", "teacher", "distilled")]
    heads = [load_checkpoint(run)["head"]["weight"] for run in runs]
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[0], heads[2])  # shared means shared, to the bit
    model = tmp_path / "sh" / "model.onnx"
    embedder = open_embedder(str(model))
    assert embedder.embed(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 16)
    written = model.stat().st_mtime_ns
    logs = [(run / "log.jsonl").read_bytes() for run in runs]
    capfd.readouterr()
    assert main([path]) == 0
    assert model.stat().st_mtime_ns == written
    assert logs == [
        (tmp_path / "sh" / stage / "log.jsonl").read_bytes() for stage in ("student", "teacher", "distilled")
    ]
