"""Checks that what a killed command started ends too: trainings, which save first, and pool workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.errors import FacekdError
from facekd.training.logbook import read_log
from facekd.utils.processes import children
from facekd.utils.processes.children import LaunchedAs, launched_as, saying_that_it_waits

PATIENCE = 300  # seconds: a loaded machine takes many to start processes
BASE = {
    "data": {"train": "synthetic:6x6:1", "image_size": 32, "workers": 1},
    "backbone": {"width": 0.125, "embedding_size": 16},
    "head": {"margin_value": 0.2, "scale": 16},
    "schedule": {"lr": 0.01},
    "images": 12_000_000,
    "global_batch_size": 12,
    "log_every_images": 12,
    "device": "cpu",
    "tensorboard": False,
}


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a facekd command whose output ends when the last process that writes to it does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "facekd", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def kill_when(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()  # SIGKILL: it can do nothing any more
    process.wait()


def wait_until_free(lock: Path) -> None:
    """Waits until nobody holds a lock, which ends with the process that holds it."""
    deadline = time.monotonic() + PATIENCE
    while lock.exists():
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(0.05)


def assert_stopped_by_word(run: Path) -> None:
    """Checks that a run saved where it was when it stopped, which is between two regular checkpoints."""
    assert load_checkpoint(run)["training"]["images_seen"] == read_log(run, "train")[-1]["images_seen"]


@pytest.mark.slow
def test_the_training_of_a_killed_study_saves_and_ends(tmp_path: Path) -> None:
    study = {"output": str(tmp_path / "out"), "base": BASE, "seeds": [0], "reference": "alone"}
    study |= {"packs": [str(tmp_path / "absent.bin")], "methods": {"alone": {"verb": "train"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    run = tmp_path / "out" / "runs" / "alone" / "seed-0"
    process = start(["study", str(tmp_path / "study.yaml")])
    kill_when(lambda: len(read_log(run, "train")) > 2, process)
    wait_until_free(run / ".lock")
    assert_stopped_by_word(run)
    process.communicate(timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_all_processes_of_a_killed_pipeline_end(processes: int, tmp_path: Path) -> None:
    content = {"output": str(tmp_path / "out"), "processes": processes, "base": BASE}
    (tmp_path / "pipeline.yaml").write_text(
        yaml.safe_dump({**content, "distilled": {"config": {"loss.embedding_l2": 1}}})
    )
    run = tmp_path / "out" / "student"
    process = start(["pipeline", "sh-kd", str(tmp_path / "pipeline.yaml")])
    kill_when(lambda: len(read_log(run, "train")) > 2, process)
    process.communicate(timeout=PATIENCE)  # nobody is left who could print
    assert_stopped_by_word(run)


# A launcher, and a rank that waits for the others where no signal is heard, as inside torch.
LAUNCHER = """
import os, subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "TORCHELASTIC_RUN_ID": "x"})
rank.wait()
"""
RANK = """
import ctypes, time
from facekd.utils.processes.children import LaunchedAs, end_with_parent, saying_that_it_waits
end_with_parent()
with saying_that_it_waits(LaunchedAs(0, 2, 0)):
    print("waits", flush=True)
    ctypes.CDLL(None).sleep(600)
"""


def test_a_process_that_looks_for_the_others_ends_with_its_launcher() -> None:
    command = [sys.executable, "-c", LAUNCHER, RANK]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "waits\n"
    process.kill()
    _, errors = process.communicate(timeout=60)  # ends when the rank does
    assert errors == "error: the launcher of this process is gone; run the same command again\n"


@pytest.mark.slow
def test_ranks_of_a_killed_launcher_save_and_end(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**BASE, "output": str(tmp_path / "out")}))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "facekd", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, *words, str(tmp_path / "train.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    kill_when(lambda: len(read_log(tmp_path / "out", "train")) > 2, process)
    process.communicate(timeout=PATIENCE)
    assert_stopped_by_word(tmp_path / "out")


@pytest.mark.slow
def test_pool_workers_of_a_killed_command_end(tmp_path: Path) -> None:
    size = ("--identities", "5000", "--images-per-identity", "50", "--size", "64", "--workers", "2")
    process = start(["data", "synthesize", *size, "--output", str(tmp_path / "faces")])
    kill_when(lambda: any(tmp_path.rglob("*.part")), process)
    process.communicate(timeout=PATIENCE)


LAUNCHED = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def set_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, LaunchedAs(0, 1, 0)),
        ({"RANK": "", "WORLD_SIZE": "1"}, LaunchedAs(0, 1, 0)),
        ({"RANK": "0"}, LaunchedAs(0, 1, 0)),
        ({**LAUNCHED, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, LaunchedAs(5, 8, 1)),
    ],
)
def test_the_place_among_processes_comes_from_the_launcher(
    values: dict[str, str], expected: LaunchedAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, values)
    assert launched_as() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "4"}, "says WORLD_SIZE=4, but not RANK and MASTER_ADDR and MASTER_PORT: start .*torchrun"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "not MASTER_ADDR and MASTER_PORT: "),
        ({"RANK": "3"}, r"RANK=3, WORLD_SIZE=1 \(WORLD_SIZE is not set\)"),
        ({**LAUNCHED, "RANK": "4", "WORLD_SIZE": "4"}, "RANK=4, WORLD_SIZE=4"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE should be a whole number, and is 'four'"),
        ({"RANK": "1.0"}, "RANK should be a whole number"),
        ({**LAUNCHED, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "x"}, "MASTER_PORT should be a whole number"),
    ],
)
def test_a_place_that_cannot_be_is_an_error(
    values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, values)
    with pytest.raises(FacekdError, match=message):
        launched_as()


def test_a_process_that_waits_long_for_others_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, LAUNCHED)
    with saying_that_it_waits(LaunchedAs(0, 2, 0)):
        pass
    monkeypatch.setattr(children, "SECONDS_OF_SILENCE", 0.0)
    assert capsys.readouterr().err == ""
    with saying_that_it_waits(LaunchedAs(0, 2, 0)):
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("process 0 of 2 waits for the others at localhost:29500")


TOLD_AT_THE_END = """
import atexit, sys
from facekd.cli import main

class Torn:
    def __del__(self):
        print("torn down")

torn = Torn()
atexit.register(print, "at exit")
sys.argv[1:] = ["evaluate", "nothing"]
sys.exit(main())
"""


@pytest.mark.parametrize(("size", "expected"), [("", ["at exit", "torn down"]), ("2", ["at exit"])])
def test_one_of_several_processes_ends_before_threads_of_gloo_meet_an_interpreter_that_is_gone(
    size: str, expected: list[str]
) -> None:
    environment = {**os.environ, "WORLD_SIZE": size}
    done = subprocess.run(
        [sys.executable, "-c", TOLD_AT_THE_END], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "nothing" in done.stderr
    assert done.stdout.split("\n")[-len(expected) - 1 :] == [*expected, ""]
