"""Makes the runs of several processes that tests look at, all together, because to start processes takes longest."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.head_shards import read_rows
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.commands.config_files import parse_config
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.distributed import World
from facekd.training.config import TrainConfig
from facekd.training.loop import train
from tests.distributed.several_runs import RESUMING, SAVING, copy_up_to

HERE = Path(__file__).parent
ALONE = World(0, 1, torch.device("cpu"))
TRAIN = ("-m", "facekd", "train")
PATIENCE = 300  # seconds: a loaded machine takes one to start two processes

# A low rate, for steps of a high one are chaotic: they blow up the rounding that two orders of sums differ by.
GENTLE = ("--head.margin_value", "0.2", "--schedule.lr", "0.002")
SHARDED = ("--head.sharded", "true")


def run_alone(words: list[str]) -> None:
    """Trains in this process."""
    assert train(parse_config(TrainConfig, words, "", ""), ALONE) == 0


def head_of(run: Path) -> torch.Tensor:
    """Reads the weights of a run's classifier, whole or in shards."""
    checkpoint = read_checkpoint(run)
    if checkpoint.head_shards is not None:
        return read_rows(list_checkpoints(run)[-1], checkpoint.head_shards)["weight"]
    assert checkpoint.head is not None
    return checkpoint.head["weight"]


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
    """Returns the words of a small run into a folder."""
    return [
        *("--data.train", "synthetic:6x6:1", "--data.image_size", "32", "--data.workers", "0"),
        *("--output", str(folder), "--tensorboard", "false", "--device", "cpu", "--backbone.width", "0.125"),
        *("--backbone.embedding_size", "16", "--head.scale", "16", "--global_batch_size", "12"),
        *("--images", "12000", "--log_every_images", "12", "--ema_half_life_images", "24", *more),
    ]


