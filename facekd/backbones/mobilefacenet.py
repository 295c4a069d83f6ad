"""MobileFaceNet: inverted residual units and a depthwise map-sized convolution instead of pooling.

"MobileFaceNet" is not one model. Two are offered, on one table of layers:

- `mobilefacenet`: Chen et al. 2018, table 1. Units run at 64 and 128 channels, expanded 2 or 4 times: about 1.0 M
  parameters at D = 128, 0.22 G multiply-adds.
- `mobilefacenet_0.45g`: InsightFace's. The channels between the units are doubled (128 and 256), those inside are
  not: 2.06 M parameters at D = 512, 0.44 G multiply-adds.

Modules carry the names used by InsightFace's released PyTorch weights, so that those state dicts load by name.
"""

from __future__ import annotations

import torch
from torch import nn

from facekd.backbones.activation import PReLU
from facekd.backbones.backbone import TOTAL_STRIDE, Backbone, full_precision, initialize_convolutions, scale_channels

STEM_CHANNELS = 64
LAST_CHANNELS = 512
# (output channels, channels inside the unit, number of units, stride, is the sum with the input taken?)
# The paper's "bottleneck t=2 c=64 n=5 s=2" is one strided unit, then four residual ones.
UNITS = (
    (64, 128, 1, 2, False),
    (64, 128, 4, 1, True),
    (128, 256, 1, 2, False),
    (128, 256, 6, 1, True),
    (128, 512, 1, 2, False),
    (128, 256, 2, 1, True),
)
# How much wider than in the paper the channels between the units are.
TRUNK_SCALE = {"mobilefacenet": 1, "mobilefacenet_0.45g": 2}


class ConvBlock(nn.Module):
    """Convolution - BN, then PReLU unless `linear`. A kernel larger than 1 keeps the size (padding k // 2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        if not linear:
            self.layers.append(PReLU(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class InvertedUnit(nn.Module):
    """Widen by 1x1, filter by a depthwise 3x3, narrow by a linear 1x1; plus the input where `residual`."""

    def __init__(self, in_channels: int, out_channels: int, inner_channels: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(in_channels, inner_channels),
            ConvBlock(inner_channels, inner_channels, kernel=3, stride=stride, groups=inner_channels),
            ConvBlock(inner_channels, out_channels, linear=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class UnitStack(nn.Module):
    """Residual inverted units, one after another."""

    def __init__(self, channels: int, inner_channels: int, num_units: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(InvertedUnit(channels, channels, inner_channels, 1, residual=True) for _ in range(num_units))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class EmbeddingHead(nn.Module):
    """Global depthwise convolution, linear layer, BN: (B, C, n, n) -> (B, D).

    The depthwise kernel is as large as the map, so each place has its own weight where pooling would weigh all alike.
    The linear layer is the paper's last 1x1 convolution, without a bias, which the normalisation after it would remove.
    """

    def __init__(self, channels: int, map_size: int, embedding_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(channels, channels, kernel=map_size, groups=channels, padding=0, linear=True),
            nn.Sequential(nn.Flatten(), nn.Dropout(dropout)),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x):
            return self.layers(x.to(next(self.parameters()).dtype))


class MobileFaceNet(Backbone):
    """A MobileFaceNet.

    Args:
        name: what it is called in messages and checkpoints.
        trunk_scale: multiplies the channels between the units (1 in the paper, 2 in InsightFace's).
        embedding_size: D.
        image_size: S in pixels, a multiple of 16.
        width: multiplies every channel count, inside and between the units, not the embedding.
        dropout: probability of dropping a value before the embedding layer (the paper has none).
    """

    def __init__(
        self,
        name: str,
        trunk_scale: int,
        embedding_size: int = 512,
        image_size: int = 112,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        # The stem's second convolution is depthwise in the paper; with a doubled trunk each of its groups takes two.
        stem_groups = scale_channels(STEM_CHANNELS, width)
        channels = stem_groups * trunk_scale
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, channels, kernel=3, stride=2),
                ConvBlock(channels, channels, kernel=3, groups=stem_groups),
            ]
        )
        for out_channels, inner_channels, num_units, stride, residual in UNITS:
            out_channels = scale_channels(out_channels, width) * trunk_scale
            inner_channels = scale_channels(inner_channels, width)
            if residual:
                self.layers.append(UnitStack(channels, inner_channels, num_units))
            else:
                self.layers.append(InvertedUnit(channels, out_channels, inner_channels, stride, residual=False))
            channels = out_channels
        last_channels = scale_channels(LAST_CHANNELS, width)
        self.conv_sep = ConvBlock(channels, last_channels)
        self.features = EmbeddingHead(last_channels, image_size // TOTAL_STRIDE, embedding_size, dropout)
        initialize_convolutions(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised images (B, 3, S, S): un-normalised embeddings (B, D)."""
        self.check_images(images)
        x = images
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))
