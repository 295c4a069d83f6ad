"""Computes the correlations of DIST, image by image and class by class, in a second pass over the classes.

Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536. Both compare the probabilities p
of the student with q of the teacher by Pearson's correlation, which ignores their scale and their mean:

- between classes, for each image, over all classes: 1 - corr(p_i, q_i), of which the loss takes the mean;
- within a class, for each class, over the images of a batch: 1 - the mean over classes of corr(p_c, q_c).

They need final probabilities, so the softmax sums of the first pass. Where classes are split over processes, the sums
over classes are added up over the processes; the columns of a class lie whole on its own process, where all rows are.
The images of a batch are those of one process, split head or not, as in every other loss that compares images.

Suffixes name the dimensions of a tensor: B batch, n classes of a chunk, K sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOISE = 16  # a vector varies if it does so by more than this many times the rounding of its numbers


def _if_varying(centred: Tensor, square: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Returns 1 / the length of what varies, 0 for what is constant up to rounding, and whether it varies.

    Args:
        centred: dtype of the numbers.
        square: squared length of the centred vector.
        size: squared length of the vector itself.
    """
    varies = square > (NOISE * torch.finfo(centred.dtype).eps) ** 2 * size
    return torch.where(varies, torch.where(varies, square, 1.0).rsqrt(), 0.0), varies


class InterClass:
    """Compares the classes of each image.

    Attributes:
        sums_BK: sums over classes: p' p', q' q', p' q' with p' = p - 1 / C; where logits are standardised also
            p q' s and p p' s, with the student's logits s.
    """

    def __init__(self, like_B1: Tensor, classes_11: Tensor, groups: Sequence[slice], is_standardized: bool) -> None:
        """Starts with empty sums.

        Args:
            like_B1: says how many rows, and on which device.
            classes_11: number of classes of all processes.
            groups: rows of each process.
            is_standardized: whether the student's logits are.
        """
        self.classes_11 = classes_11
        self.is_standardized = is_standardized
        self.sums_BK: Tensor = like_B1.new_zeros(len(like_B1), 5 if is_standardized else 3)

    def add_chunk(self, student_Bn: Tensor, teacher_Bn: Tensor, logits_Bn: Tensor) -> None:
        """Adds probabilities of the student and the teacher, with the student's logits."""
        p_Bn, q_Bn = student_Bn - 1 / self.classes_11, teacher_Bn - 1 / self.classes_11
        parts = [p_Bn.square(), q_Bn.square(), p_Bn * q_Bn]
        if self.is_standardized:
            weighted_Bn = student_Bn * logits_Bn
            parts += [weighted_Bn * q_Bn, weighted_Bn * p_Bn]
        self.sums_BK += torch.stack([part_Bn.sum(1) for part_Bn in parts], 1)

    def _correlation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns correlation, 1 / (|p'| |q'|) and correlation / |p'|^2, (B, 1) each; 0 where p or q is constant."""
        pp_B1, qq_B1, pq_B1 = self.sums_BK[:, :3].split(1, 1)
        p_B1, p_varies_B1 = _if_varying(pp_B1, pp_B1, pp_B1 + 1 / self.classes_11)
        q_B1, q_varies_B1 = _if_varying(qq_B1, qq_B1, qq_B1 + 1 / self.classes_11)
        both_B1 = torch.where(p_varies_B1 & q_varies_B1, p_B1 * q_B1, 0.0)
        return pq_B1 * both_B1, both_B1, pq_B1 * both_B1 * p_B1.square()

    def losses(self) -> Tensor:
        """Returns (B, 1)."""
        return 1 - self._correlation()[0]

    def gradient(self, student_Bn: Tensor, teacher_Bn: Tensor, grad_B1: Tensor) -> Tensor:
        """Returns the gradient (B, n) by the student's logits, from that of the losses."""
        # The mean under p of the gradient by p is 0, so the softmax takes nothing more away.
        _, both_B1, own_B1 = self._correlation()
        by_p_Bn = (teacher_Bn - 1 / self.classes_11).mul_(both_B1)
        by_p_Bn -= (student_Bn - 1 / self.classes_11).mul_(own_B1)
        return by_p_Bn.mul_(student_Bn).mul_(-grad_B1)

    def along_logits(self, grad_B1: Tensor, mean_B1: Tensor) -> Tensor:
        """Returns (B, 1): the sum over classes of `gradient` times the logits."""
        _, both_B1, own_B1 = self._correlation()
        return (self.sums_BK[:, 3:4] * both_B1 - self.sums_BK[:, 4:5] * own_B1) * -grad_B1


