"""Lists what one pass over the classes computes, and turns the scores of a chunk into logits.

Suffixes name the dimensions of a tensor, so `score_Bn` is (B, n): B batch, C classes (of this process), n classes of a
chunk, 1 a dimension kept for broadcasting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from facekd.distributed import ALONE, World, sum_over_world
from facekd.head.class_scores import Product, ProductScores
from facekd.head.classifier import OtherCosines

TermKind = Literal["cross entropy", "kl", "target kl", "inter class", "intra class"]
# What stands for a logit that is left out: its exponential is 0, and unlike minus infinity it can be subtracted.
LEFT_OUT = -1e30
STD_EPSILON = 1e-7  # added to standard deviations of logits, as the authors of logit standardisation do


@dataclass(frozen=True)
class Distribution:
    """Describes a softmax over the logits of a head: which one, and what its target's logit is.

    Args:
        head: number of the head in the plan.
        temperature: by which the logits are divided.
        target: "plain" like any other class, "margined" in a cross-entropy, or "left out".
        is_standardized: divide each row's logits by their standard deviation over all classes first.
    """

    head: int
    temperature: float
    target: Literal["plain", "margined", "left out"] = "plain"
    is_standardized: bool = False


@dataclass(frozen=True)
class Term:
    """Describes one loss by the places of its distributions; a cross-entropy has no teacher."""

    kind: TermKind
    student: int
    teacher: int | None = None


@dataclass
class Plan:
    """Lists what one pass computes: terms refer to distributions, distributions to heads, heads to products."""

    num_classes: int  # of this process
    scales: list[float]  # by head
    columns_B: Tensor | None  # place of each label among the classes of this process; -1 where another process has it
    products: list[Product]
    distributions: list[Distribution]
    terms: list[Term]
    targets: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by head: logits (B,) and slopes (B,)
    target_scores: dict[int, Tensor] = field(default_factory=dict)  # by head, (B,) without margin, for `TargetKL`
    others: dict[int, OtherCosines] = field(default_factory=dict)  # by head, what changes scores that are no targets
    chunk_size: int = 0
    world: World = ALONE

    @property
    def student_heads(self) -> set[int]:
        return {self.distributions[term.student].head for term in self.terms}

    @property
    def standardized_heads(self) -> set[int]:
        return {distribution.head for distribution in self.distributions if distribution.is_standardized}

    def chunks(self) -> list[tuple[int, int]]:
        """Lists the first class of each chunk, and one past its last."""
        size, total = max(self.chunk_size, 1), self.num_classes
        return [(start, min(start + size, total)) for start in range(0, total, size)]

    def classes_of_all(self, like: Tensor) -> Tensor:
        """Returns the number of classes of all processes as a tensor (1, 1) beside `like`; a GPU is not waited for."""
        return sum_over_world(torch.full_like(like[:1, :1], self.num_classes), self.world)


@dataclass(frozen=True)
class Spread:
    """Holds, for one head, how the scores of each row lie over all classes of all processes.

    Args:
        mean_B1: mean of the scores.
        std_B1: standard deviation of the logits, the unbiased one.
        freedom_11: C - 1, at least 1.
    """

    mean_B1: Tensor
    std_B1: Tensor
    freedom_11: Tensor


def row_spreads(plan: Plan, products: list[ProductScores]) -> dict[int, Spread]:
    """Computes the spread of each head whose logits are standardised, in a pass of its own; {} where none is."""
    wanted = plan.standardized_heads
    products = [scores for scores in products if wanted & set(scores.product.heads)]
    if not products:
        return {}
    # Means and sums of squares around them, joined chunk by chunk: squares of raw scores would lose their digits.
    like = products[0].embedding_RD
    zero_B1 = like.new_zeros(len(like) // len(products[0].product.heads), 1)
    means, squares = ({head: zero_B1.clone() for head in wanted} for _ in range(2))
    for start, stop in plan.chunks():
        for scores in products:
            for head, score_Bn in scores.split(scores.chunk(start, stop).score_Rn).items():
                if head in wanted:
                    mean_B1 = score_Bn.mean(1, keepdim=True)
                    step_B1, share = mean_B1 - means[head], (stop - start) / stop
                    squares[head] += (score_Bn - mean_B1).square_().sum(1, keepdim=True)
                    squares[head] += step_B1.square() * (start * share)
                    means[head] += step_B1 * share
    for scores in products:
        scores.is_known = True
    # The same over processes: two exchanges for all heads.
    heads, classes = sorted(wanted), plan.classes_of_all(zero_B1)
    own_BK = torch.cat([means[head] for head in heads], 1)
    mean_BK = sum_over_world(own_BK * plan.num_classes, plan.world) / classes
    apart_BK = (own_BK - mean_BK).square_() * plan.num_classes
    square_BK = sum_over_world(torch.cat([squares[head] for head in heads], 1) + apart_BK, plan.world)
    freedom_11 = (classes - 1).clamp(min=1)
    std_BK = (square_BK / freedom_11).sqrt_()
    columns = zip(mean_BK.split(1, 1), std_BK.split(1, 1), strict=True)
    return {
        head: Spread(mean_B1, std_B1 * plan.scales[head], freedom_11)
        for head, (mean_B1, std_B1) in zip(heads, columns, strict=True)
    }


class Logits:
    """Turns the scores of a chunk into logits over the temperature, by distribution.

    Attributes:
        slopes: by distribution, logit by score: a number, or (B, 1) where the logits are standardised.
    """

    def __init__(self, plan: Plan, spreads: dict[int, Spread]) -> None:
        self.plan = plan
        self.spreads = spreads
        self.slopes: list[float | Tensor] = []
        for distribution in plan.distributions:
            slope = plan.scales[distribution.head] / distribution.temperature
            is_plain = not distribution.is_standardized
            self.slopes.append(slope if is_plain else slope / (spreads[distribution.head].std_B1 + STD_EPSILON))

    def chunk(self, index: int, score_of: dict[int, Tensor], start: int, shift_B1: Tensor) -> Tensor:
        """Returns the logits (B, n) of a distribution over the temperature, minus a shift per row.

        In a cross-entropy the target's logit, where it lies in this chunk, is the margined one.

        Args:
            index: number of the distribution.
            score_of: scores (B, n) by head.
            start: first class of the chunk.
            shift_B1: (B, 1), keeps exponentials in range.
        """
        distribution, slope = self.plan.distributions[index], self.slopes[index]
        score_Bn = score_of[distribution.head]
        if distribution.target == "margined" and distribution.head in self.plan.others:
            score_Bn = self.plan.others[distribution.head](score_Bn)[0]
        # The scale counts before the temperature, and the mean is taken away before it can cost digits.
        if isinstance(slope, Tensor):
            logits_Bn = (score_Bn - self.spreads[distribution.head].mean_B1).mul_(slope).sub_(shift_B1)
        else:
            logits_Bn = torch.add(-shift_B1, score_Bn, alpha=slope)
        if distribution.target == "margined":
            put_targets(self.plan, logits_Bn, start, self.plan.targets[distribution.head][0] - shift_B1[:, 0])
        elif distribution.target == "left out":
            put_targets(self.plan, logits_Bn, start, LEFT_OUT - shift_B1[:, 0])
        return logits_Bn

    def targets(self, index: int) -> Tensor:
        """Returns the targets' own logits (B, 1) of a distribution over the temperature, without margin."""
        head, slope = self.plan.distributions[index].head, self.slopes[index]
        score_B1 = self.plan.target_scores[head][:, None]
        return (score_B1 - self.spreads[head].mean_B1) * slope if isinstance(slope, Tensor) else score_B1 * slope


def put_targets(plan: Plan, matrix_Bn: Tensor, start: int, value_B: Tensor, *, is_added: bool = False) -> None:
    """Writes one value per row at the row's label, or adds it, for the rows whose label lies in this chunk."""
    assert plan.columns_B is not None
    # Every row is written, to save the host a look at which rows to write: those without a label here get back the
    # number that they had. So a GPU is never waited for.
    size = matrix_Bn.shape[1]
    position_B1 = (plan.columns_B - start)[:, None]
    column_B1 = position_B1.clamp(0, size - 1)
    before_B1 = matrix_Bn.gather(1, column_B1)
    after_B1 = before_B1 + value_B[:, None] if is_added else value_B[:, None]
    matrix_Bn.scatter_(1, column_B1, torch.where(position_B1 == column_B1, after_B1, before_B1))
