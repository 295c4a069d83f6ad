"""Defines the networks of CIFAR papers: ResNet (3 stages of basic units) and Wide ResNet, for 32-pixel images.

ResNet: He et al. 2016 (arXiv:1512.03385, section 4.2), with 1x1 convolutions as shortcuts, as in the released code of
CRD and of "It's All in the Head" (arXiv:2201.06945); `resnet8x4` and `resnet32x4` are theirs, with four times the
channels. Wide ResNet: Zagoruyko and Komodakis 2016 (arXiv:1605.07146). The embedding is the mean over the last map,
after its ReLU; the classifier is a `LinearClassifier` on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones.backbone import Backbone, ImageSizes, full_precision, initialize_convolutions, scale_channels

# Convolutional depth, channels of the stem and of the three stages.
CIFAR_RESNETS = {
    **{f"resnet{depth}": (depth, (16, 16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": (8, (32, 64, 128, 256)),
    "resnet32x4": (32, (32, 64, 128, 256)),
}
# Depth and widening factor.
WIDE_RESNETS = {"wrn_16_2": (16, 2), "wrn_40_1": (40, 1), "wrn_40_2": (40, 2)}


class CifarBackbone(Backbone):
    """Averages the last of three stages to an embedding, in both families; the last two stages halve the map.

    Args:
        name: a key of `CIFAR_RESNETS` or `WIDE_RESNETS`.
        embedding_size: D, the channels of the last map; the architecture fixes it, so it is only recorded.
        image_size: S in pixels, a multiple of 4.
        width: multiplies every channel count, the embedding's included.
        dropout: probability of dropping a value of the embedding; the papers have none.
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(8, 4, "it halves the image twice", "CIFAR's images have 32")
    selectable: ClassVar[Mapping[str, str] | None] = MappingProxyType({})

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float, dropout: float) -> None:
        super().__init__(name, embedding_size, image_size, width)
        self.dropout = nn.Dropout(dropout)

    def last_map(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the last map (B, D, S / 4, S / 4), activated."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns embeddings (B, D) in 32 bits."""
        self.check_images(images)
        x = self.last_map(images)
        with full_precision(x):
            return self.dropout(x.to(next(self.parameters()).dtype).mean((2, 3)))


class BasicUnit(nn.Module):
    """conv 3x3 (strided) - BN - ReLU - conv 3x3 - BN, plus the shortcut, then ReLU."""

    norm_after: ClassVar[dict[str, str]] = {"conv1": "bn1", "conv2": "bn2"}  # for `fold_batch_norms`

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(residual + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(CifarBackbone):
    """Stacks a stem at full resolution and three stages of n basic units: a ResNet of depth 6 n + 2."""

    norm_after: ClassVar[dict[str, str]] = {"conv1": "bn1"}
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("conv1", "bn1"),
        **{f"stage{number}": (f"layer{number}",) for number in (1, 2, 3)},
    }

    @classmethod
    def fixed_embedding_size(cls, name: str, width: float) -> int:
        """Returns the number of channels of the last map."""
        return scale_channels(CIFAR_RESNETS[name][1][-1], width)

    def __init__(
        self, name: str, embedding_size: int, image_size: int = 32, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width, dropout)
        depth, base_channels = CIFAR_RESNETS[name]
        channels = [scale_channels(count, width) for count in base_channels]
        units = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = _make_stage(BasicUnit, channels[0], channels[1], units, stride=1)
        self.layer2 = _make_stage(BasicUnit, channels[1], channels[2], units, stride=2)
        self.layer3 = _make_stage(BasicUnit, channels[2], channels[3], units, stride=2)
        initialize_convolutions(self)

    def last_map(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(x)))


class WideUnit(nn.Module):
    """BN - ReLU - conv 3x3 (strided) - BN - ReLU - conv 3x3, plus the shortcut.

    Where the channels change, the shortcut is a 1x1 convolution of what the first BN and ReLU give.
    """

    norm_after: ClassVar[dict[str, str]] = {"conv1": "bn2"}

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.bn1(x))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(CifarBackbone):
    """Stacks a stem of 16 channels and three stages of n pre-activated units: a Wide ResNet of depth 6 n + 4."""

    # The normalisation before the mean belongs to the last stage: its units end without one.
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("conv1",),
        "stage1": ("block1",),
        "stage2": ("block2",),
        "stage3": ("block3", "bn1"),
    }

    @classmethod
    def fixed_embedding_size(cls, name: str, width: float) -> int:
        """Returns the number of channels of the last map."""
        return scale_channels(64 * WIDE_RESNETS[name][1], width)

    def __init__(
        self, name: str, embedding_size: int, image_size: int = 32, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width, dropout)
        depth, widening = WIDE_RESNETS[name]
        channels = [scale_channels(count, width) for count in (16, 16 * widening, 32 * widening, 64 * widening)]
        units = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.block1 = _make_stage(WideUnit, channels[0], channels[1], units, stride=1)
        self.block2 = _make_stage(WideUnit, channels[1], channels[2], units, stride=2)
        self.block3 = _make_stage(WideUnit, channels[2], channels[3], units, stride=2)
        self.bn1 = nn.BatchNorm2d(channels[3])
        initialize_convolutions(self)

    def last_map(self, images: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return functional.relu(self.bn1(x))


def _make_stage(
    unit: type[BasicUnit] | type[WideUnit], in_channels: int, out_channels: int, units: int, stride: int
) -> nn.Sequential:
    first = unit(in_channels, out_channels, stride)
    return nn.Sequential(first, *(unit(out_channels, out_channels, 1) for _ in range(units - 1)))
