"""Tests heads split over processes: same numbers as whole ones, and checkpoints for any number of processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint
from facekd.checkpoints.head_shards import read_rows
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.checkpoints.shared_head import load_shared_head
from facekd.data.datasets import SyntheticDataset
from facekd.errors import CheckpointError
from facekd.training.distill import main as distill
from facekd.training.logbook import read_log
from tests.distributed import shards
from tests.distributed.runs import (
    ALONE,
    FAILS,
    GENTLE,
    HEADS,
    OPTIMIZERS,
    PATIENCE,
    SHARDED,
    TRAIN,
    UNEVEN,
    Runs,
    divided,
    four_a_pass,
    head_of,
    run_alone,
    start_both,
    started,
    taught,
    train_arguments,
)
from tests.distributed.several_runs import RESUMING, SAVING, copy_up_to


def assert_same_run(first: Path, second: Path, rtol: float = 1e-3) -> None:
    logs = [read_log(run, "train") for run in (first, second)]
    assert [entry["images_seen"] for entry in logs[0]] == [entry["images_seen"] for entry in logs[1]]
    for mine, other in zip(*logs, strict=True):
        for name in mine:
            if name.startswith("loss") or name.endswith("gradient_norm"):
                assert mine[name] == pytest.approx(other[name], rel=rtol), name
    torch.testing.assert_close(head_of(first), head_of(second), rtol=rtol, atol=1e-4)
    (mine,), (other,) = (read_log(run, "centres") for run in (first, second))
    assert mine.keys() == other.keys() and mine["num_images"] == other["num_images"]
    for name in {"rows_dimension", "teacher_rows_correlation"} & mine.keys():  # the means depend on batch statistics
        assert mine[name] == pytest.approx(other[name], rel=10 * rtol, abs=1e-3), name


def test_losses_and_gradients_are_those_of_a_whole_head() -> None:
    shards.check(ALONE)


def test_losses_and_gradients_of_two_processes_are_those_of_a_whole_head(runs: Runs) -> None:
    runs.of("shards-2", 2)


@pytest.mark.slow
def test_losses_and_gradients_of_three_processes_are_those_of_a_whole_head(runs_by_three: Runs) -> None:
    runs_by_three.of("shards-3", 3)


def test_two_processes_with_shards_equal_one_with_the_whole(runs: Runs, tmp_path: Path) -> None:
    # Six images a pass either way, so batch normalisation sees the same batches.
    run_alone(train_arguments(tmp_path / "one", *GENTLE, "--images", "60", "--batch_size_per_rank", "6"))
    assert_same_run(runs.of("gentle", 2), tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "warmed-up"])
def test_two_processes_start_from_weights_as_one_does(name: str, more_runs: Runs, tmp_path: Path) -> None:
    two = more_runs.of(name, 2)
    run_alone(train_arguments(tmp_path / "one", *started(more_runs.folder, name), "--batch_size_per_rank", "6"))
    assert_same_run(two, tmp_path / "one")
    started_from = load_checkpoint(two)["started_from"]
    assert started_from == load_checkpoint(tmp_path / "one")["started_from"] and started_from["head"]["classes"] == 6
    before, after = load_checkpoint(more_runs.of("gentle", 2))["ema"], load_checkpoint(two)["backbone"]
    assert all(torch.equal(before[key], after[key]) for key in before) == (name == "frozen")


def test_distillation_through_shared_and_sharded_heads(runs: Runs, tmp_path: Path) -> None:
    teacher, student = runs.of("teacher", 2), runs.of("student", 2)
    assert "weight" not in load_checkpoint(teacher)["head"]
    assert distill(train_arguments(tmp_path / "one", *taught(teacher, "student"), "--batch_size_per_rank", "6")) == 0
    assert_same_run(student, tmp_path / "one")
    (entry,) = read_log(student, "agreement")
    assert entry["num_images"] == 36 and 0 <= entry["agreement"] <= 1


def test_a_run_of_two_processes_goes_on_with_one(runs: Runs, tmp_path: Path) -> None:
    two = runs.of("fresh-2-sgd", 2)
    copy_up_to(24, two, tmp_path / "one")
    run_alone(train_arguments(tmp_path / "one", *divided("sgd")))
    assert_same_run(two, tmp_path / "one", rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_goes_on_with_another_number_of_processes(optimizer: str, runs_by_three: Runs, tmp_path: Path) -> None:
    runs = runs_by_three
    # Three processes have 2, 2 and 2 of 6 classes, two have 3 and 3; one that does not share them out has all.
    run_alone(train_arguments(tmp_path / "one", *four_a_pass(optimizer)))
    three, two = runs.of(f"3-{optimizer}", 3), runs.of(f"2-{optimizer}", 2)
    assert_same_run(three, tmp_path / "one", rtol=1e-2)
    for name, more in (("sharded", ()), ("whole", ("--head.sharded", "false"))):
        copy_up_to(24, three, tmp_path / name)
        run_alone(train_arguments(tmp_path / name, *divided(optimizer), *more))
    for run in (two, tmp_path / "sharded", tmp_path / "whole"):
        assert_same_run(run, tmp_path / "one", rtol=1e-2)
        left = sorted(path.name for path in (run / "checkpoints").glob("*.head"))
        assert left == [f"{images:012d}.head" for images in ((24,) if run.name == "whole" else (24, 48, 72))]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_that_does_not_divide_gives_the_run_of_one_process(
    head: str, runs_by_three: Runs, tmp_path: Path
) -> None:
    run_alone(train_arguments(tmp_path / "one", *UNEVEN, "--batch_size_per_rank", "7"))
    assert_same_run(runs_by_three.of(f"uneven-{head}", 3), tmp_path / "one")


def test_a_whole_head_is_shared_out_on_the_way(runs: Runs) -> None:
    assert_same_run(runs.of("from-whole", 2), runs.folder / "whole")


def test_a_head_with_parts_missing_is_refused(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.of("gentle", 2), tmp_path / "run")
    dataset = SyntheticDataset(6, 6, 32, 1)
    whole = load_shared_head(tmp_path / "run", dataset)
    assert whole.weight_CD.shape == (6, 16)
    (folder,) = (tmp_path / "run" / "checkpoints").glob("*.head")
    parts = sorted(folder.iterdir())
    content = bytearray(parts[0].read_bytes())
    content[-3] ^= 1
    parts[0].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"head: damaged: the bytes of shard-00001"):
        load_shared_head(tmp_path / "run", dataset)
    content[-3] ^= 1
    parts[0].write_bytes(content)
    load_shared_head(tmp_path / "run", dataset)
    parts[0].rename(tmp_path / "part")
    with pytest.raises(CheckpointError, match=r"incomplete: 3 of 6 rows of 'weight'"):
        load_shared_head(tmp_path / "run", dataset)
    parts[0].write_bytes((tmp_path / "part").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"head: damaged"):
        load_shared_head(tmp_path / "run", dataset)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="which is missing"):
        load_shared_head(tmp_path / "run", dataset)


def with_slow_ones(failures: Iterable[str]) -> list[Any]:
    return [failure if failure in FAILS else pytest.param(failure, marks=pytest.mark.slow) for failure in failures]


@pytest.mark.parametrize("failure", with_slow_ones([*SAVING, "fail-on-naming-the-file-of-all"]))
def test_a_process_that_cannot_save_stops_all_and_leaves_no_checkpoint(
    failure: str, request: pytest.FixtureRequest
) -> None:
    made: Runs = request.getfixturevalue("runs" if failure in FAILS else "failed_runs")
    left = [path.name for path in (made.of(failure, 2) / "checkpoints").iterdir()]
    # A head without its file is a leftover, which goes when the run is started again.
    assert left == (["000000000024.head"] if failure == "fail-on-naming-the-file" else [])


@pytest.mark.parametrize("failure", with_slow_ones(RESUMING))
def test_a_process_that_cannot_resume_stops_all(failure: str, request: pytest.FixtureRequest) -> None:
    made: Runs = request.getfixturevalue("runs" if failure in FAILS else "failed_runs")
    assert [path.name for path in list_checkpoints(made.of(failure, 2))] == ["000000000024.pt"]


def test_a_head_of_another_run_is_refused(tmp_path: Path) -> None:
    small, large = (
        [*train_arguments(tmp_path / size, *GENTLE, "--images", "24", *SHARDED), "--backbone.embedding_size", size]
        for size in ("8", "16")
    )
    run_alone(small)
    run_alone(large)
    (folder,) = (tmp_path / "16" / "checkpoints").glob("*.head")
    shutil.rmtree(folder)
    (other,) = (tmp_path / "8" / "checkpoints").glob("*.head")
    shutil.copytree(other, folder)
    (path,) = list_checkpoints(tmp_path / "16")
    stored = read_checkpoint(path).head_shards
    assert stored is not None
    with pytest.raises(CheckpointError, match=r"head: damaged: a part of 'weight' .* expected rows of 16 from row 0"):
        read_rows(path, stored)
    # A run with such a checkpoint says which file is in the way.
    with pytest.raises(CheckpointError, match=r"Delete 000000000024\.pt and the same command starts anew"):
        run_alone(large)


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    words = [*GENTLE, *SHARDED, "--images", "240", "--checkpoint.every_images", "24", "--head.sample_rate", "0.7"]
    for process in start_both([*TRAIN, *train_arguments(tmp_path / "straight", *words)]):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1")
    command = [sys.executable, *launcher, *TRAIN, *train_arguments(tmp_path / "killed", *words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as launched:
        deadline = time.monotonic() + PATIENCE
        while not (found := list_checkpoints(tmp_path / "killed")):
            assert launched.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(worker_of(launched.pid, rank=1), signal.SIGKILL)
        _, errors = launched.communicate(timeout=PATIENCE)
    assert launched.returncode == 0, errors.decode()
    log = (tmp_path / "killed" / "console.log").read_text() if (tmp_path / "killed" / "console.log").exists() else ""
    assert "resuming from" in log + errors.decode()
    assert_same_run(tmp_path / "killed", tmp_path / "straight", rtol=1e-6)
    assert found


def worker_of(launcher: int, rank: int) -> int:
    """Finds the process that a launcher started for a rank, by its environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no rank {rank} below process {launcher}")
