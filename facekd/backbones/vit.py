"""Defines the vision transformers of InsightFace's arcface_torch: patches of 9 pixels, no class token.

A convolution turns the image into tokens, 12 x 12 of them at 112 pixels, and twelve transformer blocks mix them. All
tokens of the last block, flattened, go through two linear layers, each with a batch normalisation, to the embedding.
At D = 512 and 112 pixels `vit_t` (256 channels) has 19.1 M parameters and 1.5 G multiply-adds, `vit_s` (512 channels)
76.0 M and 5.7 G.

The networks are Dosovitskiy et al. 2021 but for the class token, the patch size and ReLU6 in the place of GELU.
Modules carry the names used by InsightFace's released PyTorch weights, so that those state dicts load by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones.backbone import Backbone, ImageSizes, drop_path, full_precision, scale_channels

PATCH_SIZE = 9
NUM_BLOCKS = 12
NUM_HEADS = 8
MLP_RATIO = 4
# Channels of a token.
VIT_CHANNELS = {"vit_t": 256, "vit_s": 512}
INITIAL_STD = 0.02


class PatchEmbedding(nn.Module):
    """Turns images (B, 3, S, S) into tokens (B, N, C), one for each patch of 9 x 9 pixels, row by row.

    Pixels at the right and lower edge that fill no patch are not looked at: 4 of 112.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Mixes tokens (B, N, C) by self-attention with 8 heads; their products keep 32 bits, as in arcface_torch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, NUM_HEADS, channels // NUM_HEADS).permute(2, 0, 3, 1, 4)
        with full_precision(x):
            query, key, value = qkv.to(self.qkv.weight.dtype).unbind(0)
            mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels))


class Mlp(nn.Module):
    """Maps each token by two linear layers with a ReLU6 between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.relu6(self.fc1(x)))


class Block(nn.Module):
    """Adds attention and then an MLP to tokens (B, N, C), each of the normalised tokens (pre-norm)."""

    def __init__(self, channels: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class VisionTransformer(Backbone):
    """Computes embeddings by a vision transformer: patches, twelve blocks, an embedding layer on all tokens.

    Args:
        name: a key of `VIT_CHANNELS`.
        embedding_size: D.
        image_size: S in pixels, from 32 on.
        width: multiplies the channels of a token, not the embedding.
        dropout: probability of dropping a value of the flattened tokens (arcface_torch has none).
        drop_path: probability of leaving a residual branch of the last block out for an image; it grows from 0 in the
            first block. arcface_torch trains with 0.1, on WebFace42M with 0.05.
        mask_ratio: share of the tokens that are left out in training; each image's own, and a learned token takes their
            place behind the last block. arcface_torch trains with 0.1, on WebFace42M with 0. (Its code masks 0.1
            whenever the ratio in its settings is above 0; here the ratio is what it says.)
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(
        32, 1, f"its patches have {PATCH_SIZE} pixels", "use 112, or 64 for a small model"
    )
    takes_gradient_checkpointing: ClassVar[bool] = True
    options: ClassVar[frozenset[str]] = frozenset({"drop_path", "mask_ratio"})
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stem": ("patch_embed", "pos_embed", "mask_token"),
        **{f"stage{i + 1}": tuple(f"blocks.{3 * i + j}" for j in range(3)) for i in range(NUM_BLOCKS // 3)},
        "embedding": ("norm", "feature"),
    }
    undecayed: ClassVar[tuple[str, ...]] = ("pos_embed", "mask_token")

    def __init__(
        self,
        name: str,
        embedding_size: int = 512,
        image_size: int = 112,
        width: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        mask_ratio: float = 0.0,
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        channels, tokens = scale_channels(VIT_CHANNELS[name], width), (image_size // PATCH_SIZE) ** 2
        self.mask_ratio = mask_ratio
        # Patches and their places to tokens, and the blocks.
        self.patch_embed = PatchEmbedding(channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, channels))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, channels), requires_grad=mask_ratio > 0)
        self.blocks = nn.ModuleList(
            Block(channels, drop_path * number / (NUM_BLOCKS - 1)) for number in range(NUM_BLOCKS)
        )
        # All tokens to the embedding.
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.feature = nn.Sequential(
            nn.Linear(channels * tokens, channels, bias=False),
            nn.BatchNorm1d(channels, eps=2e-5),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        # The patches' convolution keeps torch's own initialisation, as in arcface_torch.
        nn.init.normal_(self.mask_token, std=INITIAL_STD)
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        x = self.patch_embed(images) + self.pos_embed
        kept = self._draw_kept(x) if self.training and self.mask_ratio > 0 else None
        if kept is not None:
            x = x.gather(1, kept)
        x = self.in_turn(self.blocks, x)

        # Behind the blocks every place has a token again.
        with full_precision(x):
            x = self.norm(x.to(self.norm.weight.dtype))
            if kept is not None:
                x = self.mask_token.expand(len(x), self.pos_embed.shape[1], -1).scatter(1, kept, x)
            return self.feature(self.dropout(x.flatten(1)))

    def _draw_kept(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns which tokens of (B, N, C) stay, as an index (B, K, C) for `gather`: K random ones of each image."""
        batch, places, channels = tokens.shape
        num_kept = max(1, int(places * (1 - self.mask_ratio)))
        order = torch.rand(batch, places, device=tokens.device).argsort(1)
        return order[:, :num_kept, None].expand(-1, -1, channels)