class IntraClass:
    """Compares the images of each class; its interface is that of `InterClass`.

    Attributes:
        sums_BK: sums over classes: the correlations of the row's process, and p g where g is the gradient of their sum
            by p; where logits are standardised also p g s, with the student's logits s.
    """

    def __init__(self, like_B1: Tensor, classes_11: Tensor, groups: Sequence[slice], is_standardized: bool) -> None:
        """Starts with empty sums, see `InterClass`."""
        self.classes_11 = classes_11
        self.groups = groups
        self.is_standardized = is_standardized
        self.sums_BK: Tensor = like_B1.new_zeros(len(like_B1), 3 if is_standardized else 2)

    def add_chunk(self, student_Bn: Tensor, teacher_Bn: Tensor, logits_Bn: Tensor) -> None:
        """Adds the correlations of a chunk's classes, and what their gradient needs."""
        for rows in self.groups:
            correlation_n, weighted_Bn = _columns(student_Bn[rows], teacher_Bn[rows])
            self.sums_BK[rows, 0] += correlation_n.sum()
            self.sums_BK[rows, 1] += weighted_Bn.sum(1)
            if self.is_standardized:
                self.sums_BK[rows, 2] += weighted_Bn.mul_(logits_Bn[rows]).sum(1)

    def losses(self) -> Tensor:
        """Returns (B, 1): for every row the loss of its process."""
        return 1 - self.sums_BK[:, :1] / self.classes_11

    def gradient(self, student_Bn: Tensor, teacher_Bn: Tensor, grad_B1: Tensor) -> Tensor:
        """Returns the gradient (B, n) by the student's logits, from that of the losses."""
        found = [_columns(student_Bn[rows], teacher_Bn[rows])[1] for rows in self.groups]
        weighted_Bn = found[0] if len(found) == 1 else torch.cat(found)
        return weighted_Bn.addcmul_(student_Bn, self.sums_BK[:, 1:2], value=-1).mul_(self._of_groups(grad_B1))

    def along_logits(self, grad_B1: Tensor, mean_B1: Tensor) -> Tensor:
        """Returns (B, 1): the sum over classes of `gradient` times the logits, whose mean under p is `mean_B1`."""
        return (self.sums_BK[:, 2:3] - self.sums_BK[:, 1:2] * mean_B1) * self._of_groups(grad_B1)

    def _of_groups(self, grad_B1: Tensor) -> Tensor:
        """Returns (B, 1): the gradient by the sum of a process's correlations, which every row's loss contains."""
        summed = [grad_B1[rows].sum().expand(len(grad_B1[rows]), 1) for rows in self.groups]
        return torch.cat(summed) / -self.classes_11


def _columns(p_bn: Tensor, q_bn: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the correlation (n,) of each column, and p times its gradient by p (b, n).

    Columns are scaled to a largest value of 1 first, which changes neither: squares of small probabilities would be 0.
    """
    p_bn, q_bn = (rows / rows.amax(0).clamp(min=torch.finfo(rows.dtype).tiny) for rows in (p_bn, q_bn))
    p_centred_bn, q_centred_bn = p_bn - p_bn.mean(0), q_bn - q_bn.mean(0)
    p_n, p_varies_n = _if_varying(p_bn, p_centred_bn.square().sum(0), p_bn.square().sum(0))
    q_n, q_varies_n = _if_varying(q_bn, q_centred_bn.square().sum(0), q_bn.square().sum(0))
    both_n = torch.where(p_varies_n & q_varies_n, p_n * q_n, 0.0)
    correlation_n = (p_centred_bn * q_centred_bn).sum(0) * both_n
    gradient_bn = q_centred_bn.mul_(both_n).sub_(p_centred_bn.mul_(correlation_n * p_n.square()))
    return correlation_n, gradient_bn.mul_(p_bn)


Relation = InterClass | IntraClass
RELATIONS: dict[str, type[Relation]] = {"inter class": InterClass, "intra class": IntraClass}
