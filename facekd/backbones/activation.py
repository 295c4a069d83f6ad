"""Computes PReLU as torch does, but trains faster on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class PReLU(nn.PReLU):
    """Computes `max(x, 0) + slope * min(x, 0)` with a learned slope per channel (He et al. 2015); values equal torch's.

    On a CPU the backward kernel of torch's PReLU is not vectorised and takes a quarter of the training time of a
    MobileFaceNet. The same gradient from vectorised kernels takes a third of that (benchmarks/backbones.py
    `--compare-prelu`). On other devices, in graphs (export, compile) and without gradients this is `nn.PReLU`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(input)
        return _PReLU.apply(input, self.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return F.prelu(x, slope.to(x.dtype))  # under autocast x has 16 bits, the slope 32

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # pyright: ignore
        x, slope = ctx.saved_tensors
        grad_above = torch.ops.aten.threshold_backward(grad, x, 0)  # relu's: grad where x > 0, else 0
        grad_below = grad - grad_above
        others = [dim for dim in range(x.ndim) if dim != 1]
        grad_slope = (grad_below * x).sum(others, dtype=slope.dtype)
        slope = slope.to(grad.dtype).view(-1, *(1,) * (x.ndim - 2))
        return torch.addcmul(grad_above, grad_below, slope), grad_slope
