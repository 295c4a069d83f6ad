"""Distillation losses: pure functions of what the student and a frozen teacher say about the same images.

Every loss returns a 0-d tensor, computed in float32 (float64 where float64 is given) whatever autocast says. The
teacher's side is detached: no gradient ever reaches it. A loss is a mean over the batch unless its docstring says
otherwise. Embeddings come as the backbone gives them, not normalised.

Shapes: B batch, C classes, D the student's embedding size, E the teacher's. Equations, sources and what is our choice:
docs/method.md. Everything is imported from here; the definitions are in this file and, by subject, beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from facekd.distillation.centres import adadistill, adadistill_centres, arcdistill
from facekd.distillation.checks import DistillationError, at_least_float32, in_full_precision, pair, same_size, unit
from facekd.distillation.contrastive import ContrastiveDistillation, contrastive_loss
from facekd.distillation.diagnostics import (
    HeadComparison,
    compare_classifiers,
    embedding_similarity,
    relation_similarity,
)
from facekd.distillation.relations import rkd_angle, rkd_distance, sp
from facekd.distillation.weights import LossWeights

__all__ = [
    "ContrastiveDistillation",
    "DistillationError",
    "HeadComparison",
    "LossWeights",
    "adadistill",
    "adadistill_centres",
    "arcdistill",
    "compare_classifiers",
    "contrastive_loss",
    "embedding_cosine",
    "embedding_l2",
    "embedding_similarity",
    "kd_kl",
    "mix",
    "relation_similarity",
    "rkd_angle",
    "rkd_distance",
    "simkd",
    "sp",
]


# ---- logits ----------------------------------------------------------------------------------------------------------


@in_full_precision
def kd_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence between softened predictions (Hinton et al. 2015, arXiv:1503.02531, sec. 2).

    T^2 / B sum_i sum_c p_t(c) (log p_t(c) - log p_s(c)), p = softmax(logits / T): summed over classes, mean over the
    batch. The factor T^2 keeps the size of the gradient where T changes. This is H of TH-KD (arXiv:2201.06945, eq. 1),
    for the student's own head and, with the logits of the shared one, for the teacher's.

    Args:
        student_logits: (B, C), of a head on the student's embedding; without margin, as at inference.
        teacher_logits: (B, C), of the teacher, over the same classes in the same order.
        temperature: T > 0. Scaled cosines (scale 64) are sharper than the logits of a linear layer, where 4 is usual.

    Raises:
        DistillationError: other shapes, another number of classes, or a temperature that is not positive.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise DistillationError(f"temperature = {temperature}: give a positive number, 4 is usual")
    student_BC, teacher_BC = pair(student_logits, teacher_logits, "logits")
    if student_BC.shape[1] != teacher_BC.shape[1]:
        raise DistillationError(
            f"the student's head has {student_BC.shape[1]} classes and the teacher's {teacher_BC.shape[1]}: kd_kl "
            "compares class by class; train both on the same identities, or distil embeddings instead"
        )
    student_log_BC = functional.log_softmax(student_BC / temperature, dim=1)
    teacher_log_BC = functional.log_softmax(teacher_BC / temperature, dim=1)
    divergence = functional.kl_div(student_log_BC, teacher_log_BC, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mix(own: Tensor | None, shared: Tensor | None, a: float) -> Tensor:
    """(1 - a) own + a shared: how TH-KD joins two heads (Ben-Baruch et al. 2022, arXiv:2201.06945, eq. 1 and 2).

    Eq. 1 mixes the two `kd_kl`, eq. 2 the two cross-entropies, and the prediction mixes the two softmaxes.

    Args:
        own: from the student's own head, any shape; None only with a = 1, the student that has no head of its own.
        shared: from the teacher's frozen head on the student's embedding, same shape; None only with a = 0.
        a: in [0, 1]. At either end the other argument is not touched, so that it may be infinite or absent.

    Raises:
        DistillationError: a outside [0, 1], a missing argument, or shapes that differ.
    """
    if not 0 <= a <= 1:
        raise DistillationError(f"a = {a} is outside [0, 1]: 0 is the student's own head, 1 the shared one")
    if (own is None and a < 1) or (shared is None and a > 0):
        missing = "own" if own is None else "shared"
        raise DistillationError(f"a = {a} mixes two heads, but nothing was given for the {missing} one")
    if own is not None and shared is not None and own.shape != shared.shape:
        raise DistillationError(f"mix needs one shape, found own {tuple(own.shape)} and shared {tuple(shared.shape)}")
    if own is None or a == 1:
        assert shared is not None
        return shared
    if shared is None or a == 0:
        return own
    return (1 - a) * own + a * shared


# ---- one embedding against one embedding -----------------------------------------------------------------------------


@in_full_precision
def embedding_l2(
    student_embedding: Tensor, teacher_embedding: Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Squared distance between the directions of embeddings: sum_i || z_s/|z_s| - z_t/|z_t| ||^2, "L2E".

    D of the general form of arXiv:2201.06945. The loss `kde` of its public code is "sum", which grows with the batch;
    "mean" divides by B, so that a weight holds for any batch size, and is 2 `embedding_cosine`.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).
        reduction: "mean" or "sum", over the batch.

    Raises:
        DistillationError: shapes or sizes that differ, or another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise DistillationError(f"reduction = {reduction!r}: choose 'mean' or 'sum', over the images of the batch")
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "embedding_l2")
    distance = (unit(student_BD) - unit(teacher_BD)).square().sum()
    return distance if reduction == "sum" else distance / len(student_BD)


@in_full_precision
def embedding_cosine(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean of 1 - cos(z_s, z_t), in [0, 2]; D of the general form of arXiv:2201.06945, half the mean `embedding_l2`.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).

    Raises:
        DistillationError: shapes or sizes that differ.
    """
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "embedding_cosine")
    return (1 - (unit(student_BD) * unit(teacher_BD)).sum(1)).mean()


@in_full_precision
def simkd(
    student_embedding: Tensor, teacher_embedding: Tensor, projector: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean squared difference of features, lengths included: mean (P(z_s) - z_t)^2 over B and E.

    SimKD (Chen et al. 2022, arXiv:2203.14001), which aligns feature maps by a convolutional projector; here P works on
    embeddings and a linear one folds into the student's last layer. The student then predicts with the teacher's
    classifier. Scale: the authors' mean over all numbers, so E times less than a squared distance.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).
        projector: maps (B, D) to (B, E), such as `nn.Linear(D, E)`; its parameters belong in the optimiser. None where
            the student's embedding has the teacher's size already.

    Raises:
        DistillationError: shapes that differ, or sizes that differ after the projector.
    """
    pair(student_embedding, teacher_embedding, "embeddings")
    if projector is not None:
        student_embedding = projector(at_least_float32(student_embedding))
    student_BE, teacher_BE = same_size(student_embedding, teacher_embedding, "simkd")
    return functional.mse_loss(student_BE, teacher_BE)
