"""Runs the pass over the classes for `facekd/head/chunked_loss.py`: softmax sums forwards, gradients backwards.

Forward multiplies out a chunk of n classes, exponentiates it and folds it into a running maximum and a running sum per
row. Backward computes the same chunk again and turns it into that chunk's share of the gradients. Nothing here waits
for a GPU.

Where the classes are split over processes, each process makes this pass over its own classes for the rows of all
processes. Between the loop and the losses there is one exchange of maxima and one of sums; backward begins with one sum
of the incoming gradients. The gradient of an embedding is then only this process's part, and `ClassShards.gather` adds
the parts up; the gradient of a weight is complete.

Suffixes name the dimensions of a tensor, so `score_Rn` is (R, n): B batch, D embedding, C classes (of this process),
n classes of a chunk, K terms, M sub-centres of a class, R rows of a product (B for each of its heads), 1 a dimension
kept for broadcasting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facekd.distributed import ALONE, World, max_over_world, sum_over_world
from facekd.head.class_scores import Product, ProductGradients, ProductScores
from facekd.head.classifier import OtherCosines


@dataclass(frozen=True)
class Distribution:
    """Describes a softmax over the logits of a head; for a cross-entropy, the target logit has its margin."""

    head: int
    temperature: float
    is_cross_entropy: bool


@dataclass
class Plan:
    """Lists what one pass computes: terms refer to distributions, distributions to heads, heads to products."""

    num_classes: int  # of this process
    scales: list[float]  # by head
    columns_B: Tensor | None  # place of each label among the classes of this process; -1 where another process has it
    products: list[Product]
    distributions: list[Distribution]
    terms: list[tuple[int, int | None]]  # distributions of student and teacher; a cross-entropy has no teacher
    targets: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by head: logits (B,) and slopes (B,)
    others: dict[int, OtherCosines] = field(default_factory=dict)  # by head, what changes scores that are no targets
    chunk_size: int = 0
    world: World = ALONE

    @property
    def student_heads(self) -> set[int]:
        return {self.distributions[student].head for student, _ in self.terms}

    def chunks(self) -> list[tuple[int, int]]:
        """Lists the first class of each chunk, and one past its last."""
        size, total = max(self.chunk_size, 1), self.num_classes
        return [(start, min(start + size, total)) for start in range(0, total, size)]


def _logits_chunk(plan: Plan, distribution: Distribution, score_Bn: Tensor, start: int, shift_B1: Tensor) -> Tensor:
    """Turns scores into logits over the temperature, minus a shift per row.

    For a cross-entropy the target's logit, where it lies in this chunk, is replaced by the margined one.
    """
    if distribution.is_cross_entropy and distribution.head in plan.others:
        score_Bn = plan.others[distribution.head](score_Bn)[0]
    # The scale counts before the temperature, and the shift keeps exponentials in range.
    scale = plan.scales[distribution.head] / distribution.temperature
    logits_Bn = torch.add(-shift_B1, score_Bn, alpha=scale)
    if distribution.is_cross_entropy:
        _put_targets(plan, logits_Bn, start, plan.targets[distribution.head][0] - shift_B1[:, 0])
    return logits_Bn


def _put_targets(plan: Plan, matrix_Bn: Tensor, start: int, value_B: Tensor) -> None:
    """Writes one value per row at the row's label, for the rows whose label lies in this chunk."""
    assert plan.columns_B is not None
    # Every row is written, to save the host a look at which rows to write: those without a label here get back the
    # number that they had. So a GPU is never waited for.
    size = matrix_Bn.shape[1]
    position_B1 = (plan.columns_B - start)[:, None]
    column_B1 = position_B1.clamp(0, size - 1)
    value_B1 = torch.where(position_B1 == column_B1, value_B[:, None], matrix_Bn.gather(1, column_B1))
    matrix_Bn.scatter_(1, column_B1, value_B1)


