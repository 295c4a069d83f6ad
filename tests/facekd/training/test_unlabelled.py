"""Distils by embeddings alone from images without identities: from anywhere in a folder, and from packs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.data.recordio import Header, RecordWriter, pack
from facekd.errors import ConfigError, DataError
from facekd.teacher.cache_teacher import main as cache_teacher
from facekd.training.config import TrainConfig
from facekd.training.distill import main
from facekd.training.logbook import read_log

Distil = Callable[..., Path]
EMBEDDINGS_ALONE = {"loss__ce": 0, "loss__embedding_l2": 1, "data__unlabelled": "true", "diagnostics": "false"}


@pytest.fixture(scope="module")
def photos(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tiny faces at three depths, none of them in a folder of its person."""
    folder = tmp_path_factory.mktemp("photos")
    places = ["", "2024/", "2024/summer/beach/"]
    for number, file in enumerate(sorted(tiny_faces.rglob("*.png"))):
        target = folder / f"{places[number % 3]}{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    arguments = {"name": "mobilefacenet", "embedding_size": 24, "width": 0.125, "image_size": 32}
    backbone = build_backbone(**arguments)
    file = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
    config = {"backbone": arguments, "data": {"image_size": 32}}
    save_checkpoint(file, {"config": config, "preprocessing": preprocessing, "backbone": backbone.state_dict()})
    return file


@pytest.fixture
def distil(tiny_arguments: list[str], photos: Path, teacher: Path, tmp_path: Path) -> Distil:
    def run(name: str = "student", **overrides: Any) -> Path:
        words = [*tiny_arguments, "--data.train", str(photos), "--teacher.model", str(teacher)]
        values = {"output": tmp_path / name, **EMBEDDINGS_ALONE, **overrides}
        words += [word for key, value in values.items() for word in (f"--{key.replace('__', '.')}", str(value))]
        assert main(words) == 0
        return tmp_path / name

    return run


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder, "train")]


def test_a_student_learns_from_images_of_nobody_in_particular(
    distil: Distil, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = distil(images=240, diagnostics="true")
    assert f"{photos}: 42 images, labels not used" in capsys.readouterr().err
    assert np.mean(losses(folder)[-5:]) < 0.85 * losses(folder)[0]
    assert not load_checkpoint(folder)["head"]
    assert read_log(folder, "agreement")[0]["embedding_cosine"] > 0.1
    backbone, _ = load_backbone(folder)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 24)  # the projection to the teacher's space is part of it


@pytest.mark.slow
def test_the_losses_are_those_of_the_same_images_with_labels(distil: Distil, tiny_faces: Path) -> None:
    # In folders of people the images have the same order.
    labelled = distil("labelled", data__train=tiny_faces, data__unlabelled="false")
    unlabelled = distil("unlabelled", data__train=tiny_faces)
    assert losses(labelled) == losses(unlabelled)


@pytest.mark.slow
def test_a_run_resumes_and_notices_other_images(distil: Distil, photos: Path, tmp_path: Path) -> None:
    moving = tmp_path / "moving"
    shutil.copytree(photos, moving)
    distil("parts", data__train=moving, images=60, schedule__name="constant")
    distil("same", data__train=moving, schedule__name="constant")
    distil("parts", data__train=moving, schedule__name="constant")
    assert losses(tmp_path / "parts") == losses(tmp_path / "same")
    (moving / "000.png").unlink()
    with pytest.raises(Exception, match="was trained on other data"):
        distil("parts", data__train=moving, schedule__name="constant", images=144)


@pytest.mark.slow
def test_a_cached_teacher_equals_the_live_one(distil: Distil, photos: Path, teacher: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert cache_teacher([str(teacher), "--data", str(photos), "--unlabelled", "--output", str(cache)]) == 0
    live, cached = distil("live", schedule__lr=0.002), distil("cached", teacher__cache=cache, schedule__lr=0.002)
    np.testing.assert_allclose(losses(cached), losses(live), rtol=2e-3)


def test_a_pack_in_which_everyone_has_one_label(distil: Distil, tiny_faces: Path, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for number, file in enumerate(sorted(tiny_faces.rglob("*.png"))):
            writer.write(number, pack(Header(0, 0.0, number, 0), file.read_bytes()))
    with pytest.raises(DataError, match="all images have label 0"):
        distil(data__train=tmp_path / "train.rec", data__unlabelled="false")
    folder = distil(data__train=tmp_path / "train.rec")
    assert losses(folder)[-1] < losses(folder)[0]
    assert open_dataset(tmp_path / "train.rec", 32, unlabelled=True).warnings == []


@pytest.mark.slow
def test_bad_images_are_skipped_or_named(distil: Distil, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "bad")
    (tmp_path / "bad" / "2024" / "summer" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2024/summer/broken\.jpg"):
        distil("fails", data__train=tmp_path / "bad")
    # crd draws its negatives from all other images.
    distil("skips", data__train=tmp_path / "bad", data__on_bad_record="skip", images=48, loss__crd=0.1)
    assert read_log(tmp_path / "skips", "bad_records")[0]["count"] >= 1


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"loss__ce": 1},
            r"loss\.ce compares the classes of a classifier.*losses on embeddings alone \(loss\.emb",
        ),
        ({"loss__th_kl": 1}, r"loss\.th_kl compares the classes"),
        ({"share": 0.5, "loss__ce": 1}, r"loss\.ce, loss\.th_ce compares the classes"),
        ({"loss__adadistill": 1}, r"loss\.adadistill compares"),
        (
            {"head__kind": "linear", "head__scale": 64, "head__margin_value": "null"},
            r"no classifier without labels",
        ),
        ({"data__images_each": 2}, r"data\.images_each takes images of one person"),
        ({"data__held_out": 0.1}, r"data\.held_out takes a share of each"),
    ],
)
def test_what_needs_to_know_people_is_refused_with_a_reason(
    distil: Distil, overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        distil(**overrides)


def test_training_alone_is_refused_and_folders_without_people_point_here(
    tiny_arguments: list[str], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="`facekd train` learns who is who"):
        parse_config(TrainConfig, [*tiny_arguments, "--data.unlabelled", "true"], "facekd train", "")
    with pytest.raises(DataError, match=r"holds no folders with images.*data\.unlabelled"):
        open_dataset(photos / "2024" / "summer" / "beach", 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images; images end in"):
        open_dataset(tmp_path / "empty", 32, unlabelled=True)
    (tmp_path / "split" / "train" / "a" / "b").mkdir(parents=True)
    shutil.copy(photos / "000.png", tmp_path / "split" / "train" / "a" / "b")
    (tmp_path / "split" / "val").mkdir()
    shutil.copy(photos / "000.png", tmp_path / "split" / "val")
    assert len(open_dataset(tmp_path / "split", 32, unlabelled=True)) == 1  # those to evaluate on stay out
