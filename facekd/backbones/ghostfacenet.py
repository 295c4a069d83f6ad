"""Defines GhostFaceNetV2 (Alansari et al. 2023, doi:10.1109/ACCESS.2023.3266068): GhostNetV2 with a face network's end.

A ghost module computes half of its channels by a 1x1 convolution and the other half from those by a depthwise 3x3
convolution (GhostNet, Han et al. 2020). From the third unit on, a gate that looks along rows and columns weighs the
first module of a unit (GhostNetV2, Tang et al. 2022). All activations are PReLU, and a depthwise convolution of the
whole map takes the place of pooling, as in MobileFaceNet. At D = 512 and 112 pixels `ghostfacenetv2_s1`, with a stem of
stride 1, has 6.80 M parameters and 267 M multiply-adds; `ghostfacenetv2_s2`, with stride 2, 6.75 M and 75 M.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones.activation import PReLU
from facekd.backbones.backbone import Backbone, full_precision

# Stride of the stem.
STEM_STRIDES = {"ghostfacenetv2_s1": 1, "ghostfacenetv2_s2": 2}
# The authors build GhostNetV2 1.3 times as wide as it is; these are GhostNetV2's channels.
CHANNEL_SCALE = 1.3
STEM_CHANNELS = 16
LAST_CHANNELS = 960
# (kernel, channels inside, output channels, stride, has squeeze and excitation)
UNITS = (
    (3, 16, 16, 1, False),
    (3, 48, 24, 2, False),
    (3, 72, 24, 1, False),
    (5, 72, 40, 2, True),
    (5, 120, 40, 1, True),
    (3, 240, 80, 2, False),
    (3, 200, 80, 1, False),
    (3, 184, 80, 1, False),
    (3, 184, 80, 1, False),
    (3, 480, 112, 1, True),
    (3, 672, 112, 1, True),
    (5, 672, 160, 2, True),
    (5, 960, 160, 1, False),
    (5, 960, 160, 1, True),
    (5, 960, 160, 1, False),
    (5, 960, 160, 1, True),
)
UNITS_WITHOUT_GATE = 2
SQUEEZED_SHARE = 0.25


def scale_to_fours(channels: float) -> int:
    """Rounds a channel count to a multiple of 4, and up where that would lose a tenth (Howard et al. 2017)."""
    rounded = max(4, int(channels + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * channels else rounded


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    groups: int = 1,
    is_active: bool = False,
) -> nn.Sequential:
    """Builds a convolution that keeps the size of the map but for its stride, a normalisation, and PReLU if active."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2, width // 2)
    layers = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )
    if is_active:
        layers.append(PReLU(out_channels))
    return layers


class Gate(nn.Module):
    """Computes weights between 0 and 1 for a map (B, C, H, W), each from a cross of five by five averages of 2 x 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(in_channels, out_channels),
            _convolution(out_channels, out_channels, (1, 5), groups=out_channels),
            _convolution(out_channels, out_channels, (5, 1), groups=out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A map of one pixel, of the smallest images, is not averaged.
        weights = self.layers(functional.avg_pool2d(x, min(2, x.shape[-1]))).sigmoid()
        return functional.interpolate(weights, size=x.shape[2:], mode="bilinear")


class GhostModule(nn.Module):
    """Computes half of the channels by a 1x1 convolution, and the other half from each of them by a depthwise one."""

    def __init__(self, in_channels: int, out_channels: int, is_active: bool, has_gate: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = _convolution(in_channels, half, is_active=is_active)
        self.cheap = _convolution(half, half, 3, groups=half, is_active=is_active)
        self.gate = Gate(in_channels, out_channels) if has_gate else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        primary = self.primary(x)
        ghosts = torch.cat((primary, self.cheap(primary)), dim=1)
        return ghosts if self.gate is None else ghosts * self.gate(x)


class SqueezeExcitation(nn.Module):
    """Weighs the channels by a small network of their averages (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scale_to_fours(channels * SQUEEZED_SHARE)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), PReLU(squeezed), nn.Conv2d(squeezed, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.layers(x.mean((2, 3), keepdim=True))


class GhostUnit(nn.Module):
    """Widens by a ghost module, halves the map if strided, narrows by a second module; adds the shortcut."""

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        has_excitation: bool,
        has_gate: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(GhostModule(in_channels, inner_channels, is_active=True, has_gate=has_gate))
        if stride > 1:
            self.layers.append(_convolution(inner_channels, inner_channels, kernel, stride, groups=inner_channels))
        if has_excitation:
            self.layers.append(SqueezeExcitation(inner_channels))
        self.layers.append(GhostModule(inner_channels, out_channels, is_active=False, has_gate=False))
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.append(_convolution(in_channels, in_channels, kernel, stride, groups=in_channels))
            self.shortcut.append(_convolution(in_channels, out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.layers(x)


class GhostFaceNet(Backbone):
    """Computes embeddings by a GhostFaceNetV2: a stem, a table of ghost units, a convolution of the whole map.

    Args:
        name: a key of `STEM_STRIDES`.
        embedding_size: D.
        image_size: S in pixels, a multiple of 16.
        width: multiplies every channel count but the embedding; the authors' 1.0 is 1 / 1.3 here.
        dropout: probability of dropping a value before the embedding layer (the authors have none).
    """

    takes_gradient_checkpointing: ClassVar[bool] = True
    # A stage begins with a strided unit.
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("stem", "units.0"),
        "stage1": ("units.1", "units.2"),
        "stage2": ("units.3", "units.4"),
        "stage3": tuple(f"units.{number}" for number in range(5, 11)),
        "stage4": tuple(f"units.{number}" for number in range(11, 16)),
        "embedding": ("last", "whole_map", "fc", "features"),
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
        scale = CHANNEL_SCALE * width
        channels, map_size = scale_to_fours(STEM_CHANNELS * scale), image_size // STEM_STRIDES[name]
        self.stem = _convolution(3, channels, 3, STEM_STRIDES[name], is_active=True)
        # The table of units; strides halve the map, rounded up.
        self.units = nn.ModuleList()
        for number, (kernel, inner, out, stride, has_excitation) in enumerate(UNITS):
            inner, out = scale_to_fours(inner * scale), scale_to_fours(out * scale)
            has_gate = number >= UNITS_WITHOUT_GATE
            self.units.append(GhostUnit(channels, inner, out, kernel, stride, has_excitation, has_gate))
            channels, map_size = out, -(-map_size // stride)
        # The last map to the embedding.
        last_channels = scale_to_fours(LAST_CHANNELS * scale)
        self.last = _convolution(channels, last_channels, is_active=True)
        self.whole_map = nn.Sequential(
            nn.Conv2d(last_channels, last_channels, map_size, groups=last_channels, bias=False),
            nn.BatchNorm2d(last_channels),
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last_channels, embedding_size, bias=False)
        self.features = nn.BatchNorm1d(embedding_size)
        self._initialize()

    def _initialize(self) -> None:
        """Draws weights as the authors' Keras does (Glorot and Bengio 2010, equation 16); the last are normal."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_normal_(self.fc.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        x = self.last(self.in_turn((self.stem, *self.units), images))
        with full_precision(x):
            x = self.whole_map(x.to(self.fc.weight.dtype)).flatten(1)
            return self.features(self.fc(self.dropout(x)))
