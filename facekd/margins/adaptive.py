"""Computes the margins that depend on the image or on the progress of training: AdaFace, MagFace, CurricularFace.

Shapes: B batch, C classes; a suffix such as `target_B` names the dimensions of a tensor. theta is the angle between
embedding and class centre, `cosine = cos(theta)`. Equations, guards and gradients are derived in docs/method.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.margins.angles import add_small_angle, checked, norms_of, with_margin
from facekd.margins.fixed import combined
from facekd.margins.table import Gradient, check_margin_value

NORM_RANGE = (0.001, 100.0)  # AdaFace clips embedding norms to this range before it computes their statistics
NORM_EPSILON = 0.001  # AdaFace adds this to the standard deviation of the norms


def adaface(
    cosine: Tensor,
    labels: Tensor,
    norms: Tensor,
    margin: float = 0.4,
    h: float = 0.333,
    *,
    norm_mean: float | Tensor | None = None,
    norm_std: float | Tensor | None = None,
    gradient: Gradient = "exact",
) -> Tensor:
    """Adapts the margin to the quality of each image (AdaFace, Kim et al. 2022, arXiv:2204.00964).

    The embedding's norm stands for image quality: g = clip(h (norm - mean) / (std + 0.001), -1, 1). The target becomes
    cos(theta + g_angle) - g_add with g_angle = -margin g and g_add = margin g + margin, in the paper's notation. No
    gradient flows through the norm.

    Where theta - margin g < 0 the angle is taken as 0, as the authors do (the target is constant there). Where it
    exceeds pi they hold it at pi, which gives those images no gradient; here `arcface`'s guard continues downwards.

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        norms: (B,) or (B, 1), L2 norms of the embeddings before normalisation.
        margin: in [0, 1]; radians in the angular part, cosine in the additive part.
        h: concentration, > 0: how many standard deviations (1 / h) span the range of g.
        norm_mean: running mean of the norms, see `norm_statistics`; None takes the mean of this batch.
        norm_std: running standard deviation of the norms; None takes the deviation of this batch.
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("adaface", "margin", margin)
    check_margin_value("adaface", "h", h)
    cosine = checked(cosine, labels)
    # Quality in [-1, 1]: how many 1 / h standard deviations the norm lies above the mean.
    norms_B = norms_of("adaface", norms.detach(), cosine).clamp(*NORM_RANGE)
    batch_mean, batch_std = norm_statistics(norms_B)
    mean = batch_mean if norm_mean is None else norm_mean
    std = batch_std if norm_std is None else norm_std
    quality_B = ((norms_B - mean) / (std + NORM_EPSILON) * h).clamp(-1, 1)

    # The margin itself.
    def add_margin(target_B: Tensor) -> Tensor:
        return add_small_angle(target_B, -margin * quality_B) - (margin + margin * quality_B)

    return with_margin(cosine, labels, add_margin, gradient)


