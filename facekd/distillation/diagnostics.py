"""Measures how far student and teacher are apart: pure functions for logs and plots, never trained on.

Shapes: B batch, C classes, D the student's embedding size, E the teacher's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facekd.distillation.checks import at_least_float32, in_full_precision, pair, same_size, unit
from facekd.errors import InputError
from facekd.utils.wording import counted


@dataclass(frozen=True)
class HeadComparison:
    """Holds the comparison of two classifiers, row by row.

    Args:
        mean: mean over classes of the cosine between the two rows of a class.
        mean_abs: mean of its absolute value.
        std: its standard deviation over classes (population).
        max_abs: its largest absolute value.
        bias_distance: L2 distance between the biases; None unless both classifiers have one.
        bias_mean_abs: mean absolute difference between the biases.
        bias_cosine: cosine between the bias vectors.
        cosine_per_class: (C,), the cosines themselves, on the CPU.
    """

    mean: float
    mean_abs: float
    std: float
    max_abs: float
    bias_distance: float | None
    bias_mean_abs: float | None
    bias_cosine: float | None
    cosine_per_class: Tensor

    def scalars(self) -> dict[str, float]:
        """Returns everything but the cosines per class, for a log; without biases their numbers are left out."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "cosine_per_class")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@torch.no_grad()
@in_full_precision
def compare_classifiers(
    first_weight: Tensor,
    second_weight: Tensor,
    first_bias: Tensor | None = None,
    second_bias: Tensor | None = None,
    *,
    every: Callable[[Tensor], Tensor] = Tensor.cpu,
) -> HeadComparison:
    """Computes the cosine per class between two classifiers, as in the public code of arXiv:2201.06945.

    This makes sense only for heads on the same embedding space: a head and a copy trained further, or the student's and
    the teacher's where one started from the other or is shared. Two heads trained separately give cosines around 0 even
    if their embeddings differ by a rotation only; `relation_similarity` of their rows is not affected by that.

    Args:
        first_weight: (C, D).
        second_weight: (C, D).
        first_bias: (C,) or None.
        second_bias: (C,) or None.
        every: gathers the cosines of this process's classes to those (C,) of all, on the CPU.

    Raises:
        InputError: shapes that differ.
    """
    if first_weight.ndim != 2 or first_weight.shape != second_weight.shape:
        raise InputError(
            f"classifiers of shapes {tuple(first_weight.shape)} and {tuple(second_weight.shape)} cannot be compared "
            "row by row: both must be (C, D) with the same classes and embedding size"
        )
    # Rows, then biases where both have one.
    cosine_C = every((unit(at_least_float32(first_weight)) * unit(at_least_float32(second_weight))).sum(1))
    distance = mean_abs = bias_cosine = None
    if first_bias is not None and second_bias is not None:
        classes = first_weight.shape[:1]
        if first_bias.shape != classes or second_bias.shape != classes:
            raise InputError(
                f"biases of shapes {tuple(first_bias.shape)} and {tuple(second_bias.shape)} for "
                f"{counted(classes[0], 'class')}"
            )
        first_C, second_C = at_least_float32(first_bias), at_least_float32(second_bias)
        difference_C = first_C - second_C
        distance, mean_abs = float(difference_C.norm()), float(difference_C.abs().mean())
        bias_cosine = float((unit(first_C) * unit(second_C)).sum())
    return HeadComparison(
        mean=float(cosine_C.mean()),
        mean_abs=float(cosine_C.abs().mean()),
        std=float(cosine_C.std(correction=0)),
        max_abs=float(cosine_C.abs().max()),
        bias_distance=distance,
        bias_mean_abs=mean_abs,
        bias_cosine=bias_cosine,
        cosine_per_class=cosine_C,
    )


@torch.no_grad()
@in_full_precision
def embedding_similarity(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Computes the cosine (B,) between student and teacher embedding of each image.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).

    Raises:
        InputError: shapes or sizes that differ; `relation_similarity` takes any two sizes.
    """
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "embedding_cosine")
    return (unit(student_BD) * unit(teacher_BD)).sum(1)


@torch.no_grad()
@in_full_precision
def relation_similarity(student_embedding: Tensor, teacher_embedding: Tensor) -> float:
    """Computes linear CKA (Kornblith et al. 2019, arXiv:1905.00414) on directions: do both find the same images alike?

    || S'T ||^2 / (|| S'S || || T'T ||), with S and T the embeddings at length 1 minus their mean over the batch, and
    Frobenius norms. It lies in 0 to 1, and is 1 where the two differ by a rotation; D may differ from E. Small batches
    of large embeddings give high values (around 0.5 for unrelated ones at B = D): compare values of one batch
    size only.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).

    Returns:
        The similarity; 0 where all embeddings of one side are the same.

    Raises:
        InputError: shapes that differ, or fewer than 2 images.
    """
    student_BD, teacher_BE = pair(student_embedding, teacher_embedding, "embeddings")
    if len(student_BD) < 2:
        raise InputError("relation_similarity compares images with each other: give 2 or more")
    student_BD, teacher_BE = unit(student_BD), unit(teacher_BE)
    student_BD, teacher_BE = student_BD - student_BD.mean(0), teacher_BE - teacher_BE.mean(0)
    shared = (student_BD.T @ teacher_BE).square().sum()
    scale = (student_BD.T @ student_BD).norm() * (teacher_BE.T @ teacher_BE).norm()
    return float(shared / scale) if scale > 0 else 0.0
