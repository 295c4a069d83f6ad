"""Defines IR-ResNet, the residual network that most published face models use.

The "improved residual" unit of ArcFace (Deng et al. 2019, section 3.1 and its released models; the identity-mapping
order of Han et al. 2017): BN - conv - BN - PReLU - conv - BN, with no activation after the sum, on a stem that keeps
the full resolution, and an embedding layer FC - BN on the flattened 7 x 7 map instead of global pooling.

Modules carry the names used by InsightFace's released PyTorch weights, so that those state dicts load by name.

`ir_18` to `ir_101` are the networks of AdaFace and CVLface, which differ in two places: the first unit has no
convolution in its shortcut, because it does not change the number of channels, and the last normalisation learns
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import nn

from facekd.backbones.activation import PReLU
from facekd.backbones.backbone import Backbone, full_precision, initialize_convolutions, scale_channels

STAGE_CHANNELS = (64, 128, 256, 512)
# Residual units in each of the four stages.
IRESNET_UNITS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
}
PLAIN_SHORTCUTS = ("ir_18", "ir_34", "ir_50", "ir_101")


class ResidualUnit(nn.Module):
    """BN - conv 3x3 - BN - PReLU - conv 3x3 (strided) - BN, plus the shortcut.

    Where the sizes of input and output differ, the shortcut is a strided 1x1 convolution and a normalisation; a plain
    one takes every second row and column instead, which needs as many channels behind the unit as before it.
    """

    norm_after: ClassVar[dict[str, str]] = {"conv1": "bn2", "conv2": "bn3"}  # for `fold_batch_norms`

    def __init__(self, in_channels: int, out_channels: int, stride: int, is_plain: bool = False) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if is_plain and in_channels == out_channels:
            self.downsample = nn.MaxPool2d(1, stride)
        elif stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        residual = self.bn3(self.conv2(residual))
        shortcut = x if self.downsample is None else self.downsample(x)
        return residual + shortcut


class IResNet(Backbone):
    """Computes embeddings by an IR-ResNet: a stem, four stages of residual units, an embedding layer.

    Args:
        name: a key of `IRESNET_UNITS`.
        embedding_size: D.
        image_size: S in pixels, a multiple of 16.
        width: multiplies every channel count (64, 128, 256, 512), not the embedding.
        dropout: probability of dropping a value of the flattened last map (0.4 in the ArcFace paper, 0 in most
            recipes since).
    """

    norm_after: ClassVar[dict[str, str]] = {"conv1": "bn1"}
    takes_gradient_checkpointing: ClassVar[bool] = True
    selectable: ClassVar[Mapping[str, str] | None] = MappingProxyType({"fc.weight": "bn2.weight"})
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("conv1", "bn1", "prelu"),
        **{f"stage{number}": (f"layer{number}",) for number in (1, 2, 3, 4)},
        "embedding": ("bn2", "fc", "features"),
    }

    def __init__(
        self,
        name: str,
        embedding_size: int = 512,
        image_size: int = 112,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        channels, units = [scale_channels(c, width) for c in STAGE_CHANNELS], IRESNET_UNITS[name]
        is_plain = name in PLAIN_SHORTCUTS
        # A stem at full resolution, and four stages that halve the map.
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.prelu = PReLU(channels[0])
        self.layer1 = _make_stage(channels[0], channels[0], units[0], is_plain)
        self.layer2 = _make_stage(channels[0], channels[1], units[1], is_plain)
        self.layer3 = _make_stage(channels[1], channels[2], units[2], is_plain)
        self.layer4 = _make_stage(channels[2], channels[3], units[3], is_plain)
        # The last map, flattened, to the embedding.
        self.bn2 = nn.BatchNorm2d(channels[3])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels[3] * (image_size // self.image_sizes.multiple_of) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # The gain of each dimension stays 1: training could otherwise stretch the axes that the cosine compares.
        self.features.weight.requires_grad_(False)
        self.features.bias.requires_grad_(not is_plain)
        initialize_convolutions(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        units = (unit for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for unit in stage)
        x = self.in_turn((self._stem, *units), images)
        x = self.dropout(self.bn2(x).flatten(1))
        with full_precision(x):
            return self.features(self.fc(x.to(self.fc.weight.dtype)))

    def _stem(self, images: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.bn1(self.conv1(images)))


def _make_stage(in_channels: int, out_channels: int, units: int, is_plain: bool) -> nn.Sequential:
    first = ResidualUnit(in_channels, out_channels, stride=2, is_plain=is_plain)
    return nn.Sequential(first, *(ResidualUnit(out_channels, out_channels, stride=1) for _ in range(units - 1)))
