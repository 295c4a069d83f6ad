"""Margins: pure functions that make the target cosine harder, before scaling.

Every margin takes cosines (B, C) and labels (B,), replaces the one cosine of each row that belongs to the row's
label, and returns a new (B, C) tensor; multiply by the scale and hand it to cross-entropy. Nothing is modified in
place. Values and gradients are computed in float32 (float64 where float64 is given), whatever autocast says.

Shapes: B batch, C classes. theta is the angle between embedding and class centre, `cosine = cos(theta)`.
Equations, guards and gradients are derived in docs/method.md.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.margin_values import Gradient, check_margin_value

NORM_RANGE = (0.001, 100.0)  # AdaFace clips embedding norms to this before it looks at their statistics
NORM_EPSILON = 0.001  # AdaFace adds this to the standard deviation of the norms


def no_margin(cosine: Tensor, labels: Tensor) -> Tensor:
    """Leave every cosine as it is: the normalised softmax (NormFace, Wang et al. 2017, arXiv:1704.06369).

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C); checked though not used, so that a wrong label never passes silently.

    Returns:
        (B, C), a float32 copy of half-precision cosines, otherwise `cosine` itself.

    Raises:
        InputError: wrong shape or dtype, or a label out of range.
    """
    return _checked(cosine, labels)


def arcface(cosine: Tensor, labels: Tensor, margin: float = 0.5, *, gradient: Gradient = "exact") -> Tensor:
    """Additive angular margin: the target becomes cos(theta + margin) (Deng et al. 2019, arXiv:1801.07698, eq. 3).

    Past theta + margin > pi the cosine would rise again, so the target is cos(theta) - margin sin(margin) there, the
    guard of the authors' first code: lower than -1, and falling with theta to the end. (Above 2.33 that guard
    would jump upwards; cos(theta) - (1 - cos(margin)) replaces it.)

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: radians, in [0, pi).
        gradient: "exact" differentiates the formula. "straight_through" leaves the value and passes the gradient of the
            target through as if there were no margin, as insightface's arcface_torch does (its arccos and cos run
            without autograd); for reproducing its results.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("arcface", "margin", margin)
    return combined(cosine, labels, 1.0, margin, 0.0, gradient=gradient)


