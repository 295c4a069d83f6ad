"""Checkpoints: atomic, safe to read, and particular about what fits."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone, load_weights
from facekd.checkpoints.run_folder import checkpoint_path, keep_last, list_checkpoints
from facekd.errors import CheckpointError
from facekd.files.writing import atomic_path
from facekd.training.resume import delete_leftovers
from tests.full_disk import full_disk

ARCHITECTURE = {"name": "mobilefacenet", "embedding_size": 16, "image_size": 32, "width": 0.125, "dropout": 0.0}


@pytest.fixture
def content() -> dict[str, object]:
    backbone = build_backbone(**ARCHITECTURE)
    preprocessing = {"mean": [127.5] * 3, "std": [128.0] * 3, "color": "rgb"}
    return {"config": {"backbone": ARCHITECTURE}, "preprocessing": preprocessing, "backbone": backbone.state_dict()}


def test_what_is_saved_comes_back(content: dict[str, object], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", content)
    backbone, preprocessing = load_backbone(tmp_path / "a.pt")
    assert preprocessing.std == (128.0, 128.0, 128.0)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, content["backbone"][name])  # type: ignore[index]


def test_the_moving_average_is_taken_where_there_is_one(content: dict[str, object], tmp_path: Path) -> None:
    average = {name: value + 1 for name, value in content["backbone"].items()}  # type: ignore[attr-defined]
    save_checkpoint(tmp_path / "a.pt", {**content, "ema": average})
    name = next(name for name, value in average.items() if value.is_floating_point())
    for ema, expected in ((None, average), (True, average), (False, content["backbone"])):
        backbone, _ = load_backbone(tmp_path / "a.pt", ema=ema)
        assert torch.equal(backbone.state_dict()[name], expected[name])  # type: ignore[index]
    save_checkpoint(tmp_path / "b.pt", content)
    with pytest.raises(CheckpointError, match="holds no moving average"):
        load_backbone(tmp_path / "b.pt", ema=True)


def test_another_architecture_is_refused_with_the_tensors_that_do_not_fit(
    content: dict[str, object], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.pt", {**content, "config": {"backbone": {**ARCHITECTURE, "embedding_size": 32}}})
    with pytest.raises(CheckpointError, match=r"a\.pt: backbone does not fit .*is \(16.*expected \(32"):
        load_backbone(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, "this")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra\)"):
        load_weights(
            torch.nn.Linear(1, 1), {"weight": torch.zeros(1, 1), "bias": torch.zeros(1), "extra": torch.zeros(1)}, ""
        )


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("executed",))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "facekd-checkpoint", "version": 1, "payload": Hostile()}, "evil.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint("evil.pt")
    assert not Path("executed").exists()


def test_damaged_foreign_and_absent_files_are_told_apart(content: dict[str, object], tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    save_checkpoint(whole, content)
    data = whole.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt: not a checkpoint, or a truncated one"):
        load_checkpoint(tmp_path / "cut.pt")
    flipped = bytearray(data)
    middle = slice(len(data) // 2, len(data) // 2 + 100)  # more than what lies between tensors to align them
    flipped[middle] = bytes(byte ^ 1 for byte in flipped[middle])
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"flipped\.pt: damaged"):
        load_checkpoint(tmp_path / "flipped.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="facekd import"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({**content, "format": "facekd-checkpoint", "version": 99}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        load_checkpoint(tmp_path)


def test_equal_contents_are_equal_files(content: dict[str, object], tmp_path: Path) -> None:
    for name in ("a.pt", "another.pt"):
        save_checkpoint(tmp_path / name, content)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_full_disk_leaves_the_old_file_and_no_other(content: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"config": "old"})
    with full_disk(20_000), pytest.raises(CheckpointError) as raised:
        save_checkpoint(path, content)
    assert str(raised.value).startswith(f"{path}: could not be written (File too large); is the disk full? Free some")
    assert load_checkpoint(path)["config"] == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.pt"]


def test_a_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    for images_seen in (5, 1_000, 20):
        save_checkpoint(checkpoint_path(tmp_path, images_seen), {"config": images_seen})
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", {"config": "best"})
    assert load_checkpoint(tmp_path)["config"] == 1_000
    keep_last(tmp_path, 2)
    assert [int(path.stem) for path in list_checkpoints(tmp_path)] == [20, 1_000]
    assert (tmp_path / "checkpoints" / "best.pt").exists()


def test_files_that_people_put_beside_checkpoints_are_none(tmp_path: Path) -> None:
    written = [checkpoint_path(tmp_path, images_seen) for images_seen in (10, 2_000)]
    others = [tmp_path / "checkpoints" / f"{name}.pt" for name in ("5", "2026", "²", "٣", "000000000001x")]
    for number, path in enumerate((*written, *others)):
        save_checkpoint(path, {"config": number})
    assert list_checkpoints(tmp_path) == written and load_checkpoint(tmp_path)["config"] == 1
    keep_last(tmp_path, 1)
    assert list_checkpoints(tmp_path) == written[1:] and all(path.exists() for path in others)


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), atomic_path(checkpoint_path(tmp_path, 7)) as temporary:
        (tmp_path / "checkpoints" / temporary.name.replace(".tmp", "0.tmp")).touch()  # of a killed process
        raise KeyboardInterrupt
    save_checkpoint(checkpoint_path(tmp_path, 5), {"config": 5})
    delete_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [checkpoint_path(tmp_path, 5).name]


@pytest.mark.parametrize("is_readable", [True, False])
def test_of_the_folders_of_best_only_its_own_stays(is_readable: bool, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shards = {"folder": "best-000000000005.head", "shapes": {"weight": [2, 3]}}
    save_checkpoint(folder / "best.pt", {"head_shards": shards})
    for images_seen in (3, 5, 9):  # 3: killed before it was deleted; 9: killed before best.pt was written
        (folder / f"best-{images_seen:012d}.head").mkdir()
    if not is_readable:
        (folder / "best.pt").write_bytes(b"not a checkpoint")
    delete_leftovers(tmp_path)
    left = {path.name for path in folder.glob("*.head")}
    assert left == ({"best-000000000005.head"} if is_readable else {f"best-{n:012d}.head" for n in (3, 5, 9)})
