"""Tests distillation from several teachers: their mean or each of them, on the command line, resumed, refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, ConfigError, DataError, TeacherError
from facekd.teacher.cache import write_teacher_cache
from facekd.teacher.config import spell_out_teachers
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distill import main
from facekd.training.logbook import read_log
from tests.no_waiting import failing_if_it_waits


@pytest.fixture(scope="module", autouse=True)
def shallow_networks() -> None:
    """Leaves the networks of this module as they are: six steps of a shallow one are too few to learn anything."""


@pytest.fixture(scope="module")
def teachers(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained teachers: `a.pt` and `b.pt` of 24 numbers, `c.pt` of 8, and `b.cache`."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed, (name, size) in enumerate({"a": 24, "b": 24, "c": 8}.items()):
        torch.manual_seed(seed)
        architecture = {"name": "mobilefacenet", "embedding_size": size, "image_size": 32, "width": 0.125}
        preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
        backbone = build_backbone(**architecture).state_dict()
        config = {"backbone": architecture}
        save_checkpoint(folder / f"{name}.pt", {"config": config, "preprocessing": preprocessing, "backbone": backbone})
    write_teacher_cache(folder / "b.cache", open_embedder(folder / "b.pt"), open_dataset(tiny_faces, 32))
    return folder


Distil = Callable[..., Path]


@pytest.fixture
def distil(tiny_arguments: list[str], tmp_path: Path) -> Distil:
    """Distils into the tiny student of 16 numbers; returns the folder."""

    def run(name: str, *words: str) -> Path:
        assert main([*tiny_arguments, "--output", str(tmp_path / name), "--schedule.lr", "0.01", *words]) == 0
        return tmp_path / name

    return run


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder, "train")]


def test_a_student_learns_from_the_mean_of_two(distil: Distil, teachers: Path) -> None:
    options = ("--loss.ce", "0", "--loss.embedding_cosine", "5", "--images", "72", "--diagnostics", "false")
    live, cached = ("--teacher", str(teachers / "a.pt")), ("--teacher", str(teachers / "b.cache"))
    found = losses(distil("mean", *live, *cached, *options))
    assert found[-1] < found[0]
    # The mean of a teacher with itself is that teacher, and not that of the two.
    one, twice = losses(distil("one", *cached, *options)), losses(distil("twice", *cached, *cached, *options))
    assert twice == pytest.approx(one, rel=1e-4) and found != pytest.approx(one, rel=1e-2)


@pytest.mark.slow
def test_teachers_of_two_sizes_one_by_one_resumed_and_moved(distil: Distil, teachers: Path, tmp_path: Path) -> None:
    def words(folder: Path, third: str = "c.pt") -> list[str]:
        listed = f"[{{cache: {folder / 'b.cache'}, weight: 3}}, {{model: {folder / third}}}]"
        return ["--teachers", listed, "--combine_teachers", "each", "--loss.embedding_l2", "2", "--images", "72"]

    whole, resumed = distil("whole", *words(teachers)), distil("resumed", *words(teachers))
    extras = load_checkpoint(whole)["training"]["extras"]
    assert extras["projection.weight"].shape == (24, 16)
    assert extras["further_projections.0.weight"].shape == (8, 16)
    backbone, _ = load_backbone(whole)
    assert backbone.embedding_size == 16

    # The same teachers elsewhere are the same; another one is not.
    moved = shutil.copytree(teachers, tmp_path / "moved")
    for late in sorted((resumed / "checkpoints").iterdir())[1:]:
        late.unlink()
    distil("resumed", *words(moved))
    assert losses(resumed) == losses(whole)
    again = load_checkpoint(resumed)["training"]["extras"]
    assert all(torch.equal(again[name], value) for name, value in extras.items())
    shutil.copy(teachers / "a.pt", moved / "c.pt")
    with pytest.raises(CheckpointError, match=r"learnt from another teacher|does not fit"):
        distil("resumed", *words(moved))
    with pytest.raises(CheckpointError, match=r"teachers\.0\.weight was 3\.0, now 2\.0"):
        distil("resumed", *[word.replace("weight: 3", "weight: 2") for word in words(teachers)])


def test_a_mean_needs_one_size(distil: Distil, teachers: Path) -> None:
    with pytest.raises(TeacherError, match=r"embed to 24, 8 values, .* set combine_teachers to 'each'"):
        distil("x", *("--teacher", str(teachers / "a.pt"), "--teacher", str(teachers / "c.pt")), "--loss.sp", "1")


TWO = ("--teachers", "[{model: a}, {model: b}]")
COSINE = ("--loss.embedding_cosine", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TWO, "--loss.kl", "1"), r"^loss\.kl: this goes by the teacher's classifier, which belongs to one of them"),
        ((*TWO, "--share", "1"), r"^loss\.th_ce \(by share\): .* teachers names 2"),
        ((*TWO, "--loss.ce", "0", "--head.kind", "linear", *COSINE), r"predicts with its teacher's classifier"),
        ((*TWO, "--loss.crd", "1", "--combine_teachers", "each"), r"^loss\.crd remembers .* 'mean'"),
        ((*TWO, *COSINE, "--teacher.resize", "true"), r"^teacher\.resize is set beside teachers"),
        (("--teachers", "[{model: a}]", *COSINE), "lists one teacher: name it under teacher"),
        (("--teachers", "[{model: a}, {resize: true}]", *COSINE), r"^teachers\.1: name its model, its cache"),
        (("--teachers", "[{model: a}, {model: b, head: c}]", *COSINE), r"^teachers\.1\.head is the classifier of one"),
        (("--teachers", "[{model: a}, {model: b, weight: 0}]", *COSINE), "weight = 0.0: give a positive number"),
        (("--teachers", "[a, b]", *COSINE), "teachers: expected a section of keys, not a"),
        (("--teacher.model", "a", "--combine_teachers", "each", *COSINE), "has no effect: one teacher is named"),
        (("--teacher.model", "a", "--teacher.weight", "2", *COSINE), r"^teacher\.weight has no effect"),
        (
            ("--teachers", "[{model: a}, {cache: b}]", "--augmentation.blur", "0.5", *COSINE),
            r"^teacher\.cache holds the teacher's embeddings of unchanged images",
        ),
    ],
)
def test_lists_of_teachers_that_cannot_be(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(DistillConfig, ["--data.train", "x", "--output", "y", *words], "", "")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("\n- {model: a, mdoel: b}", r"'teachers\.0\.mdoel' is not a configuration key; did you mean .*model"),
        ("\n- a\n- b", r"teachers\.0 is a section: expected keys below it, not 'a'"),
        (" {model: a}", "teachers is a list: begin each of its entries"),
    ],
)
def test_a_list_in_a_file_that_is_none(entries: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"output: x\nteachers:{entries}\n")
    with pytest.raises(ConfigError, match=rf"^{path}: {message}"):
        parse_config(DistillConfig, [str(path)], "", "")


def test_teachers_on_the_command_line(teachers: Path) -> None:
    cache = str(teachers / "b.cache")
    unset = {"--teacher.model": "", "--teacher.cache": ""}

    def options(*words: str) -> dict[str, str]:
        found = spell_out_teachers(words)
        return dict(zip(found[::2], found[1::2], strict=True))

    assert options("--seed", "1") == {"--seed": "1"}
    assert options("--teacher", "a", "--seed", "1") == {**unset, "--teacher.model": "a", "--seed": "1"}
    assert options("--teacher", cache) == {**unset, "--teacher.cache": cache}
    assert options("--teacher", "a", "--teacher.cache", "c")["--teacher.cache"] == "c"
    several = options("--teacher", "a", "--teacher", cache)
    assert several == {**unset, "--teacher.head": "", "--teachers": f'[{{"model": "a"}}, {{"cache": "{cache}"}}]'}
    assert spell_out_teachers(["--teacher", "own.yaml"]) == ["--teacher", "own.yaml"]
    os.mkfifo(teachers / "pipe")
    with failing_if_it_waits(), pytest.raises(DataError, match="pipe: is a named pipe"):
        spell_out_teachers(["--teacher", str(teachers / "pipe")])
    for last in ("--teacher", "--teacher="):
        with pytest.raises(ConfigError, match="--teacher needs a checkpoint"):
            spell_out_teachers(["--seed", "1", last])
