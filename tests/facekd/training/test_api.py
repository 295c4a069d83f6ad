"""Trains and distils from Python, with a module of the caller's own: what comes back, and where it is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facekd.backbones.config import BackboneConfig
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.cli import main
from facekd.embedder import open_embedder
from facekd.embedder.torch_embedder import TorchEmbedder
from facekd.errors import CheckpointError, ConfigError, FacekdError, ModelError, TrainingError
from facekd.export.export_onnx import export_backbone
from facekd.teacher.config import TeacherConfig
from facekd.training.api import TrainedRun, distill, train
from facekd.training.config import DistillConfig, TrainConfig
from facekd.training.config.train_config import ValidationConfig

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
OWN = BackboneConfig(name="module", embedding_size=12)
Configure = Callable[..., TrainConfig]


class Own(nn.Module):
    """Averages what two convolutions see; nothing in it knows facekd."""

    def __init__(self, size: int = 12, channels: int = 8) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
        self.embedding = nn.Linear(channels, size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.seen(images).mean((2, 3)))


def own(seed: int = 0, **sizes: int) -> Own:
    torch.manual_seed(seed)
    return Own(**sizes)


def embed(module: nn.Module, run: TrainedRun) -> np.ndarray:
    return TorchEmbedder(module, run.preprocessing).embed(IMAGES)


@pytest.fixture
def configure(tiny_config: Configure, tmp_path: Path) -> Configure:
    def build(**overrides: Any) -> TrainConfig:
        words = {"images": 36, "schedule__name": "constant", "schedule__warmup_images": 0, **overrides}
        return replace(tiny_config(**words), backbone=OWN, output=tmp_path / "run")  # type: ignore[arg-type]

    return build


def test_a_module_of_ones_own_is_trained_in_place_and_its_embeddings_are_those_of_the_checkpoint(
    configure: Configure, tmp_path: Path
) -> None:
    network = own()
    before = network.embedding.weight.detach().clone()
    run = train(configure(), backbone=network)
    assert run.is_complete and run.folder == tmp_path / "run" and run.checkpoint is not None
    assert not torch.equal(network.embedding.weight, before) and not network.training
    assert run.head.weight.shape == (6, 12)
    expected = embed(network, run)
    assert expected.shape == (3, 12) and np.array_equal(embed(run.backbone, run), expected)

    # The file says whose class it was, and another module of that shape takes its weights.
    architecture = read_checkpoint(run.checkpoint).architecture
    assert architecture is not None and (architecture["name"], architecture["class_name"]) == ("module", "Own")
    loaded, preprocessing = load_backbone(run.checkpoint, module=own(5))
    assert preprocessing == run.preprocessing and np.array_equal(embed(loaded, run), expected)
    # One that they do not fit is left as it was.
    other = own(channels=4).eval()
    with pytest.raises(CheckpointError, match="does not fit this architecture"):
        load_backbone(run.checkpoint, module=other)
    assert not any(part.training for part in other.modules())


def test_a_module_that_was_trained_before_is_trained_again_like_a_fresh_one(
    configure: Configure, tmp_path: Path
) -> None:
    def statistics(network: Own) -> torch.Tensor:
        assert isinstance(network.seen[1].running_mean, torch.Tensor)
        return network.seen[1].running_mean.clone()

    used, fresh = own(), own()
    frozen = train(replace(configure(images=12), freeze=("backbone",), output=tmp_path / "frozen"), backbone=used)
    assert not used.training and frozen.is_complete and all(part.requires_grad for part in used.parameters())
    # In evaluation mode nothing moved its statistics, and what a run before had frozen stayed so.
    runs = [
        train(replace(configure(images=24), output=tmp_path / name), backbone=network)
        for name, network in (("used", used), ("fresh", fresh))
    ]
    first, second = (embed(run.backbone, run) for run in runs)
    assert np.array_equal(first, second)
    assert torch.equal(statistics(used), statistics(fresh)) and not torch.equal(statistics(used), statistics(own()))
    # A part of it that alone is in evaluation mode stays so.
    partly = own()
    partly.seen[1].eval()
    train(replace(configure(images=12), output=tmp_path / "partly"), backbone=partly)
    assert torch.equal(statistics(partly), statistics(own()))


@pytest.mark.slow
def test_it_can_be_exported_from_python(configure: Configure, tmp_path: Path) -> None:
    run = train(configure(), backbone=own())
    export_backbone(run.backbone, run.preprocessing, tmp_path / "own.onnx")
    found = open_embedder(tmp_path / "own.onnx").embed(IMAGES)
    np.testing.assert_allclose(found, embed(run.backbone, run), rtol=1e-3, atol=1e-5)


def test_the_same_call_resumes_exactly(configure: Configure, tmp_path: Path) -> None:
    whole = train(replace(configure(ema_half_life_images=24), output=tmp_path / "whole"), backbone=own())
    assert train(configure(images=24, ema_half_life_images=24), backbone=own()).is_complete
    # Whatever weights the module brings along: those of the checkpoint count.
    run = train(configure(ema_half_life_images=24), backbone=own(7))
    for name in ("backbone", "head"):
        first, second = getattr(run, name).state_dict(), getattr(whole, name).state_dict()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), name
    average, trained = (load_backbone(run.folder, ema=ema, module=own())[0].state_dict() for ema in (None, False))
    assert all(torch.equal(value, average[key]) for key, value in run.backbone.state_dict().items())
    assert not torch.equal(average["module.embedding.weight"], trained["module.embedding.weight"])
    with pytest.raises(CheckpointError, match=r"is not that of the run: tensors 7 of another shape \(module\.seen"):
        train(configure(images=48, ema_half_life_images=24), backbone=own(channels=16))

    class Other(Own):
        pass

    with pytest.raises(CheckpointError, match=r"backbone\.class_name was Own, now .*Other"):
        train(configure(images=48, ema_half_life_images=24), backbone=Other())


def test_commands_refuse_its_checkpoints_in_a_sentence(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(configure(), backbone=own())
    assert main(["export", str(run.folder), "--output", str(tmp_path / "a.onnx")]) == 2
    said = capsys.readouterr().err
    assert "its backbone is a module that its training was given (Own), which facekd cannot build" in said
    assert main(["train", str(run.folder / "config.yaml"), "--images", "48"]) == 2
    assert "stands for a module of your own, which only Python code can give" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="is mobilefacenet, which facekd builds: leave the module out"):
        train(replace(configure(), backbone=replace(OWN, name="mobilefacenet", width=0.125), output=tmp_path / "mbf"))
        load_backbone(tmp_path / "mbf", module=own())


def test_a_student_of_ones_own_learns_from_a_teacher(configure: Configure, tmp_path: Path) -> None:
    base = configure()
    built = BackboneConfig(width=0.125, embedding_size=16)
    teacher = train(replace(base, backbone=built, output=tmp_path / "teacher"))  # type: ignore[arg-type]
    given = {item.name: getattr(base, item.name) for item in fields(base)}
    config = DistillConfig(**{**given, "teacher": TeacherConfig(model=teacher.folder), "share": 1.0})  # type: ignore[arg-type]
    run = distill(config, backbone=own())
    # Its embeddings pass through a projection into the space of the teacher's classifier.
    assert embed(run.backbone, run).shape == (3, 16)
    np.testing.assert_array_equal(embed(load_backbone(run.folder, module=own(3))[0], run), embed(run.backbone, run))


def test_validators_are_given_with_the_call(configure: Configure) -> None:
    seen = []

    class Spy:
        name = "spy"

        def __call__(self, embed: Any, rank: int = 0, size: int = 1, gather: Any = None) -> dict[str, float]:
            seen.append(embed(IMAGES).shape)
            return {"accuracy": 0.5}

    train(configure(), backbone=own(), validators=[Spy()])  # type: ignore[list-item]
    assert seen == [(3, 12)]
    with pytest.raises(TrainingError, match="start by `train\\(config, validators="):
        train(replace(configure(), validation=ValidationConfig(packs=("a.bin",))), backbone=own())


def test_it_works_in_a_thread(configure: Configure) -> None:
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train(configure(), backbone=own())))
    thread.start()
    thread.join()
    assert runs[0].is_complete


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: own(size=13), r"\(Own\) returns the shape \(12, 13\) for 12 images, expected \(12, 12\)"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 12), Argmax()),
            r"returns a tensor of torch.int64, expect",
        ),
        (lambda: Own, "backbone is a type: give an instance"),
        (lambda: nn.Flatten(), r"\(Flatten\) has no parameters"),
        (lambda: None, r"backbone.name = 'module' stands for a module of your own"),
    ],
)
def test_what_is_no_backbone_is_refused(network: Callable[[], Any], message: str, configure: Configure) -> None:
    with pytest.raises((ConfigError, ModelError), match=message):
        train(configure(), backbone=network())
    assert not list((Path(configure().output) / "checkpoints").glob("*"))


class Argmax(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.argmax(1)


def test_configs_that_do_not_go_with_a_module_are_refused(configure: Configure) -> None:
    with pytest.raises(FacekdError, match=r"backbone\.name is 'mobilefacenet': write BackboneConfig\(name='module'"):
        train(replace(configure(), backbone=BackboneConfig()), backbone=own())
    for given, message in (({"dropout": 0.1}, "has its own dropout"), ({"weights": "a.pt"}, "load the weights into")):
        with pytest.raises(ConfigError, match=message):
            replace(configure(), backbone=replace(OWN, **given))
    with pytest.raises(ConfigError, match="freeze names stage1, and module has backbone, norms"):
        replace(configure(), freeze=("stage1",))
