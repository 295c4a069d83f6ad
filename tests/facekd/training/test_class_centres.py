"""Runs log how their classifier and class means compare: here against all pairs, computed from what they leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.distributed import World
from facekd.images.model_input import to_model_input
from facekd.training.class_centres import (
    IMAGES_EACH,
    MAX_CLASSES,
    centres_of_sample,
    compare_centres,
    rows_of_classes,
    rows_of_teacher,
    sample_images,
)
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.logbook import read_log
from facekd.training.loop import train
from facekd.training.state import build_state

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image folder of 24 people, enough for a warning, with 3 images each."""
    folder = tmp_path_factory.mktemp("people")
    generator = np.random.default_rng(0)
    for person in range(24):
        (folder / f"{person:02}").mkdir()
        for number in range(3):
            image = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(folder / f"{person:02}" / f"{number}.png"), image)
    return str(folder)


def naive_correlation(first: np.ndarray, second: np.ndarray) -> float:
    upper = np.triu_indices(len(first), 1)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    return float(np.corrcoef(*((rows @ rows.T)[upper] for rows in units))[0, 1])


def embed(run: Path | str, data: str) -> np.ndarray:
    dataset = open_dataset(data, 32)
    backbone, _ = load_backbone(run)
    with torch.no_grad():
        pixels = torch.from_numpy(dataset.load(np.arange(len(dataset)))[0])
        return backbone.eval()(to_model_input(pixels)).double().numpy()


def class_means(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([embeddings[labels == label].mean(axis=0) for label in np.unique(labels)])


@pytest.mark.slow
def test_a_run_logs_what_its_checkpoint_says(
    tiny_config: Configure, people: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(data__train=people, images=48, global_batch_size=12, ema_half_life_images=36)
    assert train(config, ALONE) == 0
    (entry,) = read_log(config.output, "centres")
    embeddings = embed(config.output, people)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    means = class_means(units, open_dataset(people, 32).labels)
    rows = load_checkpoint(config.output)["head"]["weight"].numpy()
    assert (entry["images_seen"], entry["num_classes"], entry["num_images"]) == (48, 24, 72)
    assert entry["correlation"] == pytest.approx(naive_correlation(rows, means), abs=1e-3)
    values = np.linalg.eigvalsh(np.cov((means / np.linalg.norm(means, axis=1, keepdims=True)).T))
    assert entry["means_dimension"] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-3)
    said = capfd.readouterr().err
    assert "the classifier's rows say little of who resembles whom" in said and "--shared_head means" in said

    # What a killed run could not log is logged by the same command, and not twice.
    log = Path(config.output) / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"".join(line + b"\n" for line in whole.splitlines() if b'"centres"' not in line))
    for _ in range(2):
        assert train(config, ALONE) == 0
        assert log.read_bytes() == whole


