"""Computes the margins that are the same for every image: none, ArcFace's, CosFace's, and all three combined.

Shapes: B batch, C classes; a suffix such as `target_B` names the dimensions of a tensor. theta is the angle between
embedding and class centre, `cosine = cos(theta)`. Equations, guards and gradients are derived in docs/method.md.
"""

from __future__ import annotations

from torch import Tensor

from facekd.margins.angles import add_angle, check_gradient, checked, with_margin
from facekd.margins.table import Gradient, check_margin_value


def no_margin(cosine: Tensor, labels: Tensor, *, gradient: Gradient = "exact") -> Tensor:
    """Leaves every cosine as it is: the normalised softmax (NormFace, Wang et al. 2017, arXiv:1704.06369).

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C); checked but not used, so that a wrong label never passes silently.
        gradient: accepted so that margins are interchangeable; it has no effect here.

    Returns:
        (B, C), a float32 copy of half-precision cosines, otherwise `cosine` itself.

    Raises:
        InputError: wrong shape or dtype, or a label out of range.
    """
    check_gradient(gradient)
    return checked(cosine, labels)


def arcface(cosine: Tensor, labels: Tensor, margin: float = 0.5, *, gradient: Gradient = "exact") -> Tensor:
    """Adds an angular margin: the target becomes cos(theta + margin) (Deng et al. 2019, arXiv:1801.07698, eq. 3).

    Where theta + margin > pi the cosine would rise again. There the target is cos(theta) - margin sin(margin), the
    guard of the authors' first code: it is lower than -1 and keeps falling with theta. (For margins above 2.33 that
    guard would jump upwards, so cos(theta) - (1 - cos(margin)) replaces it.)

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: radians, in [0, pi).
        gradient: "exact" differentiates the formula. "straight_through" gives the same value but passes the gradient of
            the target on as if there were no margin. insightface's arcface_torch does that (its arccos and cos run
            without autograd); use it to reproduce its results.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("arcface", "margin", margin)
    return combined(cosine, labels, 1.0, margin, 0.0, gradient=gradient)


def cosface(cosine: Tensor, labels: Tensor, margin: float = 0.35, *, gradient: Gradient = "exact") -> Tensor:
    """Subtracts a cosine margin: the target becomes cos(theta) - margin (Wang et al. 2018, arXiv:1801.09414, eq. 4).

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: in units of cosine, in [0, 2].
        gradient: accepted so that margins are interchangeable; both choices give the same here, as the slope is 1.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("cosface", "margin", margin)
    return combined(cosine, labels, 1.0, 0.0, margin, gradient=gradient)


def combined(
    cosine: Tensor, labels: Tensor, m1: float = 1.0, m2: float = 0.0, m3: float = 0.0, *, gradient: Gradient = "exact"
) -> Tensor:
    """Applies three margins: the target becomes cos(m1 theta + m2) - m3 (Deng et al. 2019, arXiv:1801.07698, eq. 4).

    (1, m, 0) is ArcFace, (1, 0, m) is CosFace, (m, 0, 0) is the multiplicative margin of SphereFace. All three values
    are always applied together. Where m1 theta + m2 > pi, the target is cos(theta) - max(phi sin(phi), 1 - cos(phi)) -
    m3 with phi = pi - (pi - m2) / m1, the angle that the margin has added at that point; for m1 = 1 this is ArcFace's
    guard. The defaults change nothing.

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        m1: factor on the angle, >= 1.
        m2: radians, in [0, pi).
        m3: in units of cosine, in [0, 2].
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("combined", "m1", m1)
    check_margin_value("combined", "m2", m2)
    check_margin_value("combined", "m3", m3)
    return with_margin(cosine, labels, lambda target_B: add_angle(target_B, m1, m2) - m3, gradient)
