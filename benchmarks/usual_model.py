"""Restates what most published training code uses: the margin head on whole (B, C) matrices, and torch's PReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekd.backbones.activation import PReLU


def usual_cosine(embedding: Tensor, weight: Tensor, half: torch.dtype | None = None) -> Tensor:
    """Computes cosines (B, C) of embeddings (B, D) and centres (C, D) in float32; `half` is the type of the product."""
    embedding, centres = F.normalize(embedding.float()), F.normalize(weight)
    with torch.autocast(embedding.device.type, half, enabled=half is not None):
        cosine = F.linear(embedding, centres)
    return cosine.float()


def usual_cross_entropy(
    embedding: Tensor, weight: Tensor, labels: Tensor, margin: float, scale: float, half: torch.dtype | None = None
) -> Tensor:
    """Computes the ArcFace loss by turning every cosine into its angle and back, though only one a row changes."""
    cosine = usual_cosine(embedding, weight, half).clamp(-1, 1)
    with torch.no_grad():
        angle = cosine.acos_()
        angle[torch.arange(len(labels), device=labels.device), labels] += margin
        angle.cos_()
    return F.cross_entropy(cosine * scale, labels)


def replace_prelu(module: nn.Module) -> None:
    """Replaces facekd's PReLU by torch's in a module and all below it."""
    for name, child in module.named_children():
        if isinstance(child, PReLU):
            setattr(module, name, nn.PReLU(child.num_parameters))
        else:
            replace_prelu(child)
