"""The pass over the classes behind `facekd.head.chunked_loss`: running softmax sums forwards, products again backwards.

A chunk of n classes is multiplied out, exponentiated and folded into a maximum and a sum a row; backward makes the same
chunk again and turns it into its share of the gradients. Nothing here waits for a GPU.

Where the classes are shared out over processes, each makes this pass over its own for the rows of all of them: one
maximum and one sum over the world between the loop and the losses, and one sum of what comes back. The gradient of an
embedding is then this process's part, which `ClassShards.gather` adds up, and that of a weight whole.

Shapes: B batch, D embedding, C classes, n classes of a chunk, K terms, R rows of a product (B for each of its heads).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facekd.distributed import ALONE, World, max_over_world, sum_over_world

NORM_EPSILON = 1e-12  # that of torch.nn.functional.normalize


@dataclass(frozen=True)
class Distribution:
    """A softmax over the logits of a head; cross-entropy's has the margined target in it."""

    head: int
    temperature: float
    is_cross_entropy: bool


@dataclass
class Product:
    """Heads that share a weight, and so one matrix product a chunk; those that get gradients come first."""

    heads: list[int]
    num_students: int
    is_normalized: bool
    product_dtype: torch.dtype | None


@dataclass
class Plan:
    num_classes: int  # of this process
    scales: list[float]
    columns_B: Tensor | None  # of the labels among the classes of this process, -1 where it is another's
    products: list[Product]
    distributions: list[Distribution]
    terms: list[tuple[int, int | None]]  # distributions of student and teacher; a cross-entropy has no teacher
    targets: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by head: logits (B,) and slopes (B,)
    chunk_size: int = 0
    world: World = ALONE

    @property
    def student_heads(self) -> set[int]:
        return {self.distributions[student].head for student, _ in self.terms}

    def chunks(self) -> list[tuple[int, int]]:
        size, total = max(self.chunk_size, 1), self.num_classes
        return [(start, min(start + size, total)) for start in range(0, total, size)]


