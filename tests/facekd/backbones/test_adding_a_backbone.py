"""A backbone is a class of its own and a line in the table: training, checkpoints and export take it from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from facekd.backbones.backbone import Backbone, ImageSizes
from facekd.backbones.building import BACKBONES
from facekd.checkpoints.models import load_backbone
from facekd.distributed import World
from facekd.errors import ConfigError
from facekd.export.export_onnx import main as export
from facekd.training.config import TrainConfig
from facekd.training.logbook import read_log
from facekd.training.loop import train

TOY = {"backbone__name": "toy", "backbone__width": 1, "backbone__dropout": 0, "images": 12, "global_batch_size": 12}


class Toy(Backbone):
    """One convolution, averaged: its 24 channels are the embedding."""

    image_sizes: ClassVar = ImageSizes(16, 8, "it has a stride of 8", "use 32")
    takes_width: ClassVar = False

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float, dropout: float) -> None:
        super().__init__(name, embedding_size, image_size, width)
        self.layers = nn.Sequential(nn.Conv2d(3, 24, 8, stride=8), nn.BatchNorm2d(24), nn.Dropout(dropout))

    @classmethod
    def fixed_embedding_size(cls, name: str, width: float) -> int:
        return 24

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.check_images(images)
        return self.layers(images).mean((2, 3))


@pytest.fixture(autouse=True)
def toy_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "toy", Toy)


def test_a_new_backbone_trains_saves_and_exports(tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    warmup = {"schedule__warmup_images": 0}
    config = tiny_config(**TOY, **warmup, backbone__embedding_size=24)
    assert train(config, World(0, 1, torch.device("cpu"))) == 0
    assert len(read_log(config.output, "train")) == 1

    backbone, _ = load_backbone(config.output)
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images).detach().numpy()
    assert expected.shape == (2, 24)

    assert export([config.output, "--output", str(tmp_path / "toy.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "toy.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone__embedding_size": 16}, "embedding_size must be 24 for toy, not 16"),
        ({"backbone__embedding_size": 24, "backbone__width": 0.5}, "toy comes in one width"),
        (
            {"backbone__embedding_size": 24, "data__image_size": 36},
            r"data\.image_size must be a multiple of 8 from 16 on for toy \(it has a stride of 8\), not 36: use 32",
        ),
    ],
)
def test_its_own_rules_are_checked_and_named(
    tiny_config: Callable[..., TrainConfig], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**{**TOY, **changes})
