"""The margin head that is in most use, restated: whole (B, C) matrices, changed in place and past autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def usual_cosine(embedding: Tensor, weight: Tensor, half: torch.dtype | None = None) -> Tensor:
    """Cosines (B, C) of embeddings (B, D) and centres (C, D) in float32; `half` is the type of the product."""
    embedding, centres = F.normalize(embedding.float()), F.normalize(weight)
    with torch.autocast(embedding.device.type, half, enabled=half is not None):
        cosine = F.linear(embedding, centres)
    return cosine.float()


def usual_cross_entropy(
    embedding: Tensor, weight: Tensor, labels: Tensor, margin: float, scale: float, half: torch.dtype | None = None
) -> Tensor:
    """ArcFace's loss: every cosine turned into its angle and back, for the sake of one a row."""
    cosine = usual_cosine(embedding, weight, half).clamp(-1, 1)
    with torch.no_grad():
        angle = cosine.acos_()
        angle[torch.arange(len(labels), device=labels.device), labels] += margin
        angle.cos_()
    return F.cross_entropy(cosine * scale, labels)
