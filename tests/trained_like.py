"""Gives fresh networks the statistics of trained ones."""

from __future__ import annotations

import torch
from torch import nn


def trained_like(backbone: nn.Module, size: int, passes: int = 2) -> nn.Module:
    """Gives a network batch-norm statistics as training leaves them: at their initial values a wrong folding is unseen.

    Each pass takes a tenth of the way to the statistics of noise; with few of them deep networks give large numbers.
    """
    backbone.train()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter)).add_(0.05 * torch.randn_like(parameter))
        for _ in range(passes):
            backbone(torch.randn(8, 3, size, size))
    return backbone