def norm_statistics(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean and standard deviation of a batch of embedding norms as AdaFace does (clipped to 0.001 .. 100).

    Returns:
        Two 0-d tensors. The deviation is the unbiased one; for a single image it is 0.
    """
    norms = norms.detach().reshape(-1).clamp(*NORM_RANGE)
    deviation = norms.std() if norms.numel() > 1 else norms.new_zeros(())
    return norms.mean(), deviation


def curricularface(cosine: Tensor, labels: Tensor, margin: float = 0.5, *, gradient: Gradient = "exact") -> Tensor:
    """Adds `arcface`'s margin to the target; what is CurricularFace's own is in `harder_others` (arXiv:2004.00288).

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: radians, in [0, pi).
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("curricularface", "margin", margin)
    return combined(cosine, labels, 1.0, margin, 0.0, gradient=gradient)


def harder_others(
    cosine: Tensor, margined: Tensor, *, mean_target: Tensor | float, margin: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Raises the cosines of other classes that come nearer than the margined target, the more the later in training.

    CurricularFace (Huang et al. 2020, arXiv:2004.00288, eq. 4 and 5): where cos(theta_j) > cos(theta_y + m) the cosine
    becomes cos(theta_j) (t + cos(theta_j)), with t the running mean of the target cosines. No gradient flows through
    the comparison or through t. The margined target of the comparison has `arcface`'s guard; that of the authors' code
    has none, which differs only past pi.

    Args:
        cosine: (B, n), cosines of other classes; a target among them is replaced afterwards.
        margined: (B, 1), margined target cosines.
        mean_target: t, 0-d.
        margin: radians; has no effect here.

    Returns:
        The new cosines, and their slopes by the old ones, (B, n) each.
    """
    is_hard = cosine > margined
    return (
        torch.where(is_hard, cosine * (mean_target + cosine), cosine),
        torch.where(is_hard, mean_target + 2 * cosine, 1.0),
    )


def magface(
    cosine: Tensor,
    labels: Tensor,
    norms: Tensor,
    margin_low: float = 0.45,
    margin_high: float = 0.8,
    norm_low: float = 10.0,
    norm_high: float = 110.0,
    norm_weight: float = 35.0,
    *,
    gradient: Gradient = "exact",
) -> Tensor:
    """Adds an angular margin that grows with the norm (MagFace, Meng et al. 2021, arXiv:2103.06627, eq. 4 and 9).

    The target becomes cos(theta + m(a)), where m rises in a straight line from `margin_low` at the norm `norm_low` to
    `margin_high` at `norm_high`; a is the norm within these limits, and the gradient flows through it. Past pi it has
    `arcface`'s guard; the authors' code takes cos(theta) there. `magface_norm_loss` belongs to it.

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        norms: (B,) or (B, 1), L2 norms of the embeddings before normalisation.
        margin_low: radians, in [0, 1).
        margin_high: radians, in [0, 1), above `margin_low`.
        norm_low: lowest norm that counts.
        norm_high: highest norm that counts, above `norm_low`.
        norm_weight: weight of `magface_norm_loss`; has no effect here.
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label or a number out of range.
    """
    _check_magface(margin_low, margin_high, norm_low, norm_high, norm_weight)
    cosine = checked(cosine, labels)
    norms_B = norms_of("magface", norms, cosine).clamp(norm_low, norm_high)
    margins_B = margin_low + (margin_high - margin_low) * (norms_B - norm_low) / (norm_high - norm_low)
    return with_margin(cosine, labels, lambda target_B: add_small_angle(target_B, margins_B), gradient)


def magface_norm_loss(
    norms: Tensor,
    margin_low: float = 0.45,
    margin_high: float = 0.8,
    norm_low: float = 10.0,
    norm_high: float = 110.0,
    norm_weight: float = 35.0,
) -> Tensor:
    """Computes what MagFace adds to each image's loss: norm_weight (1 / a + a / norm_high^2) (arXiv:2103.06627, eq. 6).

    It falls as the norm a rises to `norm_high`, and has no gradient beyond the limits.

    Args:
        norms: (B,), L2 norms of the embeddings.
        margin_low, margin_high, norm_low, norm_high, norm_weight: see `magface`.

    Returns:
        (B,) losses.
    """
    _check_magface(margin_low, margin_high, norm_low, norm_high, norm_weight)
    norms_B = norms.clamp(norm_low, norm_high)
    return norm_weight * (1 / norms_B + norms_B / norm_high**2)


def _check_magface(
    margin_low: float, margin_high: float, norm_low: float, norm_high: float, norm_weight: float
) -> None:
    given = {
        "margin_low": margin_low,
        "margin_high": margin_high,
        "norm_low": norm_low,
        "norm_high": norm_high,
        "norm_weight": norm_weight,
    }
    for name, value in given.items():
        check_margin_value("magface", name, value)
    for name in ("margin", "norm"):
        low, high = given[f"{name}_low"], given[f"{name}_high"]
        if not low < high:
            raise InputError(f"{name}_low of magface = {low} must be below {name}_high = {high}")
