"""Compares each student embedding with the teacher's embedding of the same image: L2, cosine, SimKD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from facekd.distillation.checks import at_least_float32, in_full_precision, pair, same_size, unit
from facekd.errors import InputError


@in_full_precision
def embedding_l2(
    student_embedding: Tensor, teacher_embedding: Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Computes the squared distance between directions of embeddings, sum_i || z_s/|z_s| - z_t/|z_t| ||^2 ("L2E").

    It is D of the general form of arXiv:2201.06945. The loss `kde` of its public code is "sum", which grows with the
    batch; "mean" divides by B, so that a weight holds for any batch size, and equals 2 `embedding_cosine`.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).
        reduction: "mean" or "sum", over the batch.

    Raises:
        InputError: shapes or sizes that differ, or another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction = {reduction!r}: choose 'mean' or 'sum', over the images of the batch")
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "embedding_l2")
    distance = (unit(student_BD) - unit(teacher_BD)).square().sum()
    return distance if reduction == "sum" else distance / len(student_BD)


@in_full_precision
def embedding_cosine(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Computes the mean of 1 - cos(z_s, z_t), in [0, 2]; D of arXiv:2201.06945, half the mean `embedding_l2`.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).

    Raises:
        InputError: shapes or sizes that differ.
    """
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "embedding_cosine")
    return (1 - (unit(student_BD) * unit(teacher_BD)).sum(1)).mean()


@in_full_precision
def simkd(
    student_embedding: Tensor, teacher_embedding: Tensor, projector: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Computes the mean squared difference of features, lengths included: mean (P(z_s) - z_t)^2 over B and E.

    SimKD (Chen et al. 2022, arXiv:2203.14001) aligns feature maps by a convolutional projector. Here P works on
    embeddings, and a linear P folds into the student's last layer. The student then predicts with the teacher's
    classifier. The mean is over all numbers, as the authors take it, so E times smaller than a squared distance.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).
        projector: maps (B, D) to (B, E), such as `nn.Linear(D, E)`; put its parameters in the optimiser. None where the
            student's embedding already has the teacher's size.

    Raises:
        InputError: shapes that differ, or sizes that differ after the projector.
    """
    pair(student_embedding, teacher_embedding, "embeddings")
    if projector is not None:
        student_embedding = projector(at_least_float32(student_embedding))
    student_BE, teacher_BE = same_size(student_embedding, teacher_embedding, "simkd")
    return functional.mse_loss(student_BE, teacher_BE)
