"""Computes the margins: pure functions that make the target cosine harder.

Every margin takes cosines (B, C) and labels (B,), replaces the one cosine of each row that belongs to the row's label,
and returns a new (B, C) tensor; multiply it by the scale and pass it to cross-entropy. Nothing is modified in place.
What CurricularFace does to the cosines of other classes is a function of its own, in `OTHER_COSINES`.
Values and gradients are computed in float32 (float64 for float64 input), whatever autocast says.

Training applies the same functions to the target cosines alone, as (B, 1) with labels of 0
(`facekd/head/chunked_loss.py`).

To add a margin, give it a row in the table `MARGINS` of facekd/margin_values.py, and its function here. One with a
parameter that no other margin has also needs a key in facekd/head/config.py.

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
from facekd.margin_values import Gradient, check_margin_value

NORM_RANGE = (0.001, 100.0)  # AdaFace clips embedding norms to this range before it computes their statistics
NORM_EPSILON = 0.001  # AdaFace adds this to the standard deviation of the norms


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
    _check_gradient(gradient)
    return _checked(cosine, labels)


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
    return _with_margin(cosine, labels, lambda target_B: _add_angle(target_B, m1, m2) - m3, gradient)


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
    cosine = _checked(cosine, labels)
    # Quality in [-1, 1]: how many 1 / h standard deviations the norm lies above the mean.
    norms_B = _norms_of("adaface", norms.detach(), cosine).clamp(*NORM_RANGE)
    batch_mean, batch_std = norm_statistics(norms_B)
    mean = batch_mean if norm_mean is None else norm_mean
    std = batch_std if norm_std is None else norm_std
    quality_B = ((norms_B - mean) / (std + NORM_EPSILON) * h).clamp(-1, 1)

    # The margin itself.
    def add_margin(target_B: Tensor) -> Tensor:
        return _add_small_angle(target_B, -margin * quality_B) - (margin + margin * quality_B)

    return _with_margin(cosine, labels, add_margin, gradient)


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
    cosine = _checked(cosine, labels)
    norms_B = _norms_of("magface", norms, cosine).clamp(norm_low, norm_high)
    margins_B = margin_low + (margin_high - margin_low) * (norms_B - norm_low) / (norm_high - norm_low)
    return _with_margin(cosine, labels, lambda target_B: _add_small_angle(target_B, margins_B), gradient)


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
        return _add_small_angle(target_B, _margins_of(target_B, margin, margins))

    return _with_margin(cosine, labels, add_margin, gradient)


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
    return _with_margin(cosine, labels, lambda target_B: target_B - _margins_of(target_B, margin, margins), gradient)


def _margins_of(target_B: Tensor, margin: float, margins: Tensor | None) -> Tensor:
    """Returns a margin for each row: those drawn, or the same one for all."""
    if margins is None:
        return torch.full_like(target_B, margin)
    if margins.shape != target_B.shape:
        raise InputError(f"{tuple(margins.shape)} margins for {len(target_B)} images: give one for each")
    return margins.detach().to(target_B.dtype)


def norm_statistics(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean and standard deviation of a batch of embedding norms as AdaFace does (clipped to 0.001 .. 100).

    Returns:
        Two 0-d tensors. The deviation is the unbiased one; for a single image it is 0.
    """
    norms = norms.detach().reshape(-1).clamp(*NORM_RANGE)
    deviation = norms.std() if norms.numel() > 1 else norms.new_zeros(())
    return norms.mean(), deviation


# The formulas of the table `facekd.margin_values.MARGINS`, which has everything else about each margin.
MARGIN_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "none": no_margin,
    "arcface": arcface,
    "cosface": cosface,
    "combined": combined,
    "adaface": adaface,
    "curricularface": curricularface,
    "magface": magface,
    "elastic_arcface": elastic_arcface,
    "elastic_cosface": elastic_cosface,
}

# What margins with `learns_norms` add to the loss of each image: (norms (B,)) and the margin's arguments -> (B,).
NORM_LOSSES: dict[str, Callable[..., Tensor]] = {"magface": magface_norm_loss}

# What margins with `changes_others` do to the cosines of other classes: (cosine (B, n), margined target (B, 1)) and the
# margin's arguments -> new cosines and their slopes. Elementwise, so that training does it chunk by chunk.
OTHER_COSINES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"curricularface": harder_others}


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


def _add_angle(target_B: Tensor, m1: float, m2: float) -> Tensor:
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


def _add_small_angle(target_B: Tensor, angle_B: Tensor) -> Tensor:
    """Computes cos(theta + angle), one angle in [-1, 1] per row: 1 below theta + angle = 0, falling on beyond pi."""
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    margined_B = target_B * cos_B - _sine(target_B) * sin_B
    margined_B = torch.where((angle_B < 0) & (target_B > cos_B), torch.ones_like(margined_B), margined_B)
    return torch.where((angle_B > 0) & (target_B < -cos_B), target_B - angle_B * sin_B, margined_B)


def _with_margin(cosine: Tensor, labels: Tensor, add_margin: Callable[[Tensor], Tensor], gradient: Gradient) -> Tensor:
    """Replaces the target cosines by `add_margin` of them, (B,) -> (B,), in a copy, with the slope asked for."""
    _check_gradient(gradient)
    cosine = _checked(cosine, labels)
    target_B = cosine.gather(1, labels[:, None]).squeeze(1)
    if gradient == "exact":
        margined_B = add_margin(target_B)
    else:  # adds exactly 0, with slope 1 by the cosine; whatever else the margin depends on keeps its slope
        margined_B = add_margin(target_B.detach()) + (target_B - target_B.detach())
    return cosine.scatter(1, labels[:, None], margined_B[:, None])


def _norms_of(name: str, norms: Tensor, cosine: Tensor) -> Tensor:
    """Returns one norm for each row of the cosines, (B,), in their type."""
    if norms.numel() != len(cosine):
        raise InputError(f"{name} needs one norm per image: {len(cosine)} labels but norms of {tuple(norms.shape)}")
    return norms.to(cosine.dtype).reshape(-1)


def _check_gradient(gradient: str) -> None:
    if gradient not in ("exact", "straight_through"):
        raise InputError(f"gradient = {gradient!r}: choose 'exact' or 'straight_through'")


def _checked(cosine: Tensor, labels: Tensor) -> Tensor:
    """Checks cosines and labels; returns the cosines in at least float32."""
    if cosine.ndim != 2 or not cosine.is_floating_point():
        raise InputError(f"cosines must be floating, of shape (B, C); found {cosine.dtype} of {tuple(cosine.shape)}")
    check_labels(labels, cosine.shape[1])
    if labels.shape[0] != cosine.shape[0]:
        raise InputError(f"{labels.shape[0]} labels for {cosine.shape[0]} rows of cosines")
    return cosine if cosine.dtype == torch.float64 else cosine.float()
