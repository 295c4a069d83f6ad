"""Two gloo processes on this machine: the exchanges, a run that one of them is asked to stop, errors said once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluation.validators import PairSetValidator
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.commands.config_files import parse_config
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.distributed import World
from facekd.embedder import TorchEmbedder
from facekd.training.config import TrainConfig
from facekd.training.logbook import read_log
from facekd.training.loop import train

HERE = Path(__file__).parent
TRAIN = ("-m", "facekd", "train")
PATIENCE = 300  # seconds: a loaded machine takes one to start two processes


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A `.bin` of 11 pairs: 22 images, of which the two ranks embed half each."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(22)]
    write_pair_pack(
        tmp_path / "pack.bin", [cv2.imencode(".png", image)[1].tobytes() for image in images], np.arange(11) % 2 == 0
    )
    return tmp_path / "pack.bin"


def free_port() -> int:
    """Of those the system gives to nobody unasked, or another test's connection could have it before it is used."""
    for port in random.SystemRandom().sample(range(15_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def start_both(words: list[str], of_rank_1: list[str] | None = None, count: int = 2) -> list[subprocess.Popen[bytes]]:
    """One process for each rank, without a launcher, so that each can be signalled alone and given words of its own."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    common = {**os.environ, "OMP_NUM_THREADS": "1", **address}
    return [
        subprocess.Popen(
            [sys.executable, *(of_rank_1 if rank and of_rank_1 is not None else words)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def train_arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("--data.train", "synthetic:6x6:1", "--data.image_size", "32", "--data.workers", "0"),
        *("--output", str(folder), "--tensorboard", "false", "--device", "cpu", "--backbone.width", "0.125"),
        *("--backbone.embedding_size", "16", "--head.scale", "16", "--global_batch_size", "12"),
        *("--images", "12000", "--log_every_images", "12", "--ema_half_life_images", "24", *more),
    ]


def test_exchanges_and_validators(pack: Path, tmp_path: Path) -> None:
    for process in start_both([str(HERE / "two_ranks.py"), str(pack), str(tmp_path)]):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


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


def test_what_is_evaluated_is_what_is_saved(pack: Path, tmp_path: Path) -> None:
    # Each rank embeds half the pack, and would by itself do so with batch statistics of its own.
    run = tmp_path / "run"
    words = [*TRAIN, *train_arguments(run, "--validation.packs", f"[{pack}]", "--images", "60")]
    for process in start_both(words):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    backbone, preprocessing = load_backbone(run)
    expected = PairSetValidator(pack)(TorchEmbedder(backbone, preprocessing).embed)
    (entry,) = read_log(run, "validation")
    assert entry["pack/auc"] == pytest.approx(expected["auc"])
    assert (run / "checkpoints" / "best.pt").exists()


@pytest.mark.parametrize("sharded", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_ranks_that_start_apart_are_refused(sharded: str, tmp_path: Path) -> None:
    # As on two machines without a shared file system: the second finds no run to resume.
    arguments = train_arguments(tmp_path / "run", "--images", "24", "--checkpoint.every_images", "12")
    arguments += ["--head.sharded", sharded]
    train(parse_config(TrainConfig, arguments, "", ""), World(0, 1, torch.device("cpu")))
    list_checkpoints(tmp_path / "run")[-1].unlink()
    words = [*TRAIN, *arguments]
    main, other = start_both(words, of_rank_1=[*words, "--output", str(tmp_path / "elsewhere")])
    _, errors = other.communicate(timeout=PATIENCE)
    assert other.returncode == 2 and b"must be the same on every machine" in errors, errors.decode()
    _, errors = main.communicate(timeout=PATIENCE)
    assert main.returncode == 2 and b"another process of this run is gone" in errors, errors.decode()


def test_an_error_of_every_rank_is_said_once(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *launcher, *TRAIN, *train_arguments(tmp_path / "run", "--head.margn", "1")]
    # However far apart the two start: the second waits for the launcher to end it.
    environment = {**os.environ, "FACEKD_SECONDS_FOR_THE_FIRST": str(PATIENCE)}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)
    assert finished.returncode != 0
    assert finished.stderr.count("error: 'head.margn' is not a configuration key") == 1
