"""Defines EdgeFace (George et al. 2024, arXiv:2307.01838): the hybrid network EdgeNeXt with linear layers of low rank.

Four stages at a quarter to a thirty-second of the image: blocks of a depthwise convolution and an MLP, and at the end
of stages 2 to 4 a block in which channels attend to each other (EdgeNeXt, Maaz et al. 2022, arXiv:2206.10589). Every
linear layer, from m to n values, is a product of two, through a share gamma of min(m, n) values in between. At D = 512
and 112 pixels `edgeface_xs` (gamma 0.6) has 1.77 M parameters and 77 M multiply-adds, `edgeface_s` (gamma 0.5) 3.65 M
and 153 M; the paper's 154 and 306 MFLOPs count two operations for each.

Modules carry the names of the authors' weights, which stand there behind "model.".
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones.backbone import Backbone, ImageSizes, full_precision, scale_channels


class EdgeShape(NamedTuple):
    """Lists what differs between the networks: channels of the four stages, heads of attention, the rank's share."""

    channels: tuple[int, ...]
    num_heads: int
    gamma: float


EDGEFACES = {
    "edgeface_xs": EdgeShape((32, 64, 100, 192), 4, 0.6),
    "edgeface_s": EdgeShape((48, 96, 160, 304), 8, 0.5),
}
# Of each stage: blocks with a convolution, their kernels, whether an attention block follows, its groups of channels.
STAGES = ((3, 3, False, 0), (2, 5, True, 2), (8, 7, True, 3), (2, 9, True, 4))
STAGE_WITH_POSITIONS = 1
MLP_RATIO = 4
NORM_EPS = 1e-6
INITIAL_SCALE = 1e-6  # of what a block adds
INITIAL_STD = 0.02
POSITION_FREQUENCIES = 32
POSITION_TEMPERATURE = 10_000


class LowRankLinear(nn.Module):
    """Maps m values to n through a share gamma of min(m, n), 2 at least; the first of the two layers has no bias."""

    def __init__(self, in_features: int, out_features: int, gamma: float) -> None:
        super().__init__()
        rank = max(2, int(min(in_features, out_features) * gamma))
        self.linear1 = nn.Linear(in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.linear1(x))


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels of each pixel of (B, C, H, W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Maps the last dimension by two low-rank layers with a GELU between them."""

    def __init__(self, channels: int, gamma: float) -> None:
        super().__init__()
        self.fc1 = LowRankLinear(channels, MLP_RATIO * channels, gamma)
        self.fc2 = LowRankLinear(MLP_RATIO * channels, channels, gamma)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class ConvolutionBlock(nn.Module):
    """Adds to (B, C, H, W) what a depthwise convolution and an MLP make of it, scaled channel by channel."""

    def __init__(self, channels: int, kernel: int, gamma: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = Mlp(channels, gamma)
        self.gamma = nn.Parameter(torch.full((channels,), INITIAL_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp(branch)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Lets the channels of tokens (B, N, C) attend to each other (cross-covariance attention, El-Nouby et al. 2021).

    Queries and keys are normalised over the tokens, so that a product is a cosine; its scale is learned for each head.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, channels: int, num_heads: int, gamma: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = LowRankLinear(channels, 3 * channels, gamma)
        self.proj = LowRankLinear(channels, channels, gamma)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, channels // self.num_heads).permute(2, 0, 3, 4, 1)
        with full_precision(x):
            query, key, value = qkv.to(self.temperature.dtype).unbind(0)
            cosines = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-2, -1)
            mixed = (cosines * self.temperature).softmax(-1) @ value
        return self.proj(mixed.permute(0, 3, 1, 2).reshape(batch, tokens, channels))


class PositionEncoding(nn.Module):
    """Encodes the place of each pixel of a square map by sines and cosines, projected to the channels: (1, C, H, W)."""

    def __init__(self, channels: int, map_size: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * POSITION_FREQUENCIES, channels, 1)
        # Not in the state dict: it follows from the size.
        self.register_buffer("waves", _waves(map_size), persistent=False)

    def forward(self) -> torch.Tensor:
        return self.token_projection(self.waves)


def _waves(map_size: int) -> torch.Tensor:
    """Returns (1, 64, H, W): for the row and then the column, sine and cosine by turns, from the shortest wave on."""
    places = torch.arange(1, map_size + 1) / (map_size + 1e-6) * 2 * math.pi
    lengths = POSITION_TEMPERATURE ** (torch.arange(0, POSITION_FREQUENCIES, 2) / POSITION_FREQUENCIES)
    angles = places[:, None] / lengths
    one_axis = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)
    rows = one_axis[:, None].expand(-1, map_size, -1)
    return torch.cat((rows, rows.transpose(0, 1)), dim=2).permute(2, 0, 1)[None].contiguous()


class AttentionBlock(nn.Module):
    """Adds to (B, C, H, W) what convolutions of groups of channels, channel attention and an MLP make of it.

    Each group of channels but the last is convolved, together with the result of the group before it, so that one block
    looks at several scales.
    """

    def __init__(self, channels: int, num_groups: int, num_heads: int, gamma: float, map_size: int | None) -> None:
        super().__init__()
        self.group_channels = math.ceil(channels / num_groups)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.group_channels, self.group_channels, 3, padding=1, groups=self.group_channels)
            for _ in range(num_groups - 1)
        )
        self.pos_embd = None if map_size is None else PositionEncoding(channels, map_size)
        self.norm_xca = nn.LayerNorm(channels, eps=NORM_EPS)
        self.gamma_xca = nn.Parameter(torch.full((channels,), INITIAL_SCALE))
        self.xca = ChannelAttention(channels, num_heads, gamma)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = Mlp(channels, gamma)
        self.gamma = nn.Parameter(torch.full((channels,), INITIAL_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Groups of channels, each with the convolved one before it.
        *groups, last = x.split(self.group_channels, dim=1)
        convolved: list[torch.Tensor] = []
        for convolution, group in zip(self.convs, groups, strict=True):
            convolved.append(convolution(convolved[-1] + group if convolved else group))
        mixed = torch.cat((*convolved, last), dim=1)

        # Channel attention over all pixels, and the MLP.
        height, width = mixed.shape[2:]
        if self.pos_embd is not None:
            mixed = mixed + self.pos_embd()
        tokens = mixed.flatten(2).transpose(1, 2)
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        branch = self.gamma * self.mlp(self.norm(tokens))
        return x + branch.transpose(1, 2).unflatten(2, (height, width))


class Stage(nn.Module):
    """Halves the map, unless it is the first stage, and applies blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(x))


