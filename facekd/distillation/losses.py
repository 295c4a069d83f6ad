"""Computes the active losses of a distillation step: the two tables of functions, by the names of `LossWeights`.

Losses on class scores become terms of one pass over the classes, so that no (B, C) matrix is held however many classes
there are. The others are computed from embeddings.

Shapes: B batch, D the student's embedding size, E the teacher's, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from facekd.distillation.centres import adadistill_centres
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distillation.embeddings import embedding_cosine, embedding_l2, simkd
from facekd.distillation.relations import rkd_angle, rkd_distance, sp
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.head.loss_terms import (
    KL,
    Comparison,
    CrossEntropy,
    InterClass,
    IntraClass,
    LazyLogits,
    OthersKL,
    TargetKL,
)


@dataclass(frozen=True)
class LossInputs:
    """Holds the inputs of a step's losses; None where no active loss needs it (`facekd.distillation.weights.Need`).

    Args:
        student_BD: the student's embeddings.
        projected_BE: the same in the teacher's space.
        teacher_BE: the teacher's embeddings of the same images.
        labels_B: int64 labels.
        indices_B: int64 image numbers, already checked.
        positions_B: int64 positions of the images in the run.
        own_head: the student's classifier.
        teacher_head: the teacher's frozen classifier.
        temperature: T of the comparisons of class scores.
        margin_on_teacher_head: whether `th_ce` applies the margin.
        contrastive: CRD with its memory.
        centres_CE: class centres that AdaDistill moves, in place.
        gather_rows: concatenates rows over the processes.
        standardize_logits: whether the comparisons of class scores standardise the logits.
    """

    student_BD: Tensor
    projected_BE: Tensor
    teacher_BE: Tensor | None
    labels_B: Tensor
    indices_B: Tensor
    positions_B: Tensor
    own_head: MarginClassifier | LinearClassifier | None
    teacher_head: MarginClassifier | LinearClassifier | None
    temperature: float
    margin_on_teacher_head: bool
    contrastive: ContrastiveDistillation | None
    centres_CE: Tensor | None
    gather_rows: Callable[[Tensor], Tensor]
    standardize_logits: bool = False

    @property
    def taught_BE(self) -> Tensor:
        """Returns the teacher's embeddings, for losses that need them."""
        assert self.teacher_BE is not None
        return self.teacher_BE

    # Cached, because terms that name the same object are computed once.
    @cached_property
    def own_logits(self) -> LazyLogits:
        """Describes the logits of the student's classifier on the student's embeddings."""
        assert self.own_head is not None
        return LazyLogits.of(self.own_head, self.student_BD)

    @cached_property
    def shared_logits(self) -> LazyLogits:
        """Describes the logits of the teacher's classifier on the student's embeddings."""
        assert self.teacher_head is not None
        return LazyLogits.of(self.teacher_head, self.projected_BE)

    @cached_property
    def teacher_logits(self) -> LazyLogits:
        """Describes the logits of the teacher's classifier on the teacher's embeddings."""
        assert self.teacher_head is not None
        return LazyLogits.of(self.teacher_head, self.taught_BE)


def compute_losses(inputs: LossInputs, active: Container[str]) -> dict[str, Tensor]:
    """Computes the active losses, 0-d float32 each, by name."""
    terms = {name: make_term(inputs) for name, make_term in CLASS_LOSSES.items() if name in active}
    values = dict(zip(terms, chunked_losses(list(terms.values()), inputs.labels_B), strict=True)) if terms else {}
    return values | {name: compute(inputs) for name, compute in EMBEDDING_LOSSES.items() if name in active}


def _th_ce(inputs: LossInputs) -> CrossEntropy:
    logits = inputs.shared_logits
    return CrossEntropy(
        logits if inputs.margin_on_teacher_head else replace(logits, margin=None, others=None, norm_loss=None)
    )


def _crd(inputs: LossInputs) -> Tensor:
    assert inputs.contrastive is not None
    return inputs.contrastive(
        inputs.student_BD, inputs.taught_BE, inputs.indices_B, inputs.positions_B, indices_checked=True
    )


def _adadistill(inputs: LossInputs) -> Tensor:
    """Moves the centres by the images of all processes, then computes this process's margin cross-entropy on them."""
    assert inputs.centres_CE is not None
    students_GE, teachers_GE, labels_G = (
        inputs.gather_rows(rows.detach()) for rows in (inputs.projected_BE, inputs.taught_BE, inputs.labels_B)
    )
    moved_GE = adadistill_centres(students_GE, teachers_GE, labels_G, inputs.centres_CE)
    # In place: the gradient of the last pass over them has been computed.
    inputs.centres_CE.index_copy_(0, labels_G, moved_GE)
    logits = replace(inputs.shared_logits, weight_CD=inputs.centres_CE)
    return chunked_losses([CrossEntropy(logits)], inputs.labels_B)[0]


def _own(kind: type[Comparison], inputs: LossInputs) -> Comparison:
    """Compares the student's own classifier with the teacher's."""
    return kind(inputs.own_logits, inputs.teacher_logits, inputs.temperature, inputs.standardize_logits)


def _shared(kind: type[Comparison], inputs: LossInputs) -> Comparison:
    """Compares student and teacher through the teacher's classifier."""
    return kind(inputs.shared_logits, inputs.teacher_logits, inputs.temperature, inputs.standardize_logits)


# Losses on class scores: each is a term of the one pass over the classes.
CLASS_LOSSES: dict[str, Callable[[LossInputs], CrossEntropy | Comparison]] = {
    "ce": lambda inputs: CrossEntropy(inputs.own_logits),
    "kl": partial(_own, KL),
    "dkd_target": partial(_own, TargetKL),
    "dkd_others": partial(_own, OthersKL),
    "dist_inter": partial(_own, InterClass),
    "dist_intra": partial(_own, IntraClass),
    "th_ce": _th_ce,
    "th_kl": partial(_shared, KL),
    "th_dkd_target": partial(_shared, TargetKL),
    "th_dkd_others": partial(_shared, OthersKL),
    "th_dist_inter": partial(_shared, InterClass),
    "th_dist_intra": partial(_shared, IntraClass),
    "arcdistill": lambda inputs: CrossEntropy(inputs.shared_logits),
}

# Losses on embeddings.
EMBEDDING_LOSSES: dict[str, Callable[[LossInputs], Tensor]] = {
    "embedding_l2": lambda inputs: embedding_l2(inputs.projected_BE, inputs.taught_BE),
    "embedding_cosine": lambda inputs: embedding_cosine(inputs.projected_BE, inputs.taught_BE),
    "simkd": lambda inputs: simkd(inputs.projected_BE, inputs.taught_BE),
    "rkd_distance": lambda inputs: rkd_distance(inputs.student_BD, inputs.taught_BE),
    "rkd_angle": lambda inputs: rkd_angle(inputs.student_BD, inputs.taught_BE),
    "sp": lambda inputs: sp(inputs.student_BD, inputs.taught_BE),
    "crd": _crd,
    "adadistill": _adadistill,
}
