"""`facekd data cluster` finds the people of generated images, and writes a pack to train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_prep.cluster_faces import main
from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.data.datasets import open_dataset
from facekd.data.datasets.record_pack import open_record_pack
from facekd.errors import DataError, TeacherError

NUM_PEOPLE, NUM_IMAGES = 6, 8
Cluster = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights: it tells patterns of colours apart."""
    torch.manual_seed(1)
    arguments = {"name": "mobilefacenet", "embedding_size": 32, "width": 0.125, "image_size": 32}
    file = tmp_path_factory.mktemp("model") / "model.pt"
    preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
    backbone = build_backbone(**arguments).state_dict()
    save_checkpoint(file, {"config": {"backbone": arguments}, "preprocessing": preprocessing, "backbone": backbone})
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of people, one level deeper than training reads them, and strangers directly in the folder."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for person in range(NUM_PEOPLE):
        place = folder / "album" / f"person_{person}"
        place.mkdir(parents=True)
        pattern = generator.integers(0, 256, (2, 2, 3)).repeat(16, 0).repeat(16, 1)
        for number in range(NUM_IMAGES):
            image = np.clip(pattern + generator.normal(0, 2, pattern.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(place / f"{number}.png"), image)
    for number in range(3):
        noise = generator.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        cv2.imwrite(str(folder / f"stranger_{number}.png"), noise)
    return folder


@pytest.fixture
def cluster(model: Path, photos: Path, tmp_path: Path) -> Cluster:
    def run(*words: str, source: Path = photos) -> int:
        return main([str(source), str(tmp_path / "out"), "--model", str(model), *words])

    return run


def report_of(folder: Path) -> dict:
    return json.loads((folder / "cluster_report.json").read_text())


def test_people_become_identities_of_a_pack(
    cluster: Cluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert cluster("--min-size", "4", "--truth") == 0
    report = report_of(out)
    assert (report["images"], report["unreadable"]) == (NUM_PEOPLE * NUM_IMAGES + 3, 0)
    assert report["clusters"] == NUM_PEOPLE
    assert report["agreement"]["pairs_precision"] == report["agreement"]["pairs_recall"] == 1
    assert report["agreement"]["images"] == NUM_PEOPLE * NUM_IMAGES  # nobody knows the strangers
    assert "precision of pairs" in capsys.readouterr().out

    # Training reads it; names and bytes are those of the files.
    dataset = open_dataset(out, 32)
    assert dataset.num_classes == NUM_PEOPLE
    pack = open_record_pack(out)
    names = [line.split("\t")[1] for line in (out / "train.lst").read_text().splitlines()]
    for image, (name, label) in enumerate(zip(names, pack.labels().tolist(), strict=True)):
        assert pack.read_image(image)[0] == (photos / name).read_bytes()
        if name.startswith("album"):
            assert name.startswith(f"album/person_{label}/")
    assert report["clustered"] == len(names)
    page = (out / "cluster_report.html").read_text()
    assert "the largest clusters" in page
    assert "B-cubed" in page


def test_noise_may_be_identities_of_their_own_and_embeddings_are_used_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster("--min-size", "4") == 0
    with pytest.raises(DataError, match=r"holds clusters already.*--force"):
        cluster("--min-size", "4")
    monkeypatch.setattr("facekd.teacher.cache._read_from", lambda *_: pytest.fail("it embeds again"))
    assert cluster("--min-size", "4", "--noise", "single", "--force") == 0
    report = report_of(tmp_path / "out")
    assert report["agreement"] == {}
    labels = open_record_pack(tmp_path / "out").labels()
    assert len(labels) == report["images"]
    assert labels.max() + 1 == report["clusters"] + report["noise"]


@pytest.mark.slow
def test_a_pack_is_a_source_too_and_its_labels_are_the_truth(
    cluster: Cluster, photos: Path, tmp_path: Path, model: Path
) -> None:
    assert cluster("--min-size", "4") == 0
    assert main([str(tmp_path / "out"), str(tmp_path / "again"), "--model", str(model), "--truth"]) == 0
    assert report_of(tmp_path / "again")["agreement"]["bcubed_f"] == 1


def test_a_command_that_was_killed_before_its_page_is_finished_by_the_same_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.cluster_faces._write_page", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cluster("--min-size", "4")
    content = (tmp_path / "out" / "train.rec").read_bytes()
    assert not (tmp_path / "out" / "cluster_report.json").exists()
    assert cluster("--min-size", "4") == 0
    assert (tmp_path / "out" / "train.rec").read_bytes() == content
    assert (tmp_path / "out" / "cluster_report.html").exists()
    # Killed after its report, and before it could say that it had ended.
    (tmp_path / "out" / ".cluster_report.json.unfinished").write_text('{"parts": []}')
    assert cluster("--min-size", "4") == 0
    assert not (tmp_path / "out" / ".cluster_report.json.unfinished").exists()


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "bad")
    (tmp_path / "bad" / "album" / "person_0" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="album/person_0/0"):
        cluster(source=tmp_path / "bad")
    assert cluster("--min-size", "4", "--on-bad-record", "skip", source=tmp_path / "bad") == 0
    report = report_of(tmp_path / "out")
    assert (report["unreadable"], report["images"]) == (1, NUM_PEOPLE * NUM_IMAGES + 2)


def test_what_gives_no_clusters_says_why(
    cluster: Cluster, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"51 images are fewer than a cluster needs \(--min-size 60"):
        cluster("--min-size", "60")
    with pytest.raises(DataError, match="no clusters among 51 images: lower --min-size"):
        cluster("--min-size", "40")
    same = tmp_path / "same"
    same.mkdir()
    for number in range(9):
        shutil.copy(photos / "stranger_0.png", same / f"{number}.png")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"one cluster of 9 of 9 images|no clusters among 9 images"):
        cluster(source=same)
    assert not (tmp_path / "out" / "train.rec").exists()


def test_another_model_in_the_same_folder_is_refused(
    cluster: Cluster, photos: Path, tmp_path: Path, model: Path
) -> None:
    assert cluster("--min-size", "4") == 0
    with pytest.raises(TeacherError, match=r"embeddings\.teacher"):
        cluster("--force", source=photos / "album")
    with pytest.raises(DataError, match="lies in"):
        main([str(photos), str(photos / "out"), "--model", str(model)])
    with pytest.raises(DataError, match="give a folder"):
        main([str(photos), str(tmp_path / "x.rec"), "--model", str(model)])
    with pytest.raises(DataError, match="a folder of aligned images"):
        main(["synthetic:3x3", str(tmp_path / "x"), "--model", str(model)])