class _Scores:
    """Scores (R, n) of one product, chunk by chunk: cosines, or plain products with their bias."""

    def __init__(
        self,
        product: Product,
        embeddings: Sequence[Tensor],
        weight_CD: Tensor,
        bias_C: Tensor | None,
        norm_C: Tensor | None = None,
    ) -> None:
        self.product = product
        stacked = [embeddings[index] for index in product.heads]
        self.embedding_RD = stacked[0] if len(stacked) == 1 else torch.cat(stacked)
        self.dtype = self.embedding_RD.dtype
        self.weight_CD = weight_CD
        self.bias_C = bias_C
        self.is_known = norm_C is not None
        if norm_C is None and product.is_normalized:
            norm_C = weight_CD.new_empty(weight_CD.shape[0], dtype=self.dtype)
        self.norm_C = norm_C

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Scores (R, n), and the centres (n, D) as they were multiplied: in a half type normalised, else not."""
        centre_nD = self.weight_CD[start:stop].to(self.dtype)
        half = self.product.product_dtype
        if self.norm_C is not None:
            norm_n = self.norm_C[start:stop]
            if not self.is_known:
                torch.linalg.vector_norm(centre_nD, dim=1, out=norm_n).clamp_(min=NORM_EPSILON)
            if half is not None:
                centre_nD = (centre_nD / norm_n[:, None]).to(half)
        if half is not None:
            score_Rn = _half_product(self.embedding_RD.to(half), centre_nD.to(half).T, self.dtype)
        else:
            score_Rn = self.embedding_RD @ centre_nD.T
            if self.norm_C is not None:
                score_Rn.div_(self.norm_C[start:stop])  # R < D: cheaper than normalising the centres
        if self.bias_C is not None:
            score_Rn += self.bias_C[start:stop]
        return score_Rn, centre_nD

    def split(self, matrix: Tensor) -> dict[int, Tensor]:
        """Rows of a (R, ...) tensor by head."""
        return dict(zip(self.product.heads, matrix.tensor_split(len(self.product.heads)), strict=True))


def _logits_chunk(plan: Plan, distribution: Distribution, score_Bn: Tensor, start: int, shift_B1: Tensor) -> Tensor:
    """Logits over the temperature, less a shift a row, with the margined target where it lies in this chunk."""
    scale = plan.scales[distribution.head] / distribution.temperature
    logits_Bn = torch.add(-shift_B1, score_Bn, alpha=scale)
    if distribution.is_cross_entropy:
        _put_targets(plan, logits_Bn, start, plan.targets[distribution.head][0] - shift_B1[:, 0])
    return logits_Bn


def _put_targets(plan: Plan, matrix_Bn: Tensor, start: int, value_B: Tensor) -> None:
    """Write the values of the rows whose label lies in this chunk; no row is looked at on the host, so no waiting."""
    assert plan.columns_B is not None
    size = matrix_Bn.shape[1]
    position_B1 = (plan.columns_B - start)[:, None]
    column_B1 = position_B1.clamp(0, size - 1)
    value_B1 = torch.where(position_B1 == column_B1, value_B[:, None], matrix_Bn.gather(1, column_B1))
    matrix_Bn.scatter_(1, column_B1, value_B1)


class ChunkedLosses(torch.autograd.Function):
    """Losses (K, B). Inputs: the plan, an embedding a head, then a weight and a bias (or None) a product."""

    @staticmethod
    def forward(ctx, plan: Plan, *tensors: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        products, embeddings = _unpack(plan, tensors)
        first = embeddings[0]
        zero_B1 = first.new_zeros(first.shape[0], 1)
        maxima = [torch.full_like(zero_B1, -math.inf) for _ in plan.distributions]
        sums = [zero_B1.clone() for _ in plan.distributions]
        differences = [zero_B1.clone() for _ in plan.terms]  # sum of exp(teacher) * (teacher - student)

        for start, stop in plan.chunks():
            scores = _scores_by_head(products, start, stop)
            logits = [_logits_chunk(plan, d, scores[d.head], start, zero_B1) for d in plan.distributions]
            exponentials, rescales = [], []
            for index, logits_Bn in enumerate(logits):
                maximum_B1 = torch.maximum(maxima[index], logits_Bn.amax(1, keepdim=True))
                rescale_B1 = (maxima[index] - maximum_B1).exp_()
                exponential_Bn = (logits_Bn - maximum_B1).exp_()
                sums[index].mul_(rescale_B1).add_(exponential_Bn.sum(1, keepdim=True))
                maxima[index] = maximum_B1
                exponentials.append(exponential_Bn)
                rescales.append(rescale_B1)
            for term, (student, teacher) in enumerate(plan.terms):
                if teacher is not None:
                    weighted_Bn = (logits[teacher] - logits[student]).mul_(exponentials[teacher])
                    differences[term].mul_(rescales[teacher]).add_(weighted_Bn.sum(1, keepdim=True))

        _reduce_over_world(plan, maxima, sums, differences)
        losses = []
        for (student, teacher), difference_B1 in zip(plan.terms, differences, strict=True):
            if teacher is None:
                target_B1 = plan.targets[plan.distributions[student].head][0][:, None]
                losses.append(sums[student].log() - (target_B1 - maxima[student]))
            else:
                kl_B1 = difference_B1 / sums[teacher] + (maxima[student] - maxima[teacher])
                kl_B1 += sums[student].log() - sums[teacher].log()
                losses.append(kl_B1 * plan.distributions[student].temperature ** 2)

        norms = [scores.norm_C for scores in products]
        ctx.plan = plan
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, *norms, *maxima, *sums)
        return torch.cat(losses, 1).T

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_KB: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        # Each process asks only for the losses of its own rows, and each has a part of the answer for all of them.
        grad_KB = sum_over_world(grad_KB.contiguous(), ctx.plan.world)
        with torch.autocast(grad_KB.device.type, enabled=False):
            return None, *_backward(ctx.plan, grad_KB, ctx.saved_tensors, ctx.num_inputs, ctx.needs_input_grad[1:])


def _reduce_over_world(plan: Plan, maxima: list[Tensor], sums: list[Tensor], differences: list[Tensor]) -> None:
    """From the classes of this process to those of all, in place: maxima, sums of exponentials, targets."""
    if plan.world.size == 1:
        return
    global_maxima = max_over_world(torch.cat(maxima, 1), plan.world).split(1, 1)
    for index, (own, everyones) in enumerate(zip(maxima, global_maxima, strict=True)):
        rescale_B1 = (own - everyones).exp_()  # a process without classes has a maximum of -inf, and counts for 0
        sums[index] = sums[index] * rescale_B1
        for term, (_, teacher) in enumerate(plan.terms):
            if teacher == index:
                differences[term] = differences[term] * rescale_B1
        maxima[index] = everyones
    targets = [target_B[:, None] for target_B, _ in plan.targets.values()]
    added = sum_over_world(torch.cat([*sums, *differences, *targets], 1), plan.world).split(1, 1)
    sums[:] = added[: len(sums)]
    differences[:] = added[len(sums) : len(sums) + len(differences)]
    for head, target_B1 in zip(plan.targets, added[len(sums) + len(differences) :], strict=True):
        plan.targets[head] = (target_B1[:, 0], plan.targets[head][1])


def _backward(
    plan: Plan, grad_KB: Tensor, saved: Sequence[Tensor], num_inputs: int, needs_grad: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the inputs of `ChunkedLosses`, in their order."""
    num_products, num_distributions = len(plan.products), len(plan.distributions)
    rest = saved[num_inputs:]
    norms, maxima = rest[:num_products], rest[num_products : num_products + num_distributions]
    sums = rest[num_products + num_distributions :]
    products, embeddings = _unpack(plan, saved[:num_inputs], norms)

    # The gradient of a head's scores is a weighted sum of exponentials: with p = exponential / sum, d CE = scale
    # (p - 1[target]) and d KL T^2 = scale T (p_student - p_teacher). So one factor a row, head and distribution.
    factors: dict[int, dict[int, Tensor]] = {}
    for (student, teacher), grad_B in zip(plan.terms, grad_KB, strict=True):
        distribution = plan.distributions[student]
        grad_B1 = grad_B[:, None] * (plan.scales[distribution.head] * distribution.temperature)
        of_head = factors.setdefault(distribution.head, {})
        for index, sign in ((student, 1), (teacher, -1)):
            if index is not None:
                of_head[index] = of_head.get(index, 0) + sign * grad_B1 / sums[index]

    # What stands at the target in place of its exponential: sum * slope * (p - 1).
    target_exponentials = {}
    for index, distribution in enumerate(plan.distributions):
        if distribution.is_cross_entropy:
            target_B, slope_B = plan.targets[distribution.head]
            log_p_B = target_B - maxima[index][:, 0] - sums[index][:, 0].log()
            target_exponentials[index] = slope_B * log_p_B.expm1() * sums[index][:, 0]

    embedding_needs = needs_grad[: len(embeddings)]
    weight_needs = needs_grad[len(embeddings) : len(embeddings) + num_products]
    bias_needs = needs_grad[len(embeddings) + num_products :]
    gradients = [
        _Gradients(
            plan.world.size,
            scores,
            any(embedding_needs[head] for head in scores.product.heads),
            weight_needs[index] and scores.product.num_students > 0,
            bias_needs[index] and scores.product.num_students > 0,
        )
        for index, scores in enumerate(products)
    ]
    for start, stop in plan.chunks():
        chunks = [scores.chunk(start, stop) for scores in products]
        score_of = {
            head: part
            for scores, (score_Rn, _) in zip(products, chunks, strict=True)
            for head, part in scores.split(score_Rn).items()
        }
        exponentials = []
        for index, distribution in enumerate(plan.distributions):
            exponential_Bn = _logits_chunk(plan, distribution, score_of[distribution.head], start, maxima[index]).exp_()
            if index in target_exponentials:
                _put_targets(plan, exponential_Bn, start, target_exponentials[index])
            exponentials.append(exponential_Bn)
        for gradient, scores, (score_Rn, centre_nD) in zip(gradients, products, chunks, strict=True):
            if gradient.is_needed:
                parts = [
                    _weighted_sum([(exponentials[index], factor_B1) for index, factor_B1 in factors[head].items()])
                    for head in scores.product.heads[: scores.product.num_students]
                ]
                gradient.add_chunk(start, stop, parts[0] if len(parts) == 1 else torch.cat(parts), score_Rn, centre_nD)

    embedding_gradients: list[Tensor | None] = [None] * len(embeddings)
    for gradient in gradients:
        if gradient.embedding_RD is not None:
            heads = gradient.scores.product.heads[: gradient.scores.product.num_students]
            for head, part in zip(heads, gradient.embedding_RD.tensor_split(len(heads)), strict=True):
                embedding_gradients[head] = part
    return [*embedding_gradients, *(g.weight_CD for g in gradients), *(g.bias_C for g in gradients)]


