"""Holds the sums over classes of one pass, adds them up over processes, and computes the losses from them.

Suffixes name the dimensions of a tensor: B batch, 1 a dimension kept for broadcasting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from facekd.distributed import max_over_world, sum_over_world
from facekd.head.class_relations import Relation
from facekd.head.loss_plan import Logits, Plan


@dataclass
class RowSums:
    """Holds the sums over classes by row, (B, 1) each."""

    maxima: list[Tensor]  # by distribution: largest logit
    sums: list[Tensor]  # by distribution: sum of exponentials
    differences: list[Tensor]  # by term, for a KL: sum of exp(teacher) * (teacher - student)
    # Where the student's logits are standardised:
    own: dict[int, Tensor]  # by distribution of a student: sum of exp(student) * student
    taught: dict[int, Tensor]  # by term, for a KL: sum of exp(teacher) * student

    def scaled_by(self, plan: Plan) -> list[tuple[int, dict[int, Tensor] | list[Tensor], int]]:
        """Lists what carries the exponentials of a distribution: that distribution, and where the sum stands."""
        found: list[tuple[int, dict[int, Tensor] | list[Tensor], int]] = []
        found += [(index, self.sums, index) for index in range(len(self.sums))]
        found += [(index, self.own, index) for index in self.own]
        for number, term in enumerate(plan.terms):
            if term.kind == "kl" and term.teacher is not None:
                found.append((term.teacher, self.differences, number))
                if number in self.taught:
                    found.append((term.teacher, self.taught, number))
        return found


def reduce_over_world(plan: Plan, rows: RowSums) -> None:
    """Turns maxima, sums and targets over this process's classes into those over all classes, in place."""
    if plan.world.size == 1:
        return
    # First the maxima, and every sum scaled to the maximum over all processes.
    global_maxima = max_over_world(torch.cat(rows.maxima, 1), plan.world).split(1, 1)
    scaled = rows.scaled_by(plan)
    parts = []
    for index, held, place in scaled:
        # 0 for a process without classes, whose maximum is -inf
        parts.append(held[place] * (rows.maxima[index] - global_maxima[index]).exp_())
    rows.maxima = list(global_maxima)
    # Then everything that adds up goes in one exchange.
    targets = [target_B[:, None] for target_B, _ in plan.targets.values()]
    targets += [score_B[:, None] for score_B in plan.target_scores.values()]
    added = sum_over_world(torch.cat([*parts, *targets], 1), plan.world).split(1, 1)
    for (_, held, place), sum_B1 in zip(scaled, added, strict=False):
        held[place] = sum_B1
    rest = iter(added[len(scaled) :])
    for head, (_, slope_B) in list(plan.targets.items()):
        plan.targets[head] = (next(rest)[:, 0], slope_B)
    for head in plan.target_scores:
        plan.target_scores[head] = next(rest)[:, 0]


def losses_of_sums(plan: Plan, logits: Logits, rows: RowSums, relations: dict[int, Relation]) -> list[Tensor]:
    """Computes the losses (B, 1) by term from the sums over all classes."""
    losses = []
    for number, term in enumerate(plan.terms):
        distribution = plan.distributions[term.student]
        if term.teacher is None:
            # Cross-entropy: log of the sum of exponentials, minus the target's logit.
            target_B1 = plan.targets[distribution.head][0][:, None]
            losses.append(rows.sums[term.student].log() - (target_B1 - rows.maxima[term.student]))
            continue
        if term.kind == "kl":
            # KL: the mean difference of logits under the teacher, plus the difference of log-partition functions.
            loss_B1 = rows.differences[number] / rows.sums[term.teacher]
            loss_B1 += rows.maxima[term.student] - rows.maxima[term.teacher]
            loss_B1 += rows.sums[term.student].log() - rows.sums[term.teacher].log()
        elif term.kind == "target kl":
            # KL of two outcomes, the label and any other class, from their log-odds.
            student_B1, teacher_B1 = (target_odds(logits, rows, side) for side in (term.student, term.teacher))
            loss_B1 = torch.zeros_like(student_B1)
            for sign in (1, -1):
                apart_B1 = functional.logsigmoid(sign * teacher_B1) - functional.logsigmoid(sign * student_B1)
                loss_B1 += (sign * teacher_B1).sigmoid() * apart_B1
        else:
            loss_B1 = relations[number].losses()
        losses.append(loss_B1 * distribution.temperature**2)
    return losses


def target_odds(logits: Logits, rows: RowSums, index: int) -> Tensor:
    """Computes the log-odds (B, 1) of the label, for a distribution that leaves it out."""
    return logits.targets(index) - (rows.maxima[index] + rows.sums[index].log())
