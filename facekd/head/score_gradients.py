"""Computes the gradients of the losses by the scores of each head, chunk by chunk, for the backward pass.

Suffixes name the dimensions of a tensor, so `score_Bn` is (B, n): B batch, n classes of a chunk, K terms, 1 a dimension
kept for broadcasting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facekd.head.class_relations import Relation
from facekd.head.loss_plan import STD_EPSILON, Logits, Plan, Spread, put_targets
from facekd.head.row_sums import RowSums, target_odds


class ScoreGradients:
    """Computes the gradient by the scores (B, n) of each student's head, chunk by chunk.

    It is a weighted sum of exponentials, with one weight a row, plus

    - at the label a number of its own, in `TargetKL`;
    - the gradients of correlations;
    - where logits are standardised, a multiple of score - mean: through the standard deviation of the row.
    """

    def __init__(
        self,
        plan: Plan,
        grad_KB: Tensor,
        rows: RowSums,
        spreads: dict[int, Spread],
        relations: dict[int, Relation],
    ) -> None:
        self.plan = plan
        self.rows = rows
        self.spreads = spreads
        self.relations = relations
        self.logits: Logits = Logits(plan, spreads)
        self.factors: dict[int, dict[int, Tensor]] = {}  # by head and distribution, on its exponentials
        self.at_targets: dict[int, Tensor] = {}  # by head
        self.related: dict[int, Tensor] = {}  # by term, gradient by its loss
        self.by_std: dict[int, Tensor] = {}  # by head: gradient by the standard deviation, times that, negative
        for number, grad_B in enumerate(grad_KB):
            self._add_term(number, grad_B[:, None] * plan.distributions[plan.terms[number].student].temperature ** 2)
        self.replaced: dict[int, Tensor] = self._target_exponentials()

    def _add_term(self, number: int, grad_B1: Tensor) -> None:
        """Adds up a term's part of the factors; the gradient has T^2 in it."""
        term, rows = self.plan.terms[number], self.rows
        head, slope = self.plan.distributions[term.student].head, self.logits.slopes[term.student]
        is_standardized = term.student in rows.own
        factors = self.factors.setdefault(head, {})
        along_B1 = None
        # With p = exponential / sum: d CE = p - 1[target], d KL = p_student - p_teacher.
        signed = {term.student: grad_B1, term.teacher: -grad_B1}
        if term.kind == "target kl":
            # With o the log-odds of the label: (sigmoid(o_student) - sigmoid(o_teacher)) (1[target] - p_student).
            assert term.teacher is not None
            student_B1, teacher_B1 = (target_odds(self.logits, rows, i) for i in (term.student, term.teacher))
            grad_B1 = grad_B1 * (student_B1.sigmoid() - teacher_B1.sigmoid())
            signed = {term.student: -grad_B1}
            self.at_targets[head] = self.at_targets.get(head, 0) + (grad_B1 * slope)[:, 0]
            if is_standardized:
                along_B1 = grad_B1 * (self.logits.targets(term.student) - self._mean(term.student))
        elif number in self.relations:
            self.related[number], signed = grad_B1, {}
            if is_standardized:
                along_B1 = self.relations[number].along_logits(grad_B1, self._mean(term.student))
        elif is_standardized:
            assert term.teacher is not None
            along_B1 = grad_B1 * (self._mean(term.student) - rows.taught[number] / rows.sums[term.teacher])
        for index, signed_B1 in signed.items():
            if index is not None:
                factors[index] = factors.get(index, 0) + signed_B1 * slope / rows.sums[index]
        if along_B1 is not None:
            self.by_std[head] = self.by_std.get(head, 0) + along_B1

    def _mean(self, index: int) -> Tensor:
        """Returns the mean (B, 1) of a student's logits under its own softmax."""
        return self.rows.own[index] / self.rows.sums[index]

    def _target_exponentials(self) -> dict[int, Tensor]:
        """Computes for each cross-entropy what replaces the target's exponential: sum * slope * (p - 1)."""
        found = {}
        for index, distribution in enumerate(self.plan.distributions):
            if distribution.target == "margined":
                target_B, slope_B = self.plan.targets[distribution.head]
                sum_B = self.rows.sums[index][:, 0]
                log_p_B = target_B - self.rows.maxima[index][:, 0] - sum_B.log()
                found[index] = slope_B * log_p_B.expm1() * sum_B  # expm1: p - 1 keeps its digits near 0
        return found

    def chunk(self, score_of: dict[int, Tensor], start: int) -> dict[int, Tensor]:
        """Returns the gradient (B, n) by the scores, by student's head.

        Args:
            score_of: scores (B, n) of a chunk by head.
            start: first class of the chunk.
        """
        # The exponentials of this chunk again, now relative to the final maxima.
        plan, exponentials = self.plan, []
        for index, distribution in enumerate(plan.distributions):
            exponential_Bn = self.logits.chunk(index, score_of, start, self.rows.maxima[index]).exp_()
            if distribution.target == "margined" and distribution.head in plan.others:
                exponential_Bn.mul_(plan.others[distribution.head](score_of[distribution.head])[1])
            if index in self.replaced:
                put_targets(plan, exponential_Bn, start, self.replaced[index])
            exponentials.append(exponential_Bn)
        found = {}
        for head, factors in self.factors.items():
            parts = [(exponentials[index], factor_B1) for index, factor_B1 in factors.items()]
            found[head] = _weighted_sum(parts) if parts else torch.zeros_like(score_of[head])
            if head in self.at_targets:
                put_targets(plan, found[head], start, self.at_targets[head], is_added=True)
        for number, grad_B1 in self.related.items():
            term, sums = plan.terms[number], self.rows.sums
            assert term.teacher is not None
            p_Bn, q_Bn = (exponentials[index] / sums[index] for index in (term.student, term.teacher))
            by_logits_Bn = self.relations[number].gradient(p_Bn, q_Bn, grad_B1)
            found[plan.distributions[term.student].head] += by_logits_Bn.mul_(self.logits.slopes[term.student])
        for head, along_B1 in self.by_std.items():
            # A logit is (score - mean) scale / (T (std + epsilon)), so the loss falls by `along` / (std + epsilon) as
            # the deviation rises, which itself rises by scale^2 (score - mean) / ((C - 1) std) with a score.
            spread = self.spreads[head]
            apart = spread.freedom_11 * spread.std_B1 * (spread.std_B1 + STD_EPSILON)
            factor_B1 = torch.where(apart > 0, -(plan.scales[head] ** 2) * along_B1 / apart, 0.0)
            found[head].addcmul_(score_of[head] - spread.mean_B1, factor_B1)
        return found


def _weighted_sum(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns a new (B, n): the sum of blocks, each times a factor per row."""
    total_Bn = parts[0][0] * parts[0][1]
    for block_Bn, factor_B1 in parts[1:]:
        total_Bn.addcmul_(block_Bn, factor_B1)
    return total_Bn
