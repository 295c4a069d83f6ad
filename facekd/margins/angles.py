"""Computes with the cosines of angles: adds a margin to the target's, with guards at both ends and exact slopes.

Shapes: B batch, C classes; a suffix such as `target_B` names the dimensions of a tensor. theta is the angle between
embedding and class centre, `cosine = cos(theta)`. Equations, guards and gradients are derived in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.labels import check_labels
from facekd.margins.table import Gradient
from facekd.utils.wording import counted


class _SineOfCosine(torch.autograd.Function):
    """Computes sin(theta) from cos(theta), theta in [0, pi], with a slope that stays finite at cos = +-1.

    The value is exact. The slope -cos / sin is infinite at +-1; there the slope one rounding step inside is used
    (sin = sqrt(epsilon)), so it is exact at every other representable cosine. Cosines a rounding error beyond +-1 count
    as +-1. The backward pass is itself differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(cosine: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # This product keeps all digits near +-1, where 1 - cosine^2 would cancel.
        return ((1 - cosine) * (1 + cosine)).clamp_min(0).sqrt()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_sine: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (cosine,) = ctx.saved_tensors
        sine = _sine(cosine).clamp_min(math.sqrt(torch.finfo(cosine.dtype).eps))
        return -grad_sine * cosine / sine


def _sine(cosine: Tensor) -> Tensor:
    sine = _SineOfCosine.apply(cosine)
    assert isinstance(sine, Tensor)
    return sine


def add_angle(target_B: Tensor, m1: float, m2: float) -> Tensor:
    """Computes cos(m1 theta + m2), continued downwards where the angle exceeds pi."""
    if m1 == 1 and m2 == 0:
        return target_B
    if m1 == 1:
        margined_B = target_B * math.cos(m2) - _sine(target_B) * math.sin(m2)
    else:
        # atan2 stays accurate where acos is steep, and its slope is finite because the sine's is.
        margined_B = torch.cos(m1 * torch.atan2(_sine(target_B), target_B) + m2)
    last_angle = (math.pi - m2) / m1  # at this theta the margined angle reaches pi
    phi = math.pi - last_angle
    guard_B = target_B - max(phi * math.sin(phi), 1 - math.cos(phi))
    return torch.where(target_B > math.cos(last_angle), margined_B, guard_B)


def add_small_angle(target_B: Tensor, angle_B: Tensor) -> Tensor:
    """Computes cos(theta + angle), one angle in [-1, 1] per row: 1 below theta + angle = 0, falling on beyond pi."""
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    margined_B = target_B * cos_B - _sine(target_B) * sin_B
    margined_B = torch.where((angle_B < 0) & (target_B > cos_B), torch.ones_like(margined_B), margined_B)
    return torch.where((angle_B > 0) & (target_B < -cos_B), target_B - angle_B * sin_B, margined_B)


def with_margin(cosine: Tensor, labels: Tensor, add_margin: Callable[[Tensor], Tensor], gradient: Gradient) -> Tensor:
    """Replaces the target cosines by `add_margin` of them, (B,) -> (B,), in a copy, with the slope asked for."""
    check_gradient(gradient)
    cosine = checked(cosine, labels)
    target_B = cosine.gather(1, labels[:, None]).squeeze(1)
    if gradient == "exact":
        margined_B = add_margin(target_B)
    else:  # adds exactly 0, with slope 1 by the cosine; whatever else the margin depends on keeps its slope
        margined_B = add_margin(target_B.detach()) + (target_B - target_B.detach())
    return cosine.scatter(1, labels[:, None], margined_B[:, None])


def norms_of(name: str, norms: Tensor, cosine: Tensor) -> Tensor:
    """Returns one norm for each row of the cosines, (B,), in their type."""
    if norms.numel() != len(cosine):
        raise InputError(
            f"{name} needs one norm per image: {counted(len(cosine), 'label')} but norms of {tuple(norms.shape)}"
        )
    return norms.to(cosine.dtype).reshape(-1)


def check_gradient(gradient: str) -> None:
    if gradient not in ("exact", "straight_through"):
        raise InputError(f"gradient = {gradient!r}: choose 'exact' or 'straight_through'")


def checked(cosine: Tensor, labels: Tensor) -> Tensor:
    """Checks cosines and labels; returns the cosines in at least float32."""
    if cosine.ndim != 2 or not cosine.is_floating_point():
        raise InputError(f"cosines must be floating, of shape (B, C); found {cosine.dtype} of {tuple(cosine.shape)}")
    check_labels(labels, cosine.shape[1])
    if labels.shape[0] != cosine.shape[0]:
        raise InputError(f"{counted(labels.shape[0], 'label')} for {counted(cosine.shape[0], 'row')} of cosines")
    return cosine if cosine.dtype == torch.float64 else cosine.float()
