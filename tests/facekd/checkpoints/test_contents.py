"""The fields of a checkpoint: described once, checked when they are read, listed in the documentation."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from facekd.checkpoints.contents import Checkpoint, HeadShards, Progress, from_plain_fields
from facekd.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[3]


def full() -> Checkpoint:
    weights = {"weight": torch.arange(6.0).reshape(2, 3)}
    return Checkpoint(
        config={"backbone": {"name": "mobilefacenet"}, "head": {"kind": "linear"}, "data": {"center_crop": 0.5}},
        preprocessing={"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "color": "rgb"},
        backbone=dict(weights),
        head={},
        head_shards=HeadShards("5.head", {"weight": [2, 3]}, {"a": 1}),
        num_classes=2,
        labels_sha256="abc",
        teacher_fingerprint="",
        training=Progress(5, 10, {"state": {}}, {}, None, -1.0, {}, [[0.5]], []),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", full())
    found, expected = read_checkpoint(tmp_path / "a.pt"), full()
    assert found.backbone is not None and expected.backbone is not None
    assert torch.equal(found.backbone.pop("weight"), expected.backbone.pop("weight"))
    assert found == expected
    assert (found.head_kind, found.center_crop, found.head_folder) == ("linear", 0.5, "5.head")


def test_a_field_without_a_value_is_absent_from_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", full())
    content = load_checkpoint(tmp_path / "a.pt")
    assert content.keys() == {
        *("format", "version", "config", "preprocessing", "backbone", "head", "head_shards", "num_classes"),
        *("labels_sha256", "identities_sha256", "teacher_fingerprint", "training"),
    }
    assert content["identities_sha256"] is None and content["training"]["ema"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": [1]}, "its 'backbone' is a list, expected a mapping"),
        ({"head": {"weight": [1, 2]}}, "its 'head.weight' is a list, expected a tensor"),
        ({"num_classes": "many"}, "its 'num_classes' is 'many', expected a whole number"),
        ({"num_classes": True}, "its 'num_classes' is True, expected a whole number"),
        ({"num_classes": 0}, "its 'num_classes' is 0, expected a number 1 or more"),
        ({"projection": 3}, "its 'projection' is 3, expected a tensor"),
        ({"backbone": {"conv.weight": None}}, "its 'backbone.conv.weight' is None, expected a tensor"),
        ({"backbone": {3: torch.ones(1)}}, "its 'backbone' has the key 3, expected a text"),
        ({"head_shards": {"folder": "5.head"}}, "it has no 'head_shards.shapes'"),
        ({"training": {"images_seen": 3}}, "it has no 'training.total_images'"),
        ({"config": "old"}, "its 'config' is 'old', expected a mapping"),
        ({"config": {"head": {"kind": "other"}}}, "its 'config.head.kind' is 'other', expected 'margin' or 'linear'"),
        ({"config": {"backbone": {"width": 1}}}, "it has no 'config.backbone.name'"),
        ({"config": {"backbone": {"name": "a", "depth": 3}}}, "its 'config.backbone' has 'depth', which no backbone"),
        ({"config": {"data": {"center_crop": 2}}}, "its 'config.data.center_crop' is 2, expected a number from 0 to 1"),
        ({"config": {"other": torch.ones(2)}}, "its 'config.other' is a tensor, expected a number"),
        ({"config": {"a": {"b": [1, b"a"]}}}, "its 'config.a.b[1]' is a bytes, expected a number"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", changes)
    with pytest.raises(CheckpointError, match=f"a.pt.*{re.escape(message)}"):
        read_checkpoint(tmp_path / "a.pt")


def test_fields_of_a_later_facekd_are_ignored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"num_classes": 3, "something": "new"})
    assert read_checkpoint(tmp_path / "a.pt") == Checkpoint(num_classes=3)


def test_the_documentation_lists_the_same_fields() -> None:
    text = (ROOT / "docs" / "formats.md").read_text()
    section = text[text.index("## Checkpoints") :].split("\n## ")[0]
    listed = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    own = [item.name for item in dataclasses.fields(Checkpoint)]
    inner = [
        f"{name}.{item.name}"
        for name, kind in (("head_shards", HeadShards), ("training", Progress))
        for item in dataclasses.fields(kind)
    ]
    assert sorted(listed) == sorted(["format", "version", *own, *inner])


def test_only_one_file_touches_the_plain_fields() -> None:
    plain = re.compile(r"\b(load_checkpoint|save_checkpoint|to_plain_fields|from_plain_fields)\b")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("facekd", "evaluation", "data_prep")
        for path in (ROOT / folder).rglob("*.py")
        if plain.search(path.read_text())
    }
    assert found == {"facekd/checkpoints/checkpoint.py", "facekd/checkpoints/contents.py"}


def test_long_lists_do_not_stand_in_the_pickle(tmp_path: Path) -> None:
    # A pickle of more than 32 MiB is not read, so that nothing that grows may stand in it.
    names = [f"person {number} \udcff\n" for number in range(1000)] * 50
    losses = [[1 / 3, 1e-300], [float("inf"), 0.1]]
    progress = Progress(
        *(24, 48, {}, {}, None, -1.0, {}), losses_since_log=losses * 20_000, bad_records=["record 5: \x00"] * 20_000
    )
    path = tmp_path / "long.pt"
    write_checkpoint(path, Checkpoint(identities=names, training=progress))
    with zipfile.ZipFile(path) as archive:
        assert next(info for info in archive.infolist() if info.filename.endswith("data.pkl")).file_size < 10_000
    found = read_checkpoint(path)
    assert found.identities == names and found.training == progress


def test_short_lists_and_damaged_long_ones() -> None:
    content = {"format": "facekd-checkpoint", "version": 1, "identities": ["a", "b"]}
    assert from_plain_fields(content, "old.pt").identities == ["a", "b"]
    for wrong in (torch.zeros(2), torch.zeros(2, 2, dtype=torch.uint8), torch.tensor([91, 91], dtype=torch.uint8), 5):
        with pytest.raises(CheckpointError, match=r"old.pt: damaged: its 'identities'"):
            from_plain_fields({**content, "identities": wrong}, "old.pt")
