"""What every backbone is and offers: (B, 3, S, S) images in, (B, D) embeddings out."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import nn

from facekd.errors import ModelError

# Every backbone here halves the image four times, so a side of 16 n ends in a map of n x n.
TOTAL_STRIDE = 16


class Backbone(nn.Module):
    """Base of the backbones: remembers how it was built and checks what comes in.

    Attributes:
        name: its name in `BACKBONES`, `"iresnet50"`.
        embedding_size: D, the width of the embedding.
        image_size: S, the side of the square input in pixels.
        width: the channel multiplier it was built with.
    """

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float) -> None:
        super().__init__()
        self.name = name
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.width = width

    def check_images(self, images: torch.Tensor) -> None:
        """Refuse images of another shape or type before a layer deep inside fails with a puzzle.

        Raises:
            ModelError: unless `images` is a float tensor of shape (B, 3, S, S).
        """
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ModelError(
                f"{self.name} takes images of shape (B, 3, {size}, {size}), but got {tuple(images.shape)}: "
                "resize the images, or build the backbone with another image_size"
            )
        if not images.is_floating_point():
            raise ModelError(
                f"{self.name} takes normalised float images, but got {images.dtype}: "
                "subtract the mean and divide by the standard deviation first (facekd.images.model_input)"
            )


def full_precision(tensor: torch.Tensor) -> contextlib.AbstractContextManager:
    """Turn autocast off for a block, if it is on where `tensor` lives.

    The embedding layer and its batch normalisation keep 32 bits: a margin of 0.5 radians at scale 64 leaves
    little room for the 8 bits of a bfloat16 mantissa. Entering the context only where it is needed keeps
    autocast nodes out of graphs exported to ONNX.
    """
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def initialize_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / fan_out) (He et al. 2015, equation 14).

    As ArcFace's first release (MXNet) did. With the N(0, 0.1^2) of its PyTorch release training works as well, for a
    normalisation follows every convolution, but in evaluation mode an untrained or barely trained deep network
    overflows: its running variances of 1 are then far from the truth. The fan-out of a grouped convolution is that of
    one of its groups; `nn.init.kaiming_normal_` takes that of all of them together.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            fan_out = height * width * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def scale_channels(channels: int, width: float) -> int:
    """Multiply a channel count by `width`, rounded to a multiple of 8 (what vector units like), at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)