def write_pack(path: Path) -> None:
    """Writes a `.bin` of 11 pairs: 22 images, of which two ranks embed half each."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(22)]
    write_pair_pack(path, [cv2.imencode(".png", image)[1].tobytes() for image in images], np.arange(11) % 2 == 0)


OPTIMIZERS = ("sgd", "adamw")
ON_THE_WAY = [*GENTLE, "--images", "48", "--checkpoint.every_images", "24", "--batch_size_per_rank", "6"]


def four_a_pass(optimizer: str) -> list[str]:
    # However many processes share the 24 of a step: batch normalisation sees the same batches.
    words = [*GENTLE, "--images", "72", "--global_batch_size", "24", "--batch_size_per_rank", "4"]
    return [*words, "--schedule.lr", "0.0005", "--optimizer.name", optimizer]


# Three processes take 7, 7 and 6 images of a batch of 20, as one takes them in three passes.
UNEVEN = [*GENTLE, "--images", "60", "--global_batch_size", "20", "--log_every_images", "20", "--schedule.lr", "0.0005"]
HEADS = {"whole": (), "sharded": SHARDED, "drawn": (*SHARDED, "--head.sample_rate", "0.9")}  # "drawn" takes all


# Runs that begin with the weights of "gentle".
STARTS = {"frozen": ("--freeze", "[backbone]"), "warmed-up": ("--head_warmup_images", "24")}


def started(folder: Path, name: str) -> list[str]:
    weights = [word for part in ("backbone", "head") for word in (f"--{part}.weights", str(folder / "gentle"))]
    return [*GENTLE, "--images", "48", *weights, *STARTS[name]]


def divided(optimizer: str) -> list[str]:
    return [*four_a_pass(optimizer), "--checkpoint.every_images", "24", "--checkpoint.keep", "9", *SHARDED]


# Of the failures, those that are seen to by default; the others are slow.
FAILS = ("fail-on-full-disk", "fail-on-finding-the-head")
# Students whose losses lie on the teacher's head and their own, or keep things between steps.
TAUGHT = {
    "student": ("--share", "0.5", "--loss.kl", "0.5"),  # made with a sharded head
    "both-heads": ("--share", "0.5", "--loss.kl", "0.5", "--loss.embedding_cosine", "2"),
    "memories": ("--loss.ce", "0", "--loss.adadistill", "1", "--loss.crd", "0.1", "--schedule.lr", "0.02"),
}


def taught(teacher: Path, name: str) -> list[str]:
    return [*GENTLE, "--images", "60", "--teacher.model", str(teacher), *TAUGHT[name]]


class Runs:
    """Makes runs by two and by three processes in a folder, and finds them there.

    Args:
        folder: folder of the runs; each has its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make_by_two(self) -> None:
        """Makes the runs of two processes; those that resume others come after them."""
        run_alone(train_arguments(self.folder / "whole", *ON_THE_WAY))
        copy_up_to(24, self.folder / "whole", self.folder / "from-whole")
        write_pack(self.folder / "pack.bin")
        short = [*GENTLE, "--images", "60"]
        cases = {"gentle": ("train", [*short, *SHARDED])}
        cases |= {"teacher": ("train", [*short, *SHARDED, "--backbone.embedding_size", "24"])}
        cases |= {"student": ("distill", [*taught(self.folder / "teacher", "student"), *SHARDED])}
        cases |= {"validated": ("train", [*short, "--validation.packs", f"[{self.folder / 'pack.bin'}]"])}
        cases |= {"from-whole": ("train", [*ON_THE_WAY, *SHARDED]), "fresh-2-sgd": ("train", divided("sgd"))}
        cases |= self._failing(set(FAILS), whole="fresh-2-sgd")
        cases |= {"exchange": ("exchange", [str(self.folder / "pack.bin"), str(self.folder / "rows")])}
        self.start(2, cases | {"shards-2": ("shards", [])})

    def make_more_by_two(self) -> None:
        """Makes runs of two processes that begin with the weights, or learn from the head, of another."""
        cases = {"gentle": ("train", [*GENTLE, "--images", "60", *SHARDED])}
        cases |= {"teacher": ("train", [*cases["gentle"][1], "--backbone.embedding_size", "24"])}
        cases |= {name: ("train", [*started(self.folder, name), *SHARDED]) for name in STARTS}
        students = ("both-heads", "memories")
        self.start(2, cases | {name: ("distill", taught(self.folder / "teacher", name)) for name in students})

    def make_that_fail(self) -> None:
        """Makes runs of two processes of which one fails as it saves or resumes."""
        cases = {"fail-on-naming-the-file-of-all": ("fail-on-naming-the-file", [*GENTLE, "--images", "24"])}
        cases["whole"] = ("train", divided("sgd"))
        self.start(2, cases | self._failing({*SAVING, *RESUMING} - set(FAILS), whole="whole"))

    def _failing(self, failures: set[str], whole: str) -> dict[str, tuple[str, list[str]]]:
        """Returns the runs that fail as they save, or as they resume a run made before, of which they get a copy."""
        cases = {name: (name, [*GENTLE, "--images", "24", *SHARDED]) for name in SAVING if name in failures}
        for name in (name for name in RESUMING if name in failures):
            cases[f"copy-{name}"] = ("copy", ["24", str(self.folder / whole), str(self.folder / name)])
            cases[name] = (name, divided("sgd"))
        return cases

    def make_by_three(self) -> None:
        """Makes the runs of three processes, then those of two that resume them."""
        cases = {"shards-3": ("shards", []), **{f"3-{name}": ("train", divided(name)) for name in OPTIMIZERS}}
        self.start(3, cases | {f"uneven-{name}": ("train", [*UNEVEN, *words]) for name, words in HEADS.items()})
        for name in OPTIMIZERS:
            copy_up_to(24, self.folder / f"3-{name}", self.folder / f"2-{name}")
        self.start(2, {f"2-{name}": ("train", divided(name)) for name in OPTIMIZERS})

    def start(self, count: int, cases: dict[str, tuple[str, list[str]]]) -> None:
        """Makes runs by `count` processes."""
        others = ("exchange", "shards", "copy")
        plan = [
            (name, verb, words if verb in others else train_arguments(self.folder / name, *words))
            for name, (verb, words) in cases.items()
        ]
        script = [str(HERE / "several_runs.py"), str(self.folder), json.dumps(plan)]
        processes = start_both(script, count=count)
        try:
            for rank, process in enumerate(processes):
                _, errors = process.communicate(timeout=PATIENCE)
                (self.folder / f"errors-{count}.{rank}").write_bytes(errors)
        finally:
            for process in processes:
                process.kill()

    def of(self, name: str, count: int) -> Path:
        """Returns the folder of a run, once every one of its processes has reported success."""
        reports = [self.folder / f"{name}.{rank}" for rank in range(count)]
        said = [self.folder / f"errors-{count}.{rank}" for rank in range(count)]
        for report in reports:
            errors = [file.read_text() for file in said if file.exists()]
            wrong = report.read_text() if report.exists() else f"not done: {errors or 'it took too long'}"
            assert not wrong, wrong
        return self.folder / name


def made_once(factory: pytest.TempPathFactory, make: Callable[[Runs], None]) -> Runs:
    """Makes the runs once, in whichever of pytest's own processes asks first; the others wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / make.__name__
    folder.mkdir(exist_ok=True)
    made = Runs(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            (folder / "made").touch()  # once, even if it fails: each test says what it misses
            make(made)
    return made
