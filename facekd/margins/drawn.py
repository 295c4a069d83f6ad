"""Computes the margins that are drawn anew for each image: ElasticFace.

Shapes: B batch, C classes; a suffix such as `target_B` names the dimensions of a tensor. theta is the angle between
embedding and class centre, `cosine = cos(theta)`. Equations, guards and gradients are derived in docs/method.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.margins.angles import add_small_angle, with_margin
from facekd.margins.table import Gradient, check_margin_value
from facekd.utils.wording import counted


def elastic_arcface(
    cosine: Tensor,
    labels: Tensor,
    margin: float = 0.5,
    std: float = 0.0125,
    *,
    margins: Tensor | None = None,
    gradient: Gradient = "exact",
) -> Tensor:
    """Adds an angular margin drawn anew for each image (ElasticFace-Arc, Boutros et al. 2022, arXiv:2109.09416, eq. 6).

    The target becomes cos(theta + m) with m from N(margin, std). Past pi it has `arcface`'s guard.

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: mean of the margins, radians, in [0, 1).
        std: standard deviation of the margins, radians, in [0, 0.2]; whoever draws them uses it.
        margins: (B,), the margins drawn, each in [-1, 1]; None takes `margin` for all.
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("elastic_arcface", "margin", margin)
    check_margin_value("elastic_arcface", "std", std)

    def add_margin(target_B: Tensor) -> Tensor:
        return add_small_angle(target_B, _margins_of(target_B, margin, margins))

    return with_margin(cosine, labels, add_margin, gradient)


def elastic_cosface(
    cosine: Tensor,
    labels: Tensor,
    margin: float = 0.35,
    std: float = 0.0125,
    *,
    margins: Tensor | None = None,
    gradient: Gradient = "exact",
) -> Tensor:
    """Subtracts a cosine margin drawn anew for each image (ElasticFace-Cos, arXiv:2109.09416, eq. 7).

    The target becomes cos(theta) - m with m from N(margin, std); arguments as in `elastic_arcface`, in units of cosine.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("elastic_cosface", "margin", margin)
    check_margin_value("elastic_cosface", "std", std)
    return with_margin(cosine, labels, lambda target_B: target_B - _margins_of(target_B, margin, margins), gradient)


def _margins_of(target_B: Tensor, margin: float, margins: Tensor | None) -> Tensor:
    """Returns a margin for each row: those drawn, or the same one for all."""
    if margins is None:
        return torch.full_like(target_B, margin)
    if margins.shape != target_B.shape:
        raise InputError(f"{tuple(margins.shape)} margins for {counted(len(target_B), 'image')}: give one for each")
    return margins.detach().to(target_B.dtype)
