"""Distillation on two gloo processes: equal to one that accumulates; memories and centres that all move alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.training.distill import main
from facekd.training.logbook import read_log
from tests.distributed.runs import PATIENCE, Runs, head_of, taught, train_arguments

pytestmark = pytest.mark.slow


def test_two_processes_equal_one_that_accumulates(more_runs: Runs, tmp_path: Path) -> None:
    # Six images a pass either way, so batch normalisation sees the same batches; only its running averages differ.
    words = taught(more_runs.of("teacher", 2), "both-heads")
    assert main(train_arguments(tmp_path / "one", *words, "--batch_size_per_rank", "6")) == 0
    folders = (more_runs.of("both-heads", 2), tmp_path / "one")
    entries = [read_log(folder, "train") for folder in folders]
    names = [name for name in entries[0][0] if name.startswith("loss")]
    assert names == ["loss", "loss_ce", "loss_kl", "loss_th_ce", "loss_th_kl", "loss_embedding_cosine"]
    for two, one in zip(*entries, strict=True):
        assert [two[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-3)
    two, one = (load_checkpoint(folder) for folder in folders)
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


def test_memories_and_centres_on_two_processes(more_runs: Runs) -> None:
    extras = load_checkpoint(more_runs.of("memories", 2))["training"]["extras"]
    # 60 images of 36, in two passes over the data: every one was remembered, by whichever process saw it.
    assert torch.allclose(extras["contrastive.student_memory"].norm(dim=1), torch.ones(36))
    assert ((extras["centres"] - head_of(more_runs.of("teacher", 2))).norm(dim=1) > 0).all()


def test_the_command_distils_under_a_launcher(more_runs: Runs, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "facekd", "distill")
    words = train_arguments(tmp_path / "run", *taught(more_runs.of("teacher", 2), "both-heads"))
    done = subprocess.run([sys.executable, *launcher, *words], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    entries = [read_log(run, "train") for run in (tmp_path / "run", more_runs.of("both-heads", 2))]
    assert [entry["loss"] for entry in entries[0]] == pytest.approx([entry["loss"] for entry in entries[1]], rel=1e-5)