class ChunkedLosses(torch.autograd.Function):
    """Computes losses (K, B) of the plan, an embedding per head, then a weight and a bias (or None) per product."""

    @staticmethod
    def forward(ctx, plan: Plan, *tensors: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Running values per row: by distribution the maximum and the sum of exponentials, by KL term the sum of
        # exp(teacher) * (teacher - student).
        products, embeddings = _unpack(plan, tensors)
        first = embeddings[0]
        zero_B1 = first.new_zeros(first.shape[0], 1)
        maxima = [torch.full_like(zero_B1, -math.inf) for _ in plan.distributions]
        sums = [zero_B1.clone() for _ in plan.distributions]
        differences = [zero_B1.clone() for _ in plan.terms]

        for start, stop in plan.chunks():
            scores = _scores_by_head(products, start, stop)
            logits = [_logits_chunk(plan, d, scores[d.head], start, zero_B1) for d in plan.distributions]
            # Online softmax: where the maximum rises, what was summed so far is scaled down to the new one.
            exponentials, rescales = [], []
            for index, logits_Bn in enumerate(logits):
                maximum_B1 = torch.maximum(maxima[index], logits_Bn.amax(1, keepdim=True))
                rescale_B1 = (maxima[index] - maximum_B1).exp_()
                exponential_Bn = (logits_Bn - maximum_B1).exp_()
                sums[index].mul_(rescale_B1).add_(exponential_Bn.sum(1, keepdim=True))
                maxima[index] = maximum_B1
                exponentials.append(exponential_Bn)
                rescales.append(rescale_B1)
            # KL also needs the difference of logits, weighted by the teacher's exponentials.
            for term, (student, teacher) in enumerate(plan.terms):
                if teacher is not None:
                    weighted_Bn = (logits[teacher] - logits[student]).mul_(exponentials[teacher])
                    differences[term].mul_(rescales[teacher]).add_(weighted_Bn.sum(1, keepdim=True))

        _reduce_over_world(plan, maxima, sums, differences)
        losses = _losses_of_sums(plan, maxima, sums, differences)

        # Backward needs the inputs, and per row only the maximum and the sum.
        norms = [scores.norm_MC for scores in products]
        ctx.plan = plan
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, *norms, *maxima, *sums)
        return torch.cat(losses, 1).T

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_KB: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        # Each process asks for the losses of its own rows only, and each has a part of the answer for all rows.
        grad_KB = sum_over_world(grad_KB.contiguous(), ctx.plan.world)
        with torch.autocast(grad_KB.device.type, enabled=False):
            return None, *_backward(ctx.plan, grad_KB, ctx.saved_tensors, ctx.num_inputs, ctx.needs_input_grad[1:])


def _losses_of_sums(plan: Plan, maxima: list[Tensor], sums: list[Tensor], differences: list[Tensor]) -> list[Tensor]:
    """Computes the losses (B, 1) by term from the sums over all classes."""
    losses = []
    for (student, teacher), difference_B1 in zip(plan.terms, differences, strict=True):
        if teacher is None:
            # Cross-entropy: log of the sum of exponentials, minus the target's logit.
            target_B1 = plan.targets[plan.distributions[student].head][0][:, None]
            losses.append(sums[student].log() - (target_B1 - maxima[student]))
        else:
            # KL: the mean difference of logits under the teacher, plus the difference of log-partition functions.
            kl_B1 = difference_B1 / sums[teacher] + (maxima[student] - maxima[teacher])
            kl_B1 += sums[student].log() - sums[teacher].log()
            losses.append(kl_B1 * plan.distributions[student].temperature ** 2)
    return losses


def _reduce_over_world(plan: Plan, maxima: list[Tensor], sums: list[Tensor], differences: list[Tensor]) -> None:
    """Turns maxima, sums and targets over this process's classes into those over all classes, in place."""
    if plan.world.size == 1:
        return
    # First the maxima, and every sum scaled to the maximum over all processes.
    global_maxima = max_over_world(torch.cat(maxima, 1), plan.world).split(1, 1)
    for index, (own, everyones) in enumerate(zip(maxima, global_maxima, strict=True)):
        rescale_B1 = (own - everyones).exp_()  # 0 for a process without classes, whose maximum is -inf
        sums[index] = sums[index] * rescale_B1
        for term, (_, teacher) in enumerate(plan.terms):
            if teacher == index:
                differences[term] = differences[term] * rescale_B1
        maxima[index] = everyones
    # Then everything that adds up goes in one exchange.
    targets = [target_B[:, None] for target_B, _ in plan.targets.values()]
    added = sum_over_world(torch.cat([*sums, *differences, *targets], 1), plan.world).split(1, 1)
    sums[:] = added[: len(sums)]
    differences[:] = added[len(sums) : len(sums) + len(differences)]
    for head, target_B1 in zip(plan.targets, added[len(sums) + len(differences) :], strict=True):
        plan.targets[head] = (target_B1[:, 0], plan.targets[head][1])