class _Gradients:
    """Gradients of one product's inputs, gathered chunk by chunk; None for those nobody wants. R: student rows."""

    def __init__(self, world_size: int, scores: _Scores, of_embedding: bool, of_weight: bool, of_bias: bool) -> None:
        # Losses are means over the rows of one process; gradients of copied weights are averaged over processes, and
        # that of a weight nobody else has must come out as if it were: the one place where this is accounted for.
        self.world_size = world_size
        self.scores = scores
        num_heads, num_students = len(scores.product.heads), scores.product.num_students
        self.rows = scores.embedding_RD.shape[0] // num_heads * num_students
        self.student_RD = scores.embedding_RD[: self.rows]
        self.embedding_RD = torch.zeros_like(self.student_RD) if of_embedding else None
        self.weight_CD = torch.empty_like(scores.weight_CD) if of_weight else None
        self.bias_C = torch.empty_like(scores.bias_C) if of_bias and scores.bias_C is not None else None

    @property
    def is_needed(self) -> bool:
        return not (self.embedding_RD is None and self.weight_CD is None and self.bias_C is None)

    def add_chunk(self, start: int, stop: int, grad_Rn: Tensor, score_Rn: Tensor, centre_nD: Tensor) -> None:
        """Take in a chunk's gradient by the scores; overwrites `grad_Rn` and `score_Rn`."""
        half, norm_C = self.scores.product.product_dtype, self.scores.norm_C
        if self.bias_C is not None:
            self.bias_C[start:stop] = grad_Rn.sum(0).div_(self.world_size)
        # With w = |w| u, d score / d w = (e - score u) / |w|: one division serves both products, unless a half type
        # multiplies normalised centres, where |w| comes in afterwards.
        norm_n = None if norm_C is None else norm_C[start:stop]
        if norm_n is not None and half is None:
            grad_Rn.div_(norm_n)
        operand_Rn = grad_Rn if half is None else grad_Rn.to(half)
        if self.embedding_RD is not None:
            if half is None:
                self.embedding_RD.addmm_(operand_Rn, centre_nD)
            else:
                self.embedding_RD += _half_product(operand_Rn, centre_nD.to(half), self.embedding_RD.dtype)
        if self.weight_CD is None:
            return
        target_nD = self.weight_CD[start:stop]
        if half is None and target_nD.dtype == grad_Rn.dtype:
            weight_nD = torch.mm(operand_Rn.T, self.student_RD, out=target_nD)
        else:
            weight_nD = _half_product(operand_Rn.T, self.student_RD.to(operand_Rn.dtype), grad_Rn.dtype)
        if norm_n is not None:
            if half is not None:
                grad_Rn.div_(norm_n)
                weight_nD.div_(norm_n[:, None])
                centre_nD = self.scores.weight_CD[start:stop].to(grad_Rn.dtype)
            radial_n = score_Rn[: self.rows].mul_(grad_Rn).sum(0).div_(norm_n)
            radial_n.masked_fill_(norm_n <= NORM_EPSILON, 0)  # there the norm is a constant
            weight_nD.addcmul_(centre_nD, radial_n[:, None], value=-1)
        if self.world_size > 1:
            weight_nD.div_(self.world_size)
        if weight_nD.data_ptr() != target_nD.data_ptr():
            target_nD.copy_(weight_nD)


