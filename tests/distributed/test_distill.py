"""Distillation on two gloo processes: equal to one that accumulates; memories and centres that all move alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.commands.config_files import parse_config
from facekd.distributed import World
from facekd.training.config import TrainConfig
from facekd.training.distill import main
from facekd.training.logbook import read_log
from facekd.training.loop import train
from tests.distributed.test_distributed import PATIENCE, start_both, train_arguments

DISTILL = ("-m", "facekd", "distill")
MARGIN = ("--head.margin_value", "0.2", "--schedule.lr", "0.02")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with embeddings of 24, where the students have 16: a projection lies between."""
    folder = tmp_path_factory.mktemp("teacher")
    arguments = train_arguments(folder, *MARGIN, "--backbone.embedding_size", "24", "--images", "120")
    train(parse_config(TrainConfig, arguments, "", ""), World(0, 1, torch.device("cpu")))
    return folder


def distil_arguments(folder: Path, teacher: Path, *more: str) -> list[str]:
    return train_arguments(folder, *MARGIN, "--images", "60", "--teacher.model", str(teacher), *more)


def on_two(words: list[str]) -> None:
    for process in start_both([*DISTILL, *words]):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()


def test_two_processes_equal_one_that_accumulates(teacher: Path, tmp_path: Path) -> None:
    # Six images a pass either way, so batch normalisation sees the same batches; only its running averages differ.
    # A low rate, for steps of a high one are chaotic: they blow up the rounding that the two orders of sums differ by.
    loss = ("--share", "0.5", "--loss.kl", "0.5", "--loss.embedding_cosine", "2", "--schedule.lr", "0.002")
    on_two(distil_arguments(tmp_path / "two", teacher, *loss))
    assert main(distil_arguments(tmp_path / "one", teacher, *loss, "--batch_size_per_rank", "6")) == 0
    entries = [read_log(tmp_path / name, "train") for name in ("two", "one")]
    names = [name for name in entries[0][0] if name.startswith("loss")]
    assert names == ["loss", "loss_ce", "loss_kl", "loss_th_ce", "loss_th_kl", "loss_embedding_cosine"]
    for two, one in zip(*entries, strict=True):
        assert [two[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-3)
    two, one = (load_checkpoint(tmp_path / name) for name in ("two", "one"))
    weights = {
        f"backbone.{name}": value
        for name, value in one["backbone"].items()
        if "running" not in name and "tracked" not in name
    }
    assert "projection.weight" in one["training"]["extras"]
    for name, value in {**weights, "head.weight": one["head"]["weight"], **one["training"]["extras"]}.items():
        part, _, rest = name.partition(".")
        other = two[part][rest] if part in ("backbone", "head") else two["training"]["extras"][name]
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4, msg=name)


def test_memories_and_centres_on_two_processes(teacher: Path, tmp_path: Path) -> None:
    loss = ("--loss.ce", "0", "--loss.adadistill", "1", "--loss.crd", "0.1")
    on_two(distil_arguments(tmp_path / "two", teacher, *loss))
    extras = load_checkpoint(tmp_path / "two")["training"]["extras"]
    # 60 images of 36, in two passes over the data: every one was remembered, by whichever process saw it.
    assert torch.allclose(extras["contrastive.student_memory"].norm(dim=1), torch.ones(36))
    moved = (extras["centres"] - load_checkpoint(teacher)["head"]["weight"]).norm(dim=1)
    assert (moved > 0).all()
