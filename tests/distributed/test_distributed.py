"""Two gloo processes on this machine: the exchanges, a run that one of them is asked to stop, errors said once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evaluation.validators import PairSetValidator
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.embedder import TorchEmbedder
from facekd.training.logbook import read_log
from tests.distributed.runs import (
    GENTLE,
    PATIENCE,
    TRAIN,
    Runs,
    run_alone,
    start_both,
    train_arguments,
    write_pack,
)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    write_pack(tmp_path / "pack.bin")
    return tmp_path / "pack.bin"


def test_exchanges_and_validators(runs: Runs) -> None:
    runs.of("exchange", 2)


def test_two_processes_equal_one_that_accumulates(runs: Runs, tmp_path: Path) -> None:
    # Rank r takes the r-th half of each global batch, just as the r-th micro-batch of one process does.
    run_alone(train_arguments(tmp_path / "one", *GENTLE, "--images", "60", "--batch_size_per_rank", "6"))
    one, two = (read_log(run, "train") for run in (tmp_path / "one", runs.of("validated", 2)))
    assert [entry["images_seen"] for entry in one] == [entry["images_seen"] for entry in two] == [12, 24, 36, 48, 60]
    np.testing.assert_allclose([entry["loss"] for entry in one], [entry["loss"] for entry in two], rtol=1e-3)


def test_a_stop_signal_on_one_rank_stops_both_after_a_checkpoint(pack: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    validation = ("--validation.packs", f"[{pack}]", "--validation.every_images", "24")
    processes = start_both([*TRAIN, *train_arguments(run, *validation)])
    deadline = time.monotonic() + PATIENCE
    while len(read_log(run, "train")) < 3:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGHUP)
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGHUP, errors.decode()
    assert load_checkpoint(run)["training"]["images_seen"] == read_log(run, "train")[-1]["images_seen"]


@pytest.mark.slow
def test_a_stopped_rank_is_given_up_in_a_sentence_and_the_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEKD_SECONDS_UNTIL_GIVEN_UP", "20")
    words = [*TRAIN, *train_arguments(tmp_path / "run", "--images", "120", "--checkpoint.every_images", "24")]
    main, other = start_both(words)
    deadline = time.monotonic() + PATIENCE
    while not list_checkpoints(tmp_path / "run"):
        assert time.monotonic() < deadline and main.poll() is None
        time.sleep(0.01)
    other.send_signal(signal.SIGSTOP)
    _, errors = main.communicate(timeout=PATIENCE)
    said = errors.decode().splitlines()
    assert (
        main.returncode == 2 and "another process of this run has not answered for 20 s: it is stopped" in said[-1]
    ), said
    other.kill()
    other.communicate()
    for process in start_both(words):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()


def test_what_is_evaluated_is_what_is_saved(runs: Runs) -> None:
    # Each rank embeds half the pack, and would by itself do so with batch statistics of its own.
    run = runs.of("validated", 2)
    backbone, preprocessing = load_backbone(run)
    expected = PairSetValidator(runs.folder / "pack.bin")(TorchEmbedder(backbone, preprocessing).embed)
    (entry,) = read_log(run, "validation")
    assert entry["pack/auc"] == pytest.approx(expected["auc"])
    assert (run / "checkpoints" / "best.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_ranks_that_start_apart_are_refused(sharded: str, tmp_path: Path) -> None:
    # As on two machines without a shared file system: the second finds no run to resume.
    arguments = train_arguments(tmp_path / "run", "--images", "24", "--checkpoint.every_images", "12")
    arguments += ["--head.sharded", sharded]
    run_alone(arguments)
    list_checkpoints(tmp_path / "run")[-1].unlink()
    words = [*TRAIN, *arguments]
    main, other = start_both(words, of_rank_1=[*words, "--output", str(tmp_path / "elsewhere")])
    _, errors = other.communicate(timeout=PATIENCE)
    assert other.returncode == 2 and b"must be the same on every machine" in errors, errors.decode()
    _, errors = main.communicate(timeout=PATIENCE)
    assert main.returncode == 2 and b"must be the same on every machine" in errors, errors.decode()


@pytest.mark.slow
def test_an_error_of_every_rank_is_said_once(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *launcher, *TRAIN, *train_arguments(tmp_path / "run", "--head.margn", "1")]
    # However far apart the two start: the second waits for the launcher to end it.
    environment = {**os.environ, "FACEKD_SECONDS_FOR_THE_FIRST": str(PATIENCE)}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)
    assert finished.returncode != 0
    assert finished.stderr.count("error: 'head.margn' is not a configuration key") == 1