def _half_product(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """Of two matrices in a half type, in another; on a GPU the float32 sums are handed over unrounded."""
    if first.is_cuda and dtype == torch.float32 and first.dtype != dtype:
        return torch.mm(first, second, out_dtype=dtype)
    return (first @ second).to(dtype)


def _unpack(
    plan: Plan, tensors: Sequence[Tensor | None], norms: Sequence[Tensor | None] | None = None
) -> tuple[list[_Scores], Sequence[Tensor]]:
    num_products = len(plan.products)
    num_heads = len(tensors) - 2 * num_products
    embeddings = [tensor for tensor in tensors[:num_heads] if tensor is not None]
    weights, biases = tensors[num_heads : num_heads + num_products], tensors[num_heads + num_products :]
    products = []
    for index, (product, weight_CD) in enumerate(zip(plan.products, weights, strict=True)):
        assert weight_CD is not None
        norm_C = None if norms is None else norms[index]
        products.append(_Scores(product, embeddings, weight_CD, biases[index], norm_C))
    return products, embeddings


def _scores_by_head(products: Sequence[_Scores], start: int, stop: int) -> dict[int, Tensor]:
    return {head: part for scores in products for head, part in scores.split(scores.chunk(start, stop)[0]).items()}


def _weighted_sum(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A new (B, n): the sum of blocks, each times a factor a row."""
    total_Bn = parts[0][0] * parts[0][1]
    for block_Bn, factor_B1 in parts[1:]:
        total_Bn.addcmul_(block_Bn, factor_B1)
    return total_Bn
