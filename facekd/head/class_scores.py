"""Multiplies embeddings by class centres: scores forwards, and the gradients that follow from those of the scores.

A class may have M sub-centres (Sub-center ArcFace, Deng et al., ECCV 2020). Its row of the weight then holds them one
behind the other, (C, M D), its score is the best of its M scores, and the gradient flows to that sub-centre alone.

Suffixes name the dimensions of a tensor, so `score_Rn` is (R, n): B batch, D embedding, C classes (of this process),
M sub-centres of a class, n classes of a chunk, R rows of a product (B for each of its heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NORM_EPSILON = 1e-12  # that of torch.nn.functional.normalize


@dataclass
class Product:
    """Groups heads that have the same weight, so that one product per chunk serves them; students come first."""

    heads: list[int]
    num_students: int
    is_normalized: bool
    product_dtype: torch.dtype | None
    sub_centers: int = 1


class ChunkScores(NamedTuple):
    """Holds the scores of a chunk of classes.

    Attributes:
        score_Rn: of each class, that of its best sub-centre.
        winner_Rn: uint8, which sub-centre that is; None where classes have one centre.
        centres: by sub-centre its scores (R, n), and the centres (n, D) as they were multiplied, see `class_scores`.
    """

    score_Rn: Tensor
    winner_Rn: Tensor | None
    centres: list[tuple[Tensor, Tensor]]


def centre_columns(weight_CD: Tensor, sub_centers: int) -> tuple[Tensor, ...]:
    """Returns the first centre (C, D) of each class, its second, and so on, of a weight (C, M D); views."""
    return weight_CD.tensor_split(sub_centers, dim=1)


def best_scores(scores: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Finds the best sub-centre of each class.

    Args:
        scores: by sub-centre, (R, n).

    Returns:
        The best scores (R, n), and which sub-centre has them, uint8 (R, n), the first of equal ones; None where there
        is only one.
    """
    best_Rn, winner_Rn = scores[0], None
    for number, score_Rn in enumerate(scores[1:], start=1):
        is_better_Rn = score_Rn > best_Rn
        before_Rn = torch.zeros_like(best_Rn, dtype=torch.uint8) if winner_Rn is None else winner_Rn
        winner_Rn = before_Rn.masked_fill_(is_better_Rn, number)
        best_Rn = torch.maximum(best_Rn, score_Rn)
    return best_Rn, winner_Rn