class EdgeFace(Backbone):
    """Computes embeddings by an EdgeFace: a stem of stride 4, four stages, the averaged map and a low-rank layer.

    Args:
        name: a key of `EDGEFACES`.
        embedding_size: D.
        image_size: S in pixels, a multiple of 16.
        width: multiplies the channels of the stages, rounded to multiples of 8; 1 takes the authors' as they are.
        dropout: probability of dropping a value of the averaged map (the authors have none).
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(
        32, 16, "it divides the side by 16, and once more by 2, rounded down", "use 112, or 64 for a small model"
    )
    takes_gradient_checkpointing: ClassVar[bool] = True
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("stem",),
        **{f"stage{number}": (f"stages.{number - 1}",) for number in (1, 2, 3, 4)},
        "embedding": ("head",),
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
        shape = EDGEFACES[name]
        channels = [c if width == 1 else scale_channels(c, width) for c in shape.channels]
        # A stem of patches, and the stages.
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 4, stride=4), ChannelNorm(channels[0], eps=NORM_EPS))
        self.stages = nn.Sequential()
        map_size, before = image_size // 4, channels[0]
        for number, (num_convolutions, kernel, has_attention, num_groups) in enumerate(STAGES):
            here, downsample = channels[number], nn.Identity()
            if number > 0:
                downsample = nn.Sequential(ChannelNorm(before, eps=NORM_EPS), nn.Conv2d(before, here, 2, stride=2))
                map_size //= 2
            blocks: list[nn.Module] = [ConvolutionBlock(here, kernel, shape.gamma) for _ in range(num_convolutions)]
            if has_attention:
                positions = map_size if number == STAGE_WITH_POSITIONS else None
                blocks.append(AttentionBlock(here, num_groups, shape.num_heads, shape.gamma, positions))
            self.stages.append(Stage(downsample, blocks))
            before = here
        # The averaged map to the embedding.
        head = {
            "norm": nn.LayerNorm(before, eps=NORM_EPS),
            "drop": nn.Dropout(dropout),
            "fc": LowRankLinear(before, embedding_size, shape.gamma),
        }
        self.head = nn.Sequential(OrderedDict(head))
        # As the authors': linear layers keep torch's own initialisation.
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD, a=-2 * INITIAL_STD, b=2 * INITIAL_STD)
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        stages = (stage for stage in self.stages if isinstance(stage, Stage))
        units = (unit for stage in stages for unit in (stage.downsample, *stage.blocks))
        x = self.in_turn((self.stem, *units), images)
        with full_precision(x):
            return self.head(x.mean((2, 3)).to(next(self.head.parameters()).dtype))
