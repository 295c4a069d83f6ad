"""The folder of a sharded head beside its checkpoint: one at a time, and whole whenever the process is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from facekd.checkpoints import head_shards
from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint
from facekd.checkpoints.contents import Checkpoint, HeadShards
from facekd.checkpoints.head_shards import read_rows
from facekd.checkpoints.shared_head import read_classifier
from facekd.commands.config_files import parse_config
from facekd.data.datasets import SyntheticDataset
from facekd.distributed import World
from facekd.embedder.classifying_model import build_linear_head
from facekd.errors import CheckpointError
from facekd.head.class_shards import ClassShards
from facekd.training.config import TrainConfig
from facekd.training.resume import delete_leftovers, save_state
from facekd.training.state import TrainingState, build_state

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


@pytest.mark.slow
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


# A folder as strangers may make it. Rows of the first file are all 1, of the second all 2, and so on.
Parts = Sequence[tuple[int, int]]  # first row and number of rows of each file
WHOLE: Parts = ((0, 3), (3, 3))


def write_head(
    folder: Path, parts: Parts = WHOLE, key: str = "weight", dtype: torch.dtype = torch.float32, columns: int = 4
) -> HeadShards:
    folder.mkdir(exist_ok=True)
    for number, (first, count) in enumerate(parts, 1):
        info = json.dumps({key: {"saved_offsets": [first, 0]}})
        rows = {key: torch.full((count, columns), number, dtype=dtype)}
        name = f"shard-{number:05d}-model-00001-of-00001.safetensors"
        save_file(rows, folder / name, metadata={"DCP_SHARDING_INFO": info, "DCP_VERSION": "1.0", "format": "pt"})
    return HeadShards(folder.name, {"weight": [6, 4]})


@pytest.mark.parametrize("parts", [WHOLE, ((3, 3), (0, 3)), ((0, 6),), ((5, 1), (0, 4), (4, 1))], ids=str)
def test_rows_may_be_divided_in_any_way(tmp_path: Path, parts: Parts) -> None:
    stored = write_head(tmp_path / "0.head", parts)
    expected = torch.zeros(6)
    for number, (first, count) in enumerate(parts, 1):
        expected[first : first + count] = number
    assert torch.equal(read_rows(tmp_path / "0.pt", stored)["weight"], expected[:, None].expand(6, 4))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((0, 2), (1, 2), (4, 2)), r"a part of 'weight' begins at \(1, 0\)"),  # as many rows as expected, one in none
        (((0, 3), (0, 3)), r"begins at \(0, 0\) and is of size \(3, 4\), expected rows of 4 from row 3 on"),
        (((0, 3), (1 << 40, 3)), r"begins at \(1099511627776, 0\)"),
        (((0, 3), (-3, 3)), r"begins at \(-3, 0\)"),
        (((0, 6), (6, 3)), "it has 9 rows of 'weight', of type float32; expected 6"),
        (((0, 3),), "incomplete: 3 of 6 rows of 'weight' found"),
    ],
    ids=str,
)
def test_every_row_lies_in_one_part(tmp_path: Path, parts: Parts, message: str) -> None:
    stored = write_head(tmp_path / "0.head", parts)
    with pytest.raises(CheckpointError, match=rf"0\.head: .*{message}"):
        read_rows(tmp_path / "0.pt", stored)


@pytest.mark.parametrize("folder", ["../0.head", "/0.head", "sub/0.head", "", ".", "..", "0.hea", "a" * 5000])
def test_a_head_lies_beside_its_checkpoint(tmp_path: Path, folder: str) -> None:
    stored = dataclasses.replace(write_head(tmp_path / "0.head"), folder=folder)
    with pytest.raises(CheckpointError, match=r"0\.pt: damaged: its head is said to be in '.*expected a folder beside"):
        read_rows(tmp_path / "0.pt", stored)


@pytest.mark.parametrize(
    "shapes",
    [
        *({"weight": shape} for shape in ([], [6], [6, 4, 1], [6, 0], [-6, 4], [6.0, 4], [True, 4], "64", None)),
        {},
        {"x": [6, 4]},
        {"weight": [6, 4], "x": [6, 4]},
        {"weight": [6, 4], "optimizer.m": [3, 4]},
    ],
    ids=str,
)
def test_shapes_that_are_none_are_damage(tmp_path: Path, shapes: dict[str, Any]) -> None:
    stored = dataclasses.replace(write_head(tmp_path / "0.head"), shapes=shapes)
    with pytest.raises(CheckpointError, match=r"0\.pt: damaged: its head has tensors of the shapes \{"):
        read_rows(tmp_path / "0.pt", stored)


def test_memory_is_taken_for_what_the_files_hold_not_for_what_is_said(tmp_path: Path) -> None:
    stored = write_head(tmp_path / "0.head")
    with pytest.raises(CheckpointError, match=r"damaged: a part .* expected rows of 1,099,511,627,776 from row 0 on"):
        read_rows(tmp_path / "0.pt", dataclasses.replace(stored, shapes={"weight": [6, 1 << 40]}))
    write_head(tmp_path / "1.head", ((0, 1 << 40),), columns=0)
    with pytest.raises(CheckpointError, match=r"incomplete: 0 of 1,099,511,627,776 rows"):
        read_rows(tmp_path / "1.pt", HeadShards("1.head", {"weight": [1 << 40, 4]}))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_rows_are_real_numbers_of_one_type(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = write_head(tmp_path / "0.head", dtype=dtype)
    with pytest.raises(CheckpointError, match=r"of type \w+; expected 6 rows of one type of real numbers"):
        read_rows(tmp_path / "0.pt", stored)
    write_head(tmp_path / "0.head", WHOLE[:1], dtype=torch.float64)
    with pytest.raises(CheckpointError, match=r"of type .*, .*float64|of type float64, "):
        read_rows(tmp_path / "0.pt", stored)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    stored = write_head(tmp_path / "0.head")
    make(tmp_path / "0.head" / "notes")  # which no one reads
    assert read_rows(tmp_path / "0.pt", stored)["weight"].shape == (6, 4)
    make(tmp_path / "0.head" / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"0\.head: damaged: x\.safetensors is no regular file"):
        read_rows(tmp_path / "0.pt", stored)


def test_a_file_that_the_checkpoint_does_not_name_is_not_read_as_part_of_the_head(tmp_path: Path) -> None:
    stored = write_head(tmp_path / "0.head")
    names = sorted(file.name for file in (tmp_path / "0.head").iterdir())
    checksums = {name: zlib.crc32((tmp_path / "0.head" / name).read_bytes()) for name in names}
    stored = dataclasses.replace(stored, checksums=checksums)
    read_rows(tmp_path / "0.pt", stored)
    (tmp_path / "0.head" / names[1]).rename(tmp_path / "0.head" / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"0\.head: holds other\.safetensors, which is not of this checkpoint"):
        read_rows(tmp_path / "0.pt", stored)


def test_a_head_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"0\.pt: its head has 6 classes, this run's has 7"):
        read_rows(tmp_path / "0.pt", write_head(tmp_path / "0.head"), ClassShards(7, ALONE))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (torch.ones(6), None),
        (torch.ones(6, 2, 2), None),
        (torch.ones(0, 4), None),
        (torch.ones(6, 4, dtype=torch.int64), None),
        (torch.ones(6, 4).to_sparse(), None),
        (torch.ones(6, 4), torch.ones(5)),
    ],
)
def test_a_classifier_is_a_matrix(tmp_path: Path, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    checkpoint = Checkpoint(config={"head": {"kind": "linear"}}, head=state)
    write_checkpoint(tmp_path / "0.pt", checkpoint)
    with pytest.raises(CheckpointError, match=r"0\.pt: .*"):
        read_classifier(tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match=r"damaged: its 'head\.\w+' is .*, expected numbers of shape"):
        build_linear_head(checkpoint, tmp_path / "0.pt")
