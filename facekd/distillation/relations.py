"""Distils the relations between the images of a batch, for embeddings of any two sizes.

Shapes: B batch, D the student's embedding size, E the teacher's, J corners of triangles in one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from facekd.distillation.checks import SMALLEST_NORM, in_full_precision, pair, unit
from facekd.errors import InputError

ANGLE_ELEMENTS = 2**25  # numbers in one intermediate result of rkd_angle


@in_full_precision
def rkd_distance(student_embedding: Tensor, teacher_embedding: Tensor, *, normalize: bool = False) -> Tensor:
    """Compares distances in a batch, in units of their mean (RKD-D, Park et al. 2019, arXiv:1904.05068, sec. 3.2).

    psi_ij = |z_i - z_j| / mu, with mu the mean over i != j. The loss is the Huber function (delta = 1) of psi_s -
    psi_t, averaged over all B^2 pairs (including i = j, where it is zero), as in published code, which uses weight 25.
    It ignores scale, rotation and shift of either side, and D may differ from E.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).
        normalize: compare directions only. The published form (False) also compares the lengths of embeddings, which a
            margin classifier leaves free.

    Raises:
        InputError: shapes that differ, or fewer than 2 images.
    """
    student_BD, teacher_BE = _relation_pair(student_embedding, teacher_embedding, "rkd_distance", 2, normalize)
    return functional.smooth_l1_loss(_relative_distances(student_BD), _relative_distances(teacher_BE))


@in_full_precision
def rkd_angle(student_embedding: Tensor, teacher_embedding: Tensor, *, normalize: bool = False) -> Tensor:
    """Compares the angles of triangles in a batch (RKD-A, Park et al. 2019, arXiv:1904.05068, sec. 3.2).

    psi_ijk = cos of the angle at z_j between z_i and z_k. The loss is the Huber function (delta = 1) of psi_s - psi_t,
    averaged over all B^3 triples (0 where two coincide), as in published code, which uses weight 50. It ignores scale,
    rotation and shift of either side, and D may differ from E.

    Time grows with B^3. Memory does not: large batches are computed in pieces, again in the backward pass.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).
        normalize: as in `rkd_distance`.

    Raises:
        InputError: shapes that differ, or fewer than 3 images.
    """
    student_BD, teacher_BE = _relation_pair(student_embedding, teacher_embedding, "rkd_angle", 3, normalize)
    batch = len(student_BD)
    widest = max(batch, student_BD.shape[1], teacher_BE.shape[1])
    step = max(1, ANGLE_ELEMENTS // (batch * widest))
    if step >= batch:
        return _angle_loss_of_corners(student_BD, teacher_BE, 0, batch) / batch**3
    total = student_BD.new_zeros(())
    for start in range(0, batch, step):
        part = checkpoint(
            _angle_loss_of_corners, student_BD, teacher_BE, start, step, use_reentrant=False, preserve_rng_state=False
        )
        assert isinstance(part, Tensor)
        total = total + part
    return total / batch**3


@in_full_precision
def sp(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Computes the similarity-preserving loss (Tung and Mori 2019, arXiv:1907.09682): || G_s - G_t ||^2 / B^2.

    G holds the inner products of all pairs in the batch, each row scaled to length 1; the norm is the Frobenius norm.
    It ignores scale and rotation of either side, and D may differ from E. Published code gives it weight 3000.

    Args:
        student_embedding: (B, D).
        teacher_embedding: (B, E).

    Raises:
        InputError: shapes that differ, or fewer than 2 images.
    """
    student_BD, teacher_BE = _relation_pair(student_embedding, teacher_embedding, "sp", 2, normalize=False)
    # Scaling a side to mean square 1 does not change the loss, and keeps products of long embeddings in range.
    student_BD, teacher_BE = _scaled(student_BD), _scaled(teacher_BE)
    return (unit(student_BD @ student_BD.T) - unit(teacher_BE @ teacher_BE.T)).square().mean()


def _relation_pair(student: Tensor, teacher: Tensor, name: str, least: int, normalize: bool) -> tuple[Tensor, Tensor]:
    student_BD, teacher_BE = pair(student, teacher, "embeddings")
    if len(student_BD) < least:
        raise InputError(
            f"loss.{name} relates the images of a batch to each other and needs {least} or more on each rank, "
            f"found {len(student_BD)}: raise the batch size"
        )
    return (unit(student_BD), unit(teacher_BE)) if normalize else (student_BD, teacher_BE)


def _relative_distances(embedding_BD: Tensor) -> Tensor:
    # Not by |a|^2 + |b|^2 - 2ab, which loses the distances of near neighbours to cancellation.
    distance_BB = torch.cdist(embedding_BD, embedding_BD, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance_BB.sum() / (len(embedding_BD) * (len(embedding_BD) - 1))
    return distance_BB / mean.clamp_min(SMALLEST_NORM)


def _angle_loss_of_corners(student_BD: Tensor, teacher_BE: Tensor, start: int, step: int) -> Tensor:
    """Sums the Huber function over the triples whose corner j is one of `step` images."""
    student_JBB = _corner_cosines(student_BD, start, step)
    teacher_JBB = _corner_cosines(teacher_BE, start, step)
    return functional.smooth_l1_loss(student_JBB, teacher_JBB, reduction="sum")


def _corner_cosines(embedding_BD: Tensor, start: int, step: int) -> Tensor:
    edge_JBD = unit(embedding_BD[None] - embedding_BD[start : start + step, None])
    return edge_JBD @ edge_JBD.mT


def _scaled(embedding_BD: Tensor) -> Tensor:
    return embedding_BD / embedding_BD.detach().square().mean().sqrt().clamp_min(SMALLEST_NORM)
