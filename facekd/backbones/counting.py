"""Counts the parameters and the multiply-adds of a backbone."""

from __future__ import annotations

import torch
from torch import nn


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Returns the number of parameters (not buffers); a parameter that two modules share counts once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def count_macs(module: nn.Module, image_size: int) -> int:
    """Returns the multiply-adds of convolutions and linear layers for one image, as tables in papers count them.

    Normalisation, activations and sums are left out: they are one or two percent, and are fused away at deployment.

    Args:
        module: takes (1, 3, image_size, image_size). It is run once in evaluation mode on zeros, and left as it was.
        image_size: side of the input in pixels.
    """
    macs = 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            macs += output.numel() * (layer.in_channels // layer.groups) * height * width
        elif isinstance(layer, nn.Linear):
            macs += output.numel() * layer.in_features

    # Run the module once with a hook on each layer, then put hooks and modes back as they were.
    like = next(module.parameters())
    training = {child: child.training for child in module.modules()}
    hooks = [child.register_forward_hook(add) for child in training if isinstance(child, (nn.Conv2d, nn.Linear))]
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, 3, image_size, image_size, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
        for child, was_training in training.items():
            child.training = was_training
    return macs
