"""Defines MobileFaceNet: inverted residual units, and a depthwise convolution of the whole map instead of pooling.

Three networks go by this name; all are built from one table of layers:

- `mobilefacenet`: Chen et al. 2018, table 1. Units run at 64 and 128 channels, expanded 2 or 4 times: about 1.0 M
  parameters at D = 128, 0.22 G multiply-adds.
- `mobilefacenet_0.45g`: InsightFace's. The channels between the units are doubled (128 and 256), those inside are
  not: 2.06 M parameters at D = 512, 0.44 G multiply-adds.
- `mobilefacenet_large`: InsightFace's `mbf_large`. Those channels are multiplied by 4, there are twice as many residual
  units, and two of them stand in the stem: 6.31 M parameters at D = 512, 1.82 G multiply-adds.

Modules carry the names used by InsightFace's released PyTorch weights, so that those state dicts load by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from facekd.backbones.activation import PReLU
from facekd.backbones.backbone import Backbone, full_precision, initialize_convolutions, scale_channels

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
STEM_UNITS, STEM_INNER_CHANNELS = 2, 128  # of the large network


class Variant(NamedTuple):
    """Says how a network differs from the paper's.

    Args:
        trunk_scale: how many times wider the channels between the units are.
        unit_factor: how many times more residual units there are.
        has_stem_units: whether residual units take the place of the stem's second convolution.
    """

    trunk_scale: int
    unit_factor: int = 1
    has_stem_units: bool = False


VARIANTS = {
    "mobilefacenet": Variant(1),
    "mobilefacenet_0.45g": Variant(2),
    "mobilefacenet_large": Variant(4, 2, True),
}


class ConvBlock(nn.Module):
    """Convolves and normalises, then applies PReLU unless `linear`; padding k // 2 keeps the size of the map."""

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
    """Widens by 1x1, filters by a depthwise 3x3, narrows by a linear 1x1; adds the input if `residual`."""

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
    """Applies residual inverted units one after another."""

    def __init__(self, channels: int, inner_channels: int, num_units: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(InvertedUnit(channels, channels, inner_channels, 1, residual=True) for _ in range(num_units))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class EmbeddingHead(nn.Module):
    """Maps (B, C, n, n) to (B, D) by a global depthwise convolution, a linear layer and a normalisation.

    The depthwise kernel is as large as the map, so each place has its own weight; pooling would weigh all alike. The
    linear layer is the paper's last 1x1 convolution, without a bias: the normalisation after it would remove one.
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
    """Computes embeddings by a MobileFaceNet: a stem, a table of inverted units, an embedding head.

    Args:
        name: a key of `VARIANTS`.
        embedding_size: D.
        image_size: S in pixels, a multiple of 16.
        width: multiplies every channel count, inside and between the units, not the embedding.
        dropout: probability of dropping a value before the embedding layer (the paper has none).
    """

    takes_gradient_checkpointing: ClassVar[bool] = True
    selectable: ClassVar[Mapping[str, str] | None] = MappingProxyType({})
    # A stage begins with a strided unit.
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("layers.0", "layers.1"),
        **{f"stage{number}": (f"layers.{2 * number}", f"layers.{2 * number + 1}") for number in (1, 2, 3)},
        "embedding": ("conv_sep", "features"),
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
        # The stem's second convolution is depthwise in the paper; with a doubled trunk each of its groups takes two.
        trunk_scale, unit_factor, has_stem_units = VARIANTS[name]
        stem_groups = scale_channels(STEM_CHANNELS, width)
        channels = stem_groups * trunk_scale
        self.layers = nn.ModuleList([ConvBlock(3, channels, kernel=3, stride=2)])
        if has_stem_units:
            self.layers.append(UnitStack(channels, scale_channels(STEM_INNER_CHANNELS, width), STEM_UNITS))
        else:
            self.layers.append(ConvBlock(channels, channels, kernel=3, groups=stem_groups))
        # The table of units.
        for out_channels, inner_channels, num_units, stride, residual in UNITS:
            out_channels = scale_channels(out_channels, width) * trunk_scale
            inner_channels = scale_channels(inner_channels, width)
            if residual:
                self.layers.append(UnitStack(channels, inner_channels, num_units * unit_factor))
            else:
                self.layers.append(InvertedUnit(channels, out_channels, inner_channels, stride, residual=False))
            channels = out_channels
        # The last map to the embedding.
        last_channels = scale_channels(LAST_CHANNELS, width)
        self.conv_sep = ConvBlock(channels, last_channels)
        self.features = EmbeddingHead(
            last_channels, image_size // self.image_sizes.multiple_of, embedding_size, dropout
        )
        initialize_convolutions(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        units = (unit for layer in self.layers for unit in (layer.layers if isinstance(layer, UnitStack) else [layer]))
        return self.features(self.conv_sep(self.in_turn(units, images)))
