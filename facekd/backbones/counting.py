"""Counts the parameters and the multiply-adds of a backbone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Returns the number of parameters (not buffers); a parameter that two modules share counts once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def count_macs(module: nn.Module, image_size: int) -> int:
    """Returns the multiply-adds of convolutions and matrix products for one image, as tables in papers count them.

    Normalisation, activations and sums are left out: they are one or two percent, and are fused away at deployment. In
    attention the products of tokens count as well.

    Args:
        module: takes (1, 3, image_size, image_size). It is run once in evaluation mode on zeros, and left as it was.
        image_size: side of the input in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes 0.3 s to import

    like = next(module.parameters())
    modes = {child: child.training for child in module.modules()}
    try:
        module.eval()
        # Attention as plain matrix products: the counter does not know torch's fused kernel for CPUs.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 3, image_size, image_size, dtype=like.dtype, device=like.device))
    finally:
        for child, was_training in modes.items():
            child.training = was_training
    return counter.get_total_flops() // 2
