"""Runs the pass over the classes for `facekd/head/chunked_loss.py`: softmax sums forwards, gradients backwards.

Forward multiplies out a chunk of n classes, exponentiates it and folds it into a running maximum and a running sum per
row. Backward computes the same chunk again and turns it into that chunk's share of the gradients. Nothing here waits
for a GPU. Standardised logits need the spread of every row before, and correlations of probabilities need the sums of
every row: each adds one pass to forward and none to backward.

Where the classes are split over processes, each process makes this pass over its own classes for the rows of all
processes. Between the loop and the losses there is one exchange of maxima and one of sums (before it two of spreads and
after it one of correlations, where they are needed); backward begins with one sum of the incoming gradients. The
gradient of an embedding is then only this process's part, and `ClassShards.gather` adds the parts up; the gradient of a
weight is complete.

Suffixes name the dimensions of a tensor, so `score_Rn` is (R, n): B batch, D embedding, C classes (of this process),
n classes of a chunk, K terms, M sub-centres of a class, R rows of a product (B for each of its heads), 1 a dimension
kept for broadcasting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facekd.distributed import slices_of_ranks, sum_over_world
from facekd.head.class_relations import RELATIONS, Relation
from facekd.head.class_scores import ProductGradients, ProductScores
from facekd.head.loss_plan import Logits, Plan, row_spreads
from facekd.head.row_sums import RowSums, losses_of_sums, reduce_over_world
from facekd.head.score_gradients import ScoreGradients


class ChunkedLosses(torch.autograd.Function):
    """Computes losses (K, B) of the plan, an embedding per head, then a weight and a bias (or None) per product."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        products, embeddings = _unpack(plan, tensors)
        spreads = row_spreads(plan, products)
        logits = Logits(plan, spreads)
        rows = _sum_over_classes(plan, products, logits, embeddings[0])
        relations = _relate(plan, products, logits, rows)
        losses = losses_of_sums(plan, logits, rows, relations)

        # Backward needs the inputs, and what was summed by row.
        norms = [scores.norm_MC for scores in products]
        ctx.plan, ctx.rows, ctx.spreads, ctx.relations = plan, rows, spreads, relations
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, *norms)
        return torch.cat(losses, 1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_KB: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Each process asks for the losses of its own rows only, and each has a part of the answer for all rows.
        plan: Plan = ctx.plan
        grad_KB = sum_over_world(grad_KB.contiguous(), plan.world)
        with torch.autocast(grad_KB.device.type, enabled=False):
            inputs, norms = ctx.saved_tensors[: ctx.num_inputs], ctx.saved_tensors[ctx.num_inputs :]
            products, embeddings = _unpack(plan, inputs, norms)
            gradients = _empty_gradients(plan, products, len(embeddings), ctx.needs_input_grad[1:])
            _add_gradients(gradients, products, ScoreGradients(plan, grad_KB, ctx.rows, ctx.spreads, ctx.relations))
            return None, *_by_input(gradients, len(embeddings))


def _sum_over_classes(plan: Plan, products: Sequence[ProductScores], logits: Logits, embedding_BD: Tensor) -> RowSums:
    """Runs the pass that sums exponentials over all classes of all processes."""
    zero_B1 = embedding_BD.new_zeros(embedding_BD.shape[0], 1)
    standardized = {t.student for t in plan.terms if plan.distributions[t.student].is_standardized}
    rows = RowSums(
        [torch.full_like(zero_B1, -math.inf) for _ in plan.distributions],
        [zero_B1.clone() for _ in plan.distributions],
        [zero_B1.clone() for _ in plan.terms],
        {index: zero_B1.clone() for index in standardized},
        {k: zero_B1.clone() for k, t in enumerate(plan.terms) if t.kind == "kl" and t.student in standardized},
    )
    for start, stop in plan.chunks():
        scores = _scores_by_head(products, start, stop)
        logits_of = [logits.chunk(index, scores, start, zero_B1) for index in range(len(plan.distributions))]
        # Online softmax: where the maximum rises, what was summed so far is scaled down to the new one.
        exponentials, rescales = [], []
        for index, logits_Bn in enumerate(logits_of):
            maximum_B1 = torch.maximum(rows.maxima[index], logits_Bn.amax(1, keepdim=True))
            rescale_B1 = (rows.maxima[index] - maximum_B1).exp_()
            exponential_Bn = (logits_Bn - maximum_B1).exp_()
            rows.sums[index].mul_(rescale_B1).add_(exponential_Bn.sum(1, keepdim=True))
            rows.maxima[index] = maximum_B1
            exponentials.append(exponential_Bn)
            rescales.append(rescale_B1)
            if index in rows.own:
                rows.own[index].mul_(rescale_B1).add_((exponential_Bn * logits_Bn).sum(1, keepdim=True))
        # KL also needs the difference of logits, weighted by the teacher's exponentials.
        for number, term in enumerate(plan.terms):
            if term.kind == "kl" and term.teacher is not None:
                student_Bn, teacher_Bn = logits_of[term.student], logits_of[term.teacher]
                weighted_Bn = (teacher_Bn - student_Bn).mul_(exponentials[term.teacher])
                rows.differences[number].mul_(rescales[term.teacher]).add_(weighted_Bn.sum(1, keepdim=True))
                if number in rows.taught:
                    weighted_Bn = student_Bn * exponentials[term.teacher]
                    rows.taught[number].mul_(rescales[term.teacher]).add_(weighted_Bn.sum(1, keepdim=True))
    reduce_over_world(plan, rows)
    return rows


def _relate(plan: Plan, products: Sequence[ProductScores], logits: Logits, rows: RowSums) -> dict[int, Relation]:
    """Runs the pass that correlates probabilities, by term; {} where no term asks for it."""
    wanted = {number: term for number, term in enumerate(plan.terms) if term.kind in RELATIONS}
    if not wanted:
        return {}
    # The images of one process are a batch, as they are where the head is not split.
    like_B1, world = rows.sums[0], plan.world
    groups = [slice(0, len(like_B1))] if world.size == 1 else slices_of_ranks(len(like_B1), world)
    groups = [part for part in groups if part.stop > part.start]
    classes_11 = plan.classes_of_all(like_B1)
    found = {
        number: RELATIONS[term.kind](like_B1, classes_11, groups, term.student in rows.own)
        for number, term in wanted.items()
    }
    used = sorted({index for term in wanted.values() for index in (term.student, term.teacher) if index is not None})
    for scores in products:
        scores.is_known = True
    for start, stop in plan.chunks():
        scores = _scores_by_head(products, start, stop)
        chunks = {index: logits.chunk(index, scores, start, torch.zeros_like(like_B1)) for index in used}
        probabilities = {
            index: (logits_Bn - rows.maxima[index]).exp_().div_(rows.sums[index]) for index, logits_Bn in chunks.items()
        }
        for number, term in wanted.items():
            assert term.teacher is not None
            found[number].add_chunk(probabilities[term.student], probabilities[term.teacher], chunks[term.student])
    # What adds up over classes adds up over processes.
    widths = [relation.sums_BK.shape[1] for relation in found.values()]
    summed = sum_over_world(torch.cat([relation.sums_BK for relation in found.values()], 1), world)
    for relation, sums_BK in zip(found.values(), summed.split(widths, 1), strict=True):
        relation.sums_BK = sums_BK
    return found


def _add_gradients(
    gradients: Sequence[ProductGradients], products: Sequence[ProductScores], by_scores: ScoreGradients
) -> None:
    """Runs the backward pass: hands the gradient by the scores of each student to the inputs of its product."""
    for start, stop in by_scores.plan.chunks():
        chunks = [scores.chunk(start, stop) for scores in products]
        score_of = {
            head: part
            for scores, chunk in zip(products, chunks, strict=True)
            for head, part in scores.split(chunk.score_Rn).items()
        }
        found = by_scores.chunk(score_of, start)
        for gradient, scores, chunk in zip(gradients, products, chunks, strict=True):
            if gradient.is_needed:
                parts = [found[head] for head in scores.product.heads[: scores.product.num_students]]
                gradient.add_chunk(start, stop, parts[0] if len(parts) == 1 else torch.cat(parts), chunk)


def _by_input(gradients: Sequence[ProductGradients], num_embeddings: int) -> list[Tensor | None]:
    """Lists the gradients of the inputs of `ChunkedLosses`, in their order."""
    # Rows of a product back to the embeddings of its heads; a teacher's gets none.
    by_embedding: list[Tensor | None] = [None] * num_embeddings
    for gradient in gradients:
        if gradient.embedding_RD is not None:
            heads = gradient.scores.product.heads[: gradient.scores.product.num_students]
            for head, part in zip(heads, gradient.embedding_RD.tensor_split(len(heads)), strict=True):
                by_embedding[head] = part
    return [*by_embedding, *(g.weight_CD for g in gradients), *(g.bias_C for g in gradients)]


def _empty_gradients(
    plan: Plan, products: Sequence[ProductScores], num_embeddings: int, needs_grad: Sequence[bool]
) -> list[ProductGradients]:
    """Allocates the gradients that autograd asks for, by product; a weight that only teachers use gets none."""
    embedding_needs = needs_grad[:num_embeddings]
    weight_needs = needs_grad[num_embeddings : num_embeddings + len(products)]
    bias_needs = needs_grad[num_embeddings + len(products) :]
    return [
        ProductGradients(
            plan.world.size,
            scores,
            any(embedding_needs[head] for head in scores.product.heads),
            weight_needs[index] and scores.product.num_students > 0,
            bias_needs[index] and scores.product.num_students > 0,
        )
        for index, scores in enumerate(products)
    ]


def _unpack(
    plan: Plan, tensors: Sequence[Tensor | None], norms: Sequence[Tensor | None] | None = None
) -> tuple[list[ProductScores], Sequence[Tensor]]:
    """Sorts the inputs of `ChunkedLosses` into the scores of each product and the embeddings by head."""
    num_products = len(plan.products)
    num_heads = len(tensors) - 2 * num_products
    embeddings = [tensor for tensor in tensors[:num_heads] if tensor is not None]
    weights, biases = tensors[num_heads : num_heads + num_products], tensors[num_heads + num_products :]
    products = []
    for index, (product, weight_CD) in enumerate(zip(plan.products, weights, strict=True)):
        assert weight_CD is not None
        norm_MC = None if norms is None else norms[index]
        products.append(ProductScores(product, embeddings, weight_CD, biases[index], norm_MC))
    return products, embeddings


def _scores_by_head(products: Sequence[ProductScores], start: int, stop: int) -> dict[int, Tensor]:
    blocks = [scores.split(scores.chunk(start, stop).score_Rn) for scores in products]
    return {head: part for block in blocks for head, part in block.items()}