def cosface(cosine: Tensor, labels: Tensor, margin: float = 0.35, *, gradient: Gradient = "exact") -> Tensor:
    """Additive cosine margin: the target becomes cos(theta) - margin (Wang et al. 2018, arXiv:1801.09414, eq. 4).

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        margin: in units of cosine, in [0, 2].
        gradient: accepted so that margins are interchangeable; both choices are the same here, as the slope is 1.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("cosface", "margin", margin)
    return combined(cosine, labels, 1.0, 0.0, margin, gradient=gradient)


def combined(
    cosine: Tensor, labels: Tensor, m1: float = 1.0, m2: float = 0.5, m3: float = 0.0, *, gradient: Gradient = "exact"
) -> Tensor:
    """The combined margin: the target becomes cos(m1 theta + m2) - m3 (Deng et al. 2019, arXiv:1801.07698, eq. 4).

    (1, m, 0) is ArcFace, (1, 0, m) CosFace, (m, 0, 0) the multiplicative margin of SphereFace. All three are always
    applied together. Past m1 theta + m2 > pi, with phi = pi - (pi - m2) / m1 (the angle the margin has added by then),
    the target is cos(theta) - max(phi sin(phi), 1 - cos(phi)) - m3, which is ArcFace's guard when m1 = 1.

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
    cosine = _checked(cosine, labels)
    target_B = cosine.gather(1, labels[:, None]).squeeze(1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "exact"):
        margined_B = _add_angle(target_B, m1, m2) - m3
    return _replace_target(cosine, labels, target_B, margined_B, gradient)


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
    """Quality-adaptive margin: easy images get another margin than hard ones (Kim et al. 2022, arXiv:2204.00964).

    The embedding's norm stands for image quality: g = clip(h (norm - mean) / (std + 0.001), -1, 1), and the target
    becomes cos(theta + g_angle) - g_add with g_angle = -margin g and g_add = margin g + margin, the names of the paper.
    No gradient flows through the norm.

    Where theta - margin g < 0 the angle is taken as 0, as the authors do (the target is flat there). Where it passes pi
    they hold it at pi, which leaves those images no gradient; here `arcface`'s guard continues downwards instead.

    Args:
        cosine: (B, C), floating.
        labels: (B,), int64, each in [0, C).
        norms: (B,) or (B, 1), L2 norms of the embeddings before normalisation.
        margin: in [0, 1]; radians in the angular part, cosine in the additive part.
        h: concentration, > 0: how many standard deviations (1 / h) span the range of g.
        norm_mean: running mean of the norms, see `norm_statistics`; None takes that of this batch.
        norm_std: running standard deviation of the norms; None takes that of this batch.
        gradient: as in `arcface`.

    Returns:
        (B, C) margined cosines, float32 or float64.

    Raises:
        InputError: wrong shape or dtype, a label out of range, or a margin out of range.
    """
    check_margin_value("adaface", "margin", margin)
    check_margin_value("adaface", "h", h)
    cosine = _checked(cosine, labels)
    if norms.numel() != labels.numel():
        raise InputError(f"adaface needs one norm an image: {labels.numel()} labels but norms of {tuple(norms.shape)}")

    norms_B = norms.detach().to(cosine.dtype).reshape(-1).clamp(*NORM_RANGE)
    batch_mean, batch_std = norm_statistics(norms_B)
    mean = batch_mean if norm_mean is None else norm_mean
    std = batch_std if norm_std is None else norm_std
    quality_B = ((norms_B - mean) / (std + NORM_EPSILON) * h).clamp(-1, 1)

    target_B = cosine.gather(1, labels[:, None]).squeeze(1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "exact"):
        margined_B = _add_small_angle(target_B, -margin * quality_B) - (margin + margin * quality_B)
    return _replace_target(cosine, labels, target_B, margined_B, gradient)