def class_scores(
    embedding_RD: Tensor, centre_nD: Tensor, norm_n: Tensor | None, half: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Multiplies embeddings by class centres: for one chunk in training, for all classes in `MarginClassifier.cosine`.

    Args:
        embedding_RD: rows of unit length where the scores are to be cosines.
        centre_nD: class centres in the same dtype, not normalised.
        norm_n: lengths of the centres, by which the scores are divided; None where they are not to be.
        half: a half type for the product, or None.

    Returns:
        Scores (R, n) in the dtype of the embeddings, and the centres (n, D) as they were multiplied: normalised and
        rounded with a half type, otherwise as given.
    """
    if half is not None:
        # Rounding comes after normalising: the lengths of centres may lie outside the range of a half type.
        if norm_n is not None:
            centre_nD = (centre_nD / norm_n[:, None]).to(half)
        return _half_product(embedding_RD.to(half), centre_nD.to(half).T, embedding_RD.dtype), centre_nD
    score_Rn = embedding_RD @ centre_nD.T
    if norm_n is not None:
        score_Rn.div_(norm_n)  # R < D: cheaper than normalising the centres
    return score_Rn, centre_nD


class ProductScores:
    """Computes the scores (R, n) of one product chunk by chunk: cosines, or plain products with their bias."""

    def __init__(
        self,
        product: Product,
        embeddings: Sequence[Tensor],
        weight_CD: Tensor,
        bias_C: Tensor | None,
        norm_MC: Tensor | None = None,
    ) -> None:
        """Stacks the embeddings of all heads of the product.

        Args:
            product: which heads, and in which precision.
            embeddings: (B, D) by head.
            weight_CD: the weight they share, (C, M D) with M sub-centres.
            bias_C: its bias.
            norm_MC: lengths of the centres, where an earlier pass has computed them.
        """
        # One matrix of all heads' rows, so that one product serves them.
        self.product = product
        stacked = [embeddings[index] for index in product.heads]
        self.embedding_RD: Tensor = stacked[0] if len(stacked) == 1 else torch.cat(stacked)
        self.dtype: torch.dtype = self.embedding_RD.dtype
        self.weight_CD = weight_CD
        self.bias_C = bias_C
        self.is_known: bool = norm_MC is not None
        if norm_MC is None and product.is_normalized:
            norm_MC = weight_CD.new_empty(product.sub_centers, weight_CD.shape[0], dtype=self.dtype)
        self.norm_MC = norm_MC

    def chunk(self, start: int, stop: int) -> ChunkScores:
        """Computes the scores of the classes from `start` up to `stop`."""
        centres = []
        for number, column_nD in enumerate(centre_columns(self.weight_CD[start:stop], self.product.sub_centers)):
            centre_nD = column_nD.to(self.dtype)
            norm_n = None if self.norm_MC is None else self.norm_MC[number, start:stop]
            # The first pass over a chunk computes the lengths; backward finds them there.
            if norm_n is not None and not self.is_known:
                torch.linalg.vector_norm(centre_nD, dim=1, out=norm_n).clamp_(min=NORM_EPSILON)
            score_Rn, centre_nD = class_scores(self.embedding_RD, centre_nD, norm_n, self.product.product_dtype)
            if self.bias_C is not None:
                score_Rn += self.bias_C[start:stop]
            centres.append((score_Rn, centre_nD))
        return ChunkScores(*best_scores([score_Rn for score_Rn, _ in centres]), centres)

    def split(self, matrix: Tensor) -> dict[int, Tensor]:
        """Splits the rows of a (R, ...) tensor by head."""
        return dict(zip(self.product.heads, matrix.tensor_split(len(self.product.heads)), strict=True))


class ProductGradients:
    """Gathers the gradients of one product's inputs chunk by chunk; None where none is wanted. R: student rows."""

    def __init__(
        self, world_size: int, scores: ProductScores, of_embedding: bool, of_weight: bool, of_bias: bool
    ) -> None:
        # A loss is the mean over the rows of one process, and gradients of weights that every process has are averaged
        # over processes afterwards. The gradient of a weight that only this process has is divided here instead.
        self.world_size = world_size
        self.scores = scores
        # Students come first in a product, so their rows are its first rows.
        num_heads, num_students = len(scores.product.heads), scores.product.num_students
        self.rows: int = scores.embedding_RD.shape[0] // num_heads * num_students
        self.student_RD: Tensor = scores.embedding_RD[: self.rows]
        self.embedding_RD: Tensor | None = torch.zeros_like(self.student_RD) if of_embedding else None
        self.weight_CD: Tensor | None = torch.empty_like(scores.weight_CD) if of_weight else None
        self._columns = () if self.weight_CD is None else centre_columns(self.weight_CD, scores.product.sub_centers)
        self.bias_C: Tensor | None = torch.empty_like(scores.bias_C) if of_bias and scores.bias_C is not None else None

    @property
    def is_needed(self) -> bool:
        return not (self.embedding_RD is None and self.weight_CD is None and self.bias_C is None)

    def add_chunk(self, start: int, stop: int, grad_Rn: Tensor, chunk: ChunkScores) -> None:
        """Adds the gradients that follow from a chunk's gradient by the scores; overwrites both."""
        if self.bias_C is not None:
            self.bias_C[start:stop] = grad_Rn.sum(0).div_(self.world_size)
        for number, (score_Rn, centre_nD) in enumerate(chunk.centres):
            # A score is that of its best sub-centre, which alone gets the gradient.
            own_Rn = grad_Rn
            if chunk.winner_Rn is not None:
                own_Rn = grad_Rn.masked_fill(chunk.winner_Rn[: self.rows] != number, 0)
            self._add_centres(slice(start, stop), number, own_Rn, score_Rn, centre_nD)

    def _add_centres(self, classes: slice, number: int, grad_Rn: Tensor, score_Rn: Tensor, centre_nD: Tensor) -> None:
        """Adds the gradients by one centre of each class of a chunk; overwrites `grad_Rn` and `score_Rn`."""
        half, norm_MC = self.scores.product.product_dtype, self.scores.norm_MC
        # With w = |w| u, d score / d w = (e - score u) / |w| and d score / d e = w / |w|: dividing by |w| once serves
        # both products. With a half type the centres are normalised already, and |w| comes in afterwards.
        norm_n = None if norm_MC is None else norm_MC[number, classes]
        if norm_n is not None and half is None:
            grad_Rn.div_(norm_n)
        operand_Rn = grad_Rn if half is None else grad_Rn.to(half)
        # By the embedding: times the centres.
        if self.embedding_RD is not None:
            if half is None:
                self.embedding_RD.addmm_(operand_Rn, centre_nD)
            else:
                self.embedding_RD += _half_product(operand_Rn, centre_nD.to(half), self.embedding_RD.dtype)
        # By the centres: times the embeddings, written straight into its place where the types allow it.
        if self.weight_CD is None:
            return
        target_nD = self._columns[number][classes]
        if half is None and target_nD.dtype == grad_Rn.dtype:
            torch.mm(operand_Rn.T, self.student_RD, out=target_nD)
            weight_nD = target_nD
        else:
            weight_nD = _half_product(operand_Rn.T, self.student_RD.to(operand_Rn.dtype), grad_Rn.dtype)
        # A cosine does not change with the centre's length: take the radial part of the gradient away.
        if norm_n is not None:
            if half is not None:
                grad_Rn.div_(norm_n)
                weight_nD.div_(norm_n[:, None])
                columns = centre_columns(self.scores.weight_CD, self.scores.product.sub_centers)
                centre_nD = columns[number][classes].to(grad_Rn.dtype)
            radial_n = score_Rn[: self.rows].mul_(grad_Rn).sum(0).div_(norm_n)
            radial_n.masked_fill_(norm_n <= NORM_EPSILON, 0)  # the norm is held constant there
            weight_nD.addcmul_(centre_nD, radial_n[:, None], value=-1)
        if self.world_size > 1:
            weight_nD.div_(self.world_size)
        if weight_nD is not target_nD:
            target_nD.copy_(weight_nD)


def _half_product(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiplies two matrices in their half type; returns another type, on a GPU the float32 sums without rounding."""
    has_output_type = first.is_cuda and dtype == torch.float32 and first.dtype != dtype
    if has_output_type and not torch.is_grad_enabled():  # autograd has no derivative for this form
        return torch.mm(first, second, out_dtype=dtype)
    return (first @ second).to(dtype)