def test_an_image_that_cannot_be_read_is_a_warning_in_a_complete_run(
    tiny_config: Configure, people: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(people, tmp_path / "people")
    config = tiny_config(data__train=str(tmp_path / "people"), images=36)
    assert train(config, ALONE) == 0
    log = Path(config.output) / "log.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line in log.read_bytes().splitlines() if b'"centres"' not in line))
    (tmp_path / "people" / "03" / "1.png").write_bytes(b"no image")
    capfd.readouterr()
    changed = {"data__train": str(tmp_path / "people"), "data__accept_changed": True}
    assert train(tiny_config(images=36, **changed), ALONE) == 0
    said = capfd.readouterr().err
    assert "warning: the classifier cannot be compared with the class means: " in said and "1.png" in said
    assert not read_log(config.output, "centres")


def test_it_can_be_turned_off(tiny_config: Configure) -> None:
    config = tiny_config(images=36, diagnostics=False)
    assert train(config, ALONE) == 0
    assert not read_log(config.output, "centres")


def test_a_network_under_a_shared_classifier_is_compared_with_it(
    tiny_config: Configure, people: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tiny_config(data__train=people, images=36)
    assert train(first, ALONE) == 0
    under = tiny_config(data__train=people, images=36, shared_head=first.output, output=f"{first.output}-2")
    capfd.readouterr()
    assert train(under, ALONE) == 0
    assert "the class means do not lie as the frozen classifier has them" in capfd.readouterr().err
    one, other = (read_log(run.output, "centres")[0] for run in (first, under))
    assert one["rows_dimension"] == other["rows_dimension"] and one["correlation"] != other["correlation"]


def compare(config: TrainConfig, centre_rows: np.ndarray | None = None, recognizer: Any = None) -> dict[str, Any]:
    """Compares an untrained network; by default with the rows that it has."""
    dataset = open_dataset(config.data.train, 32)
    state = build_state(config, ALONE, dataset, 12, recognizer)
    images = sample_images(dataset)
    classes = np.unique(dataset.labels[images])
    rows = rows_of_classes(state.recognizer.head, classes) if centre_rows is None else centre_rows  # type: ignore[arg-type]
    return compare_centres(centres_of_sample(state, images, rows, rows_of_teacher(state, classes))[1])


def untrained_means(config: TrainConfig) -> np.ndarray:
    dataset = open_dataset(config.data.train, 32)
    backbone = build_state(config, ALONE, dataset, 12).recognizer.backbone.eval()
    with torch.no_grad():
        embeddings = backbone(to_model_input(torch.from_numpy(dataset.load(np.arange(len(dataset)))[0]))).double()
    if config.head.kind == "margin":
        embeddings = torch.nn.functional.normalize(embeddings)
    return class_means(embeddings.numpy(), dataset.labels)


def test_of_several_centres_the_one_nearest_to_the_mean_counts(tiny_config: Configure) -> None:
    config = tiny_config(head__sub_centers=2)
    means = untrained_means(config)
    other = np.random.default_rng(0).normal(size=means.shape)
    rows = np.where(np.arange(6)[:, None] % 2 == 0, np.hstack([9 * means, -means]), np.hstack([-means, 9 * means]))
    assert compare(config, rows.astype(np.float32))["correlation"] == pytest.approx(1, abs=1e-4)
    assert compare(config, np.hstack([other, other]).astype(np.float32))["correlation"] < 0.95


def test_a_linear_classifier_is_compared_without_what_all_rows_share(tiny_config: Configure) -> None:
    config = tiny_config(head__kind="linear", head__scale=64, head__margin_value="null")
    means = untrained_means(config)
    moved = (means - means.mean(axis=0)) * 3 + np.linspace(5, 9, means.shape[1])
    assert compare(config, moved.astype(np.float32))["correlation"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["margin", "linear"])
def test_an_image_that_stands_in_for_an_unreadable_one_counts_for_nobody(tiny_config: Configure, kind: str) -> None:
    changes = {"head__kind": "linear", "head__scale": 64, "head__margin_value": "null"} if kind == "linear" else {}
    config = tiny_config(**changes)
    dataset = open_dataset(config.data.train, 32)
    state, load = build_state(config, ALONE, dataset, 12), dataset.load

    def load_another(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return load(np.where(images == 0, len(dataset) - 1, images))  # the first cannot be read

    with torch.no_grad():
        pixels = torch.from_numpy(load(np.arange(len(dataset)))[0])
        embeddings = state.recognizer.backbone.eval()(to_model_input(pixels)).double()
    embeddings = torch.nn.functional.normalize(embeddings) if kind == "margin" else embeddings
    rows = class_means(embeddings.numpy()[1:], dataset.labels[1:])
    dataset.load = load_another  # type: ignore[method-assign]
    rows = (rows - rows.mean(axis=0) * (kind == "linear")) * 3
    found = compare_centres(centres_of_sample(state, np.arange(len(dataset)), rows)[1])
    assert found["correlation"] == pytest.approx(1, abs=1e-4)


def test_a_student_is_compared_with_its_teachers_classifier(
    tiny_arguments: list[str], tiny_config: Configure, tmp_path: Path
) -> None:
    teacher = tiny_config(images=36, backbone__embedding_size=32, output=str(tmp_path / "teacher"), diagnostics=False)
    assert train(teacher, ALONE) == 0
    words = [
        *tiny_arguments,
        "--teacher.model",
        teacher.output,
        "--loss.kl",
        "1",
        "--output",
        str(tmp_path / "student"),
    ]
    config = parse_config(DistillConfig, words, "", "")
    found = compare(config, recognizer=build_distiller(config, ALONE, open_dataset(config.data.train, 32)))
    rows = load_checkpoint(teacher.output)["head"]["weight"].numpy()  # of 32 numbers, the student's of 16
    assert found["teacher_means_correlation"] == pytest.approx(
        naive_correlation(rows, untrained_means(config)), abs=1e-3
    )
    assert -1 <= found["teacher_rows_correlation"] <= 1


def test_the_sample_of_many_images_is_spread_over_classes_and_images() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 20))
    labels = labels[(labels % 7 > 0) | (np.arange(len(labels)) < 9000)]
    data: Any = SimpleNamespace(labels=labels[labels != 500], num_classes=1001)
    images = sample_images(data)
    chosen, counts = np.unique(data.labels[images], return_counts=True)
    assert len(chosen) == MAX_CLASSES and counts.max() == IMAGES_EACH
    assert chosen[0] < 10 and chosen[-1] > 990 and (np.diff(images) > 0).all()
    np.testing.assert_array_equal(images, sample_images(data))
