"""Makes checkpoints of a tiny network, with and without a quality head of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facekd.backbones import Backbone
from facekd.backbones.building import BACKBONES, build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.quality.head import QualityHead

ARCHITECTURE = {"name": "small", "embedding_size": 16, "image_size": 32, "width": 1.0, "dropout": 0.0}
PREPROCESSING = {"mean": [120.0, 110.0, 100.0], "std": [60.0, 59.0, 58.0], "color": "bgr"}


class Small(Backbone):
    """A network of two layers."""

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float, dropout: float) -> None:
        super().__init__(name, embedding_size, image_size, width)
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.prelu = nn.PReLU(8)
        self.linear = nn.Linear(8 * (image_size // 8) ** 2, embedding_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.prelu(self.conv(images)).flatten(1))


Small.__module__ = "facekd.backbones.small"  # not a plug-in's


@contextmanager
def small_backbone() -> Iterator[None]:
    """Lets facekd build the network meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "small", Small)
        yield


def write_small_checkpoint(path: Path, scored: bool = True, **more: Any) -> Path:
    """Writes a checkpoint of the network; within `small_backbone`."""
    torch.manual_seed(0)
    content = {
        "config": {"backbone": ARCHITECTURE, "quality_head": {"target": "sdd", "weights": "moving average"}},
        "preprocessing": PREPROCESSING,
        "backbone": build_backbone(**ARCHITECTURE).state_dict(),
    }
    if scored:
        # Random first weights would give all images nearly the same quality.
        head = QualityHead(16, 8)
        with torch.no_grad():
            head.output.weight.mul_(20)
        content["quality_head"] = head.state_dict()
    else:
        del content["config"]["quality_head"]
    save_checkpoint(path, {**content, **more})
    return path
