"""Distils through the teacher's class centres, frozen (ArcDistill) or moving (AdaDistill).

Both losses are the margin cross-entropy of `facekd/head/chunked_loss.py`, which training computes too.

Shapes: B batch, C classes, D embedding, the same for student and teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facekd.distillation.checks import in_full_precision, same_size, unit
from facekd.errors import InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.loss_terms import CrossEntropy, LazyLogits
from facekd.labels import check_labels
from facekd.margins.fixed import arcface
from facekd.utils.wording import counted

Margin = Callable[[Tensor, Tensor], Tensor]


@in_full_precision
def arcdistill(
    student_embedding: Tensor, labels: Tensor, centres: Tensor, *, margin: Margin = arcface, scale: float = 64.0
) -> Tensor:
    """Computes the margin cross-entropy of the student's embeddings on the teacher's frozen class centres.

    This is ArcDistill, a baseline of AdaDistill (Boutros et al. 2024, arXiv:2407.01332): the mean of -log softmax at
    the label of scale margin(cos(w, z_s)). It is also CE(p_s^TH, y) of TH-KD's eq. 2 (arXiv:2201.06945) with a margin,
    that is TH-KD with a = 1 and no KL. It is not zero where the student's embedding equals the teacher's.

    Args:
        student_embedding: (B, D).
        labels: (B,), int64.
        centres: (C, D), rows of the teacher's classifier, of any length; no gradient reaches them.
        margin: (cosine (B, C), labels) -> cosine, such as `functools.partial(cosface, margin=0.35)`, or
            `margins.no_margin`.
        scale: factor on the margined cosines.

    Raises:
        InputError: shapes or sizes that differ, or labels out of range.
    """
    _check_centres(student_embedding, centres, "arcdistill")
    logits = LazyLogits(
        student_embedding, centres.detach(), scale, margin=lambda cosine_B1, labels_B, _: margin(cosine_B1, labels_B)
    )
    return chunked_losses([CrossEntropy(logits)], labels)[0]


@in_full_precision
def adadistill(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    centres: Tensor,
    *,
    margin: Margin = arcface,
    scale: float = 64.0,
) -> tuple[Tensor, Tensor]:
    """Computes `arcdistill` on class centres that move with the teacher's embeddings (AdaDistill, Boutros et al. 2024).

    arXiv:2407.01332. First the centres of the batch's classes move, see `adadistill_centres`; the loss is computed on
    the moved ones. Nothing is written: keep the new rows with `centres.index_copy_(0, labels, rows)`. Processes that
    train together move the centres by the rows of all of them: call `adadistill_centres` on gathered embeddings, then
    `arcdistill`.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).
        labels: (B,), int64.
        centres: (C, D); the teacher's classifier, or any short vectors where it is unknown (the authors: N(0, 0.01)),
            because a centre that does not point towards its images is replaced by the first of them.
        margin: as in `arcdistill`.
        scale: as in `arcdistill`.

    Returns:
        The loss, and the rows (B, D) from `adadistill_centres`.

    Raises:
        InputError: shapes or sizes that differ, or labels out of range.
    """
    rows_BD = adadistill_centres(student_embedding, teacher_embedding, labels, centres)
    moved_CD = centres.detach().index_copy(0, labels, rows_BD)
    return arcdistill(student_embedding, labels, moved_CD, margin=margin, scale=scale), rows_BD


@torch.no_grad()
@in_full_precision
def adadistill_centres(student_embedding: Tensor, teacher_embedding: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Computes where AdaDistill (Boutros et al. 2024, arXiv:2407.01332) moves the class centres of a batch.

    w_y <- alpha w_y + (1 - alpha) f_t, alpha = clamp(cos(f_s, f_t) clamp(cos(w_y, f_t), 0, 1), 0, 1), with f_t the
    teacher's embedding at length 1. So a student that follows its teacher learns from steady centres, and one that does
    not learns from single images. A class with several images in the batch moves to the mean of where each image would
    move it (our choice: the authors' code keeps whichever was written last).

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, D).
        labels: (B,), int64.
        centres: (C, D), not normalised.

    Returns:
        (B, D): row i is the new centre of class `labels[i]`, the same for all images of a class; dtype of `centres`.

    Raises:
        InputError: shapes or sizes that differ, or labels out of range.
    """
    # Checks, and directions.
    student_BD, teacher_BD = same_size(student_embedding, teacher_embedding, "adadistill")
    _check_centres(student_BD, centres, "adadistill")
    check_labels(labels, len(centres))
    _check_batch(labels, student_BD)
    student_BD, teacher_BD = unit(student_BD), unit(teacher_BD)
    # Where each image would move the centre of its class.
    old_BD = centres.detach()[labels].to(student_BD.dtype)
    to_teacher_B = (student_BD * teacher_BD).sum(1)
    to_centre_B = (unit(old_BD) * teacher_BD).sum(1).clamp(0, 1)
    keep_B1 = (to_teacher_B * to_centre_B).clamp(0, 1)[:, None]
    moved_BD = keep_B1 * old_BD + (1 - keep_B1) * teacher_BD
    # The mean over the images of a class: by a product, because a scatter on a GPU adds in another order at each run.
    same_BB = labels[:, None] == labels[None, :]
    mean_BD = same_BB.to(moved_BD.dtype) @ moved_BD / same_BB.sum(1, keepdim=True)
    first_of_class_B = same_BB.int().argmax(1)
    return mean_BD[first_of_class_B].to(centres.dtype)


def _check_centres(embedding: Tensor, centres: Tensor, name: str) -> None:
    if embedding.ndim != 2 or not embedding.is_floating_point():
        raise InputError(
            f"loss.{name} takes floating embeddings of shape (B, D), "
            f"found {embedding.dtype} of {tuple(embedding.shape)}"
        )
    if centres.ndim != 2 or not centres.is_floating_point():
        raise InputError(
            f"loss.{name} takes floating class centres of shape (C, D), found {centres.dtype} of {tuple(centres.shape)}"
        )
    if embedding.shape[1] != centres.shape[1]:
        raise InputError(
            f"the student's embedding has {counted(embedding.shape[1], 'value')} and the teacher's class centres "
            f"{centres.shape[1]}: loss.{name} needs one size; give the student a projection "
            f"({embedding.shape[1]} to {centres.shape[1]})"
        )


def _check_batch(labels: Tensor, embedding_BD: Tensor) -> None:
    if len(labels) != len(embedding_BD):
        raise InputError(f"{counted(len(labels), 'label')} for {counted(len(embedding_BD), 'embedding')}")
