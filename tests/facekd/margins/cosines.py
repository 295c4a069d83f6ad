"""Applies margins to single cosines and draws batches of them; what the tests of margins share."""

from __future__ import annotations

import torch

LABEL = torch.tensor([0])
SCALE = 64.0


def target(margin_function, cosine, *args, **kwargs):
    """Applies a margin to single cosines, each as the target of a row with one other class."""
    cosine = torch.as_tensor(cosine, dtype=kwargs.pop("dtype", torch.float64)).reshape(-1)
    both = torch.stack([cosine, torch.zeros_like(cosine)], dim=1)
    return margin_function(both, torch.zeros(len(cosine), dtype=torch.int64), *args, **kwargs)[:, 0]


def slope(margin_function, cosine, *args, dtype=torch.float64, **kwargs):
    """Computes d margined / d cosine at single cosines."""
    cosine = torch.as_tensor(cosine, dtype=dtype).reshape(-1).requires_grad_()
    out = target(margin_function, cosine, *args, dtype=dtype, **kwargs)
    return torch.autograd.grad(out.sum(), cosine)[0]


def random_batch(batch=12, classes=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.rand(batch, classes, generator=generator, dtype=dtype) * 1.98 - 0.99
    labels = torch.randint(classes, (batch,), generator=generator)
    norms = torch.rand(batch, generator=generator, dtype=dtype) * 40 + 1
    return cosine, labels, norms