def _backward(
    plan: Plan, grad_KB: Tensor, saved: Sequence[Tensor], num_inputs: int, needs_grad: Sequence[bool]
) -> list[Tensor | None]:
    """Computes the gradients of the inputs of `ChunkedLosses`, in their order."""
    # What forward saved: its inputs, the lengths of class centres, the maxima and the sums.
    num_products, num_distributions = len(plan.products), len(plan.distributions)
    rest = saved[num_inputs:]
    norms, maxima = rest[:num_products], rest[num_products : num_products + num_distributions]
    sums = rest[num_products + num_distributions :]
    products, embeddings = _unpack(plan, saved[:num_inputs], norms)

    factors = _row_factors(plan, grad_KB, sums)
    target_exponentials = _target_exponentials(plan, maxima, sums)
    gradients = _empty_gradients(plan, products, len(embeddings), needs_grad)
    for start, stop in plan.chunks():
        # The exponentials of this chunk again, now relative to the final maxima.
        chunks = [scores.chunk(start, stop) for scores in products]
        score_of = {
            head: part
            for scores, chunk in zip(products, chunks, strict=True)
            for head, part in scores.split(chunk.score_Rn).items()
        }
        exponentials = []
        for index, distribution in enumerate(plan.distributions):
            exponential_Bn = _logits_chunk(plan, distribution, score_of[distribution.head], start, maxima[index]).exp_()
            if distribution.is_cross_entropy and distribution.head in plan.others:
                exponential_Bn.mul_(plan.others[distribution.head](score_of[distribution.head])[1])
            if index in target_exponentials:
                _put_targets(plan, exponential_Bn, start, target_exponentials[index])
            exponentials.append(exponential_Bn)
        # The gradient by the scores of each student, handed to the inputs of its product.
        for gradient, scores, chunk in zip(gradients, products, chunks, strict=True):
            if gradient.is_needed:
                parts = [
                    _weighted_sum([(exponentials[index], factor_B1) for index, factor_B1 in factors[head].items()])
                    for head in scores.product.heads[: scores.product.num_students]
                ]
                gradient.add_chunk(start, stop, parts[0] if len(parts) == 1 else torch.cat(parts), chunk)

    # Rows of a product back to the embeddings of its heads; a teacher's gets none.
    embedding_gradients: list[Tensor | None] = [None] * len(embeddings)
    for gradient in gradients:
        if gradient.embedding_RD is not None:
            heads = gradient.scores.product.heads[: gradient.scores.product.num_students]
            for head, part in zip(heads, gradient.embedding_RD.tensor_split(len(heads)), strict=True):
                embedding_gradients[head] = part
    return [*embedding_gradients, *(g.weight_CD for g in gradients), *(g.bias_C for g in gradients)]


def _row_factors(plan: Plan, grad_KB: Tensor, sums: Sequence[Tensor]) -> dict[int, dict[int, Tensor]]:
    """Computes for each head and distribution the factor (B, 1) of its exponentials in the gradient of the scores.

    That gradient is a weighted sum of exponentials: with p = exponential / sum, d CE = scale (p - 1[target]) and
    d KL T^2 = scale T (p_student - p_teacher).
    """
    factors: dict[int, dict[int, Tensor]] = {}
    for (student, teacher), grad_B in zip(plan.terms, grad_KB, strict=True):
        distribution = plan.distributions[student]
        grad_B1 = grad_B[:, None] * (plan.scales[distribution.head] * distribution.temperature)
        of_head = factors.setdefault(distribution.head, {})
        for index, sign in ((student, 1), (teacher, -1)):
            if index is not None:
                of_head[index] = of_head.get(index, 0) + sign * grad_B1 / sums[index]
    return factors


def _target_exponentials(plan: Plan, maxima: Sequence[Tensor], sums: Sequence[Tensor]) -> dict[int, Tensor]:
    """Computes for each cross-entropy what replaces the target's exponential in the gradient: sum * slope * (p - 1)."""
    found = {}
    for index, distribution in enumerate(plan.distributions):
        if distribution.is_cross_entropy:
            target_B, slope_B = plan.targets[distribution.head]
            log_p_B = target_B - maxima[index][:, 0] - sums[index][:, 0].log()
            found[index] = slope_B * log_p_B.expm1() * sums[index][:, 0]  # expm1: p - 1 keeps its digits near 0
    return found


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


def _weighted_sum(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns a new (B, n): the sum of blocks, each times a factor per row."""
    total_Bn = parts[0][0] * parts[0][1]
    for block_Bn, factor_B1 in parts[1:]:
        total_Bn.addcmul_(block_Bn, factor_B1)
    return total_Bn
