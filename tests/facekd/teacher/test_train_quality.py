"""`facekd train-quality` from the command line to its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.data.datasets import open_dataset
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError
from facekd.quality.head import QualityHead, ScoredBackbone
from facekd.quality.targets import make_targets
from facekd.teacher.train_quality import main
from tests.scored_model import ARCHITECTURE, small_backbone, write_small_checkpoint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """A tiny network, and fifty steps in place of thousands."""
    with pytest.MonkeyPatch.context() as patch, small_backbone():
        patch.setattr("facekd.quality.fitting.fit_quality_head.__defaults__", (0, 50))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a moving average, and without a classifier."""
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "000000000640.pt"
    torch.manual_seed(1)
    return write_small_checkpoint(path, scored=False, ema=build_backbone(**ARCHITECTURE).state_dict())


@pytest.fixture
def teach(trained: Path, tiny_faces: Path, tmp_path: Path, run: Run) -> Callable[..., tuple[int, str, str, Path]]:
    def teach_it(*options: object, model: Path = trained, data: Path = tiny_faces) -> tuple[int, str, str, Path]:
        output = tmp_path / "out" / "scored.pt"
        return *run(main, model, "--data", data, "--output", output, *options), output

    return teach_it


@pytest.mark.parametrize("target", ["cr", "sdd"])
def test_it_writes_the_average_with_a_head_that_was_taught_the_target(
    teach: Callable[..., Any], trained: Path, tiny_faces: Path, target: str
) -> None:
    status, printed, error, output = teach("--target", target)
    assert status == 0, error
    assert sorted(file.name for file in output.parent.iterdir()) == ["scored.json", "scored.pt"]
    content, before = load_checkpoint(output), load_checkpoint(trained)
    assert "ema" not in content and "head" not in content
    assert all(torch.equal(value, before["ema"][name]) for name, value in content["backbone"].items())
    summary = content["config"]["quality_head"]
    assert (summary["target"], summary["weights"]) == (target, "moving average")

    # The embeddings are those of the run, and the head was taught what they say.
    images, labels = open_dataset(tiny_faces, 32).load(np.arange(42))
    rows = open_embedder(output).embed(images)
    np.testing.assert_allclose(rows, open_embedder(trained).embed(images), rtol=1e-4, atol=1e-6)
    halves = rows.astype(np.float16).astype(np.float32)
    units = halves / np.linalg.norm(halves, axis=1, keepdims=True)
    expected = make_targets(target, lambda chosen: units[chosen], labels, 1000)
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["num_images"] == 42 and report["num_held_out"] == 14 and report["num_learnt_from"] == 70
    assert (report["low"], report["high"]) == pytest.approx((expected.low, expected.high), abs=2e-3)
    correlation = report["rank_correlation"]
    assert ("not measurable" if correlation is None else f"{correlation:.3f}, of people held out") in printed


def test_embeddings_are_made_once_and_seeds_make_equal_files(
    teach: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "faces.cache"
    assert teach("--cache", cache)[0] == 0 and cache.is_file()
    first = teach("--cache", cache)[3].read_bytes()
    monkeypatch.setattr("facekd.embedder.TorchEmbedder.embed", None)  # it must not be needed
    assert teach("--cache", cache)[3].read_bytes() == first
    assert teach("--cache", cache, "--seed", 1)[3].read_bytes() != first


def test_a_head_can_be_made_anew(teach: Callable[..., Any], tmp_path: Path) -> None:
    output = teach()[3]
    again = output.rename(tmp_path / "before.pt")
    status, _, error, output = teach("--target", "sdd", model=again)
    assert status == 0, error
    assert (
        load_checkpoint(output)["config"]["quality_head"] | {"target": "sdd", "weights": "moving average"}
        == (load_checkpoint(output)["config"]["quality_head"])
    )


def write_people(folder: Path, sizes: list[int]) -> Path:
    draws = np.random.default_rng(0)
    for person, size in enumerate(sizes):
        (folder / str(person)).mkdir(parents=True)
        for number in range(size):
            cv2.imwrite(str(folder / str(person) / f"{number}.png"), draws.integers(0, 256, (32, 32, 3)))
    return folder


def test_what_cannot_be_learnt_from_is_refused(teach: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    content = load_checkpoint(trained)
    changes: dict[str, Any] = {
        "no backbone": {"backbone": None, "ema": None},
        "linear classifier": {"config": {"backbone": ARCHITECTURE, "head": {"kind": "linear"}}},
    }
    for message, change in changes.items():
        model = tmp_path / "changed.pt"
        save_checkpoint(model, {name: value for name, value in {**content, **change}.items() if value is not None})
        status, _, error, output = teach(model=model)
        assert (status, message in error) == (2, True) and not output.exists()

    for sizes, message in (([12], "one identity"), ([2, 3], "quality can be learnt from 5 images only")):
        status, _, error, output = teach(data=write_people(tmp_path / message, sizes))
        assert status == 2 and message in error.replace("1 identity", "one identity"), error
        assert not output.exists()
    assert teach(model=tmp_path / "nothing.pt")[0] == 2
    with pytest.raises(SystemExit):
        main(["run", "--data", "x", "--output", "scored.json"])


def test_a_head_of_another_backbone_or_with_nan_is_refused(trained: Path, tmp_path: Path) -> None:
    content = load_checkpoint(trained)
    broken = QualityHead(16)
    with torch.no_grad():
        broken.output.bias.fill_(torch.nan)
    for state, message in (
        (QualityHead(8).state_dict(), "does not fit the backbone"),
        ({"hidden.bias": torch.zeros(0)}, "found 0"),
        (broken.state_dict(), "quality_head.output.bias holds NaN"),
    ):
        save_checkpoint(tmp_path / "a.pt", {**content, "quality_head": state})
        with pytest.raises(CheckpointError, match=message):
            load_backbone(tmp_path / "a.pt", scored=True)
        assert not isinstance(load_backbone(tmp_path / "a.pt")[0], ScoredBackbone)