def norm_statistics(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a batch of embedding norms as AdaFace takes them (clipped to 0.001 .. 100).

    Returns:
        Two 0-d tensors. The deviation is the unbiased one; of a single image it is 0.
    """
    norms = norms.detach().reshape(-1).clamp(*NORM_RANGE)
    deviation = norms.std() if norms.numel() > 1 else norms.new_zeros(())
    return norms.mean(), deviation


# The one table of names. "combined" and "adaface" take more arguments than (cosine, labels, margin).
MARGINS: dict[str, Callable[..., Tensor]] = {
    "none": no_margin,
    "arcface": arcface,
    "cosface": cosface,
    "combined": combined,
    "adaface": adaface,
}


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check labels against the number of classes, as a wrong one would train silently or kill a GPU's context.

    For labels on a GPU this waits for the device, except within `labels_checked`.

    Args:
        labels: (B,), int64.
        num_classes: C.

    Raises:
        InputError: not one-dimensional int64, or a label outside [0, C), naming its position in the batch.
    """
    if not isinstance(labels, Tensor):
        raise InputError(f"labels must be an int64 tensor, found a {type(labels).__name__}: use torch.tensor(labels)")
    if labels.dtype != torch.int64:
        raise InputError(f"labels must be int64, found {labels.dtype}: convert them with labels.long()")
    if labels.ndim != 1:
        raise InputError(f"labels must have the shape (B,), found {tuple(labels.shape)}")
    known_below = _known_below.get()
    if known_below is not None and known_below <= num_classes:
        return
    wrong_B = (labels < 0) | (labels >= num_classes)
    if bool(wrong_B.any()):
        position = int(wrong_B.nonzero()[0])
        raise InputError(
            f"label {int(labels[position])} at position {position} of the batch is outside [0, {num_classes}) "
            f"({int(wrong_B.sum())} of {labels.numel()} labels are): the classifier has {num_classes} classes; "
            "make it as wide as the data set's num_classes, or mend the labels"
        )


# Within the contexts below: labels are known to be in [0, this).
_known_below: ContextVar[int | None] = ContextVar("known_below", default=None)


@contextlib.contextmanager
def labels_checked(labels: Tensor, num_classes: int) -> Iterator[None]:
    """Check labels here, on the host they come from; within the block no check of them waits for a GPU again.

    Everything in the block whose number of classes is at least this takes the range of its labels on trust, so it is to
    be given these labels, or copies or parts of them, and no others.

    Args:
        labels: (B,), int64, on the CPU.
        num_classes: C.

    Raises:
        InputError: see `check_labels`.
    """
    check_labels(labels, num_classes)
    with labels_known_below(num_classes):
        yield


@contextlib.contextmanager
def labels_known_below(num_classes: int) -> Iterator[None]:
    """`labels_checked` without the check, for labels that are right as they are made, such as zeros."""
    token = _known_below.set(num_classes)
    try:
        yield
    finally:
        _known_below.reset(token)


class _SineOfCosine(torch.autograd.Function):
    """sin(theta) from cos(theta), theta in [0, pi], with a slope that stays finite at cos = +-1.

    The value is exact. The slope -cos / sin is infinite at +-1; it is held at what it is one rounding step inside
    (sin = sqrt(epsilon)), so it is exact at every other representable cosine. Cosines a rounding error beyond +-1 count
    as +-1. The backward is itself differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(cosine: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The product loses nothing near +-1, where 1 - cosine^2 cancels.
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
    """cos(m1 theta + m2), continued downwards past pi."""
    if m1 == 1 and m2 == 0:
        return target_B
    if m1 == 1:
        margined_B = target_B * math.cos(m2) - _sine(target_B) * math.sin(m2)
    else:
        # atan2 stays accurate where acos is steep, and its slope finite because that of the sine is.
        margined_B = torch.cos(m1 * torch.atan2(_sine(target_B), target_B) + m2)
    last_angle = (math.pi - m2) / m1  # here the margined angle reaches pi
    phi = math.pi - last_angle
    guard_B = target_B - max(phi * math.sin(phi), 1 - math.cos(phi))
    return torch.where(target_B > math.cos(last_angle), margined_B, guard_B)


def _add_small_angle(target_B: Tensor, angle_B: Tensor) -> Tensor:
    """cos(theta + angle) for an angle a row in [-1, 1]: 1 below theta + angle = 0, continued downwards past pi."""
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    margined_B = target_B * cos_B - _sine(target_B) * sin_B
    margined_B = torch.where((angle_B < 0) & (target_B > cos_B), torch.ones_like(margined_B), margined_B)
    return torch.where((angle_B > 0) & (target_B < -cos_B), target_B - angle_B * sin_B, margined_B)


def _replace_target(cosine: Tensor, labels: Tensor, target_B: Tensor, margined_B: Tensor, gradient: Gradient) -> Tensor:
    if gradient == "straight_through":
        margined_B = margined_B.detach() + (target_B - target_B.detach())  # adds exactly 0, with slope 1
    elif gradient != "exact":
        raise InputError(f"gradient = {gradient!r}: choose 'exact' or 'straight_through'")
    return cosine.scatter(1, labels[:, None], margined_B[:, None])


def _checked(cosine: Tensor, labels: Tensor) -> Tensor:
    """The cosines in at least float32, once they and the labels have been found fit."""
    if cosine.ndim != 2 or not cosine.is_floating_point():
        raise InputError(f"cosines must be floating, of shape (B, C); found {cosine.dtype} of {tuple(cosine.shape)}")
    check_labels(labels, cosine.shape[1])
    if labels.shape[0] != cosine.shape[0]:
        raise InputError(f"{labels.shape[0]} labels for {cosine.shape[0]} rows of cosines")
    return cosine if cosine.dtype == torch.float64 else cosine.float()
