"""The folder of a sharded head beside its checkpoint: one at a time, and whole whenever the process is killed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from facekd.checkpoints import head_shards
from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint
from facekd.checkpoints.contents import HeadShards
from facekd.checkpoints.head_shards import read_rows
from facekd.data.datasets import SyntheticDataset
from facekd.distributed import World
from facekd.training.config import TrainConfig
from facekd.training.resume import delete_leftovers, save_state
from facekd.training.state import TrainingState, build_state
from facekd.utils.config_files import parse_config

ALONE = World(0, 1, torch.device("cpu"))
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")  # of a file system, as Python audits them
SHARDED = ("--head.sharded", "true")


@pytest.fixture
def fresh(tiny_arguments: list[str]) -> Callable[..., TrainingState]:
    """Builds the state of a tiny run from further words of its command line."""

    def build(*words: str) -> TrainingState:
        config = parse_config(TrainConfig, [*tiny_arguments, *words], "", "")
        return build_state(config, ALONE, SyntheticDataset(6, 6, 32, 1), 120)

    return build


def load_head_shards(path: Path) -> HeadShards:
    stored = read_checkpoint(path).head_shards
    assert stored is not None
    return stored


def heads_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*.head"))


def test_best_has_one_head_beside_it(fresh: Callable[..., TrainingState]) -> None:
    state = fresh(*SHARDED)
    for state.images_seen in (12, 24):
        save_state(state, "best")
        assert heads_in(state.folder) == [f"best-{state.images_seen:012d}.head"]
    best = save_state(fresh(), "best")
    assert heads_in(state.folder) == [] and "weight" in load_checkpoint(best)["head"]


@pytest.mark.parametrize("name", ["best", None], ids=["best", "numbered"])
def test_a_kill_while_it_is_saved_again_leaves_one_that_loads(
    name: str | None, fresh: Callable[..., TrainingState], tmp_path: Path
) -> None:
    # At the same count of images, as a resumed run does that finds its best once more.
    state = fresh(*SHARDED)
    state.images_seen = 24
    path = save_state(state, name)
    before = state.recognizer.head.weight.detach().clone()
    shutil.copytree(state.folder, tmp_path / "saved")
    state.recognizer.head.weight.data += 1  # what is saved the second time
    found, kills = [], 0
    while True:
        shutil.rmtree(state.folder)
        shutil.copytree(tmp_path / "saved", state.folder)
        was_killed = killed_at_change(kills, lambda: save_state(state, name))
        for _ in range(2):  # as it was left, and as the next start clears it up
            weight = read_rows(path, load_head_shards(path))["weight"]
            is_old, is_new = torch.equal(weight, before), torch.equal(weight, before + 1)
            assert is_old or is_new, f"killed at change {kills}"
            delete_leftovers(state.folder)
        assert heads_in(state.folder) == [load_checkpoint(path)["head_shards"]["folder"]]
        assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, *heads_in(state.folder)])
        found.append(is_new)
        if not was_killed:
            break
        kills += 1
    assert kills > 3 and found == sorted(found) and found[0] is False and found[-1] is True


def killed_at_change(number: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that dies just before its change to the file system of this number, counted from 0."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        return status == 9
    left = number

    def watch(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in CHANGES:
            if not left:
                os._exit(9)
            left -= 1

    status = 1
    try:
        torch.set_num_threads(1)  # those of the parent are not here
        sys.addaudithook(watch)
        work()
        status = 0
    finally:
        os._exit(status)


def test_a_process_that_is_gone_is_no_damage(
    fresh: Callable[..., TrainingState], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_state(fresh(*SHARDED))

    def lose_it(*_: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")

    monkeypatch.setattr(head_shards, "read_rows_of_all", lose_it)
    with pytest.raises(RuntimeError, match="Connection closed by peer") as raised:
        read_rows(path, load_head_shards(path))
    assert "damaged" not in str(raised.value)
