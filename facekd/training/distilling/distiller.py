"""Defines the module that a distillation trains: its `forward` is the loss of a student that learns from a teacher.

TH-KD and SH-KD: "It's All in the Head" (arXiv:2201.06945). Shapes: B batch, D the student's embedding size, E the
teacher's, C classes, K losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from facekd.backbones import Backbone, ProjectedBackbone
from facekd.data.loading.loader import Batch
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distillation.logits import mix
from facekd.distillation.losses import LossInputs, compute_losses
from facekd.distillation.weights import LOSS_NEEDS, LossWeights, Need
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.teacher.mean_teacher import MeanTeacher
from facekd.teacher.teacher import CachedTeacher, LiveTeacher
from facekd.training.recognizer import Recognizer

GatherRows = Callable[[Tensor], Tensor]
Head = MarginClassifier | LinearClassifier
Embedder = LiveTeacher | CachedTeacher | MeanTeacher


@dataclass(frozen=True)
class StudentParts:
    """Holds the student's modules.

    Args:
        backbone: images to embeddings (B, D).
        head: the student's own classifier; None where the teacher's is its only one.
        projection: D to E, where the sizes differ and a loss compares in the teacher's space.
        further_projections: the same for each teacher after the first, where losses are computed with each.
    """

    backbone: Backbone
    head: Head | None = None
    projection: nn.Linear | None = None
    further_projections: Sequence[nn.Linear | None] = ()


@dataclass(frozen=True)
class TeacherParts:
    """Holds what the student learns from.

    Args:
        head: the teacher's frozen classifier on (B, E); None where no loss needs it.
        embedder: gives the teacher's embeddings (B, E) of a batch; None where no loss needs them.
        fingerprint: hash of the teacher's weights and preprocessing, kept in checkpoints.
        further: more teachers, each with an embedding size of its own, with which losses on embeddings are computed.
        shares: the share of each teacher in these losses, that of `embedder` first; they sum to 1.
    """

    head: Head | None = None
    embedder: Embedder | None = None
    fingerprint: str = ""
    further: Sequence[Embedder] = ()
    shares: Sequence[float] = (1.0,)


@dataclass(frozen=True)
class Objective:
    """Holds what is minimised.

    Args:
        weights: which losses, and the weight of each.
        margin_on_teacher_head: whether `th_ce` applies the margin.
        share: a of TH-KD, by which the predictions of both heads are mixed; None where losses are weighted one by one.
    """

    weights: LossWeights
    margin_on_teacher_head: bool = True
    share: float | None = None


class Distiller(Recognizer):
    """Computes the losses between a student and its teacher.

    Args:
        student: backbone, classifier and projection of the student.
        teacher: the teacher's frozen classifier and its embeddings.
        objective: the losses and their weights.
        indices_of: returns the image numbers of positions in the run.
        contrastive: CRD with its memory, where it is active.
        gather_rows: concatenates rows over the processes.
    """

    centres: Tensor  # (C, E), class centres that AdaDistill moves

    rank_invariant_buffers: tuple[str, ...] = ("centres", "contrastive.")  # moved by the gathered rows of all processes

    def __init__(
        self,
        student: StudentParts,
        teacher: TeacherParts,
        objective: Objective,
        indices_of: Callable[[Tensor], np.ndarray],
        *,
        contrastive: ContrastiveDistillation | None = None,
        gather_rows: GatherRows = lambda rows: rows,
    ) -> None:
        # A student without a classifier of its own recognises by the teacher's, and its checkpoint has that one.
        super().__init__(student.backbone, student.head or teacher.head or nn.Identity())
        self.owns_head: bool = student.head is not None
        self.teacher_head: Head | None = teacher.head
        self.projection: nn.Linear | None = student.projection
        self.further_projections: nn.ModuleList = nn.ModuleList(
            part or nn.Identity() for part in student.further_projections
        )
        self.contrastive = contrastive
        # What is logged.
        weights = objective.weights
        self.objective = objective
        self.teacher_fingerprint: str = teacher.fingerprint
        self.summary_lines: str = f"\nloss       {weights}; teacher {teacher.fingerprint[:12]}"
        self.loss_names: tuple[str, ...] = ("loss", *(f"loss_{name}" for name in weights.active))
        self._teachers = [*(() if teacher.embedder is None else (teacher.embedder,)), *teacher.further]
        self._shares = list(teacher.shares)
        self._indices_of = indices_of
        self._gather_rows = gather_rows
        if weights.needs(Need.MOVING_CENTRES):
            assert teacher.head is not None
            self.register_buffer("centres", teacher.head.weight.detach().clone())

    @property
    def deployed(self) -> nn.Module:
        """Returns the backbone, followed by the projection where only projected embeddings meet a classifier.

        None does where the student learns from several teachers one by one: it has a projection for each.
        """
        if self.projection is None or self.owns_head or len(self.further_projections):
            return self.backbone
        return ProjectedBackbone(self.backbone, self.projection)  # type: ignore[arg-type]

    def predictions(self, embedding: Tensor) -> dict[str, Tensor]:
        """Returns probabilities by classifier: the student's, the teacher's, and with `share` their mix.

        The mix is (1 - a) p_s + a p_s^TH; the first one is the one to use.
        """
        if not self.owns_head:
            return {"teacher_head": self.head(embedding).softmax(1)}
        found = {"head": self.head(embedding).softmax(1)}
        if self.teacher_head is not None:
            projected = embedding if self.projection is None else self.projection(embedding)
            found["teacher_head"] = self.teacher_head(projected).softmax(1)
            share = self.objective.share
            if share is not None and 0 < share < 1:
                mixed = mix(found["head"], found["teacher_head"], share)
                found = {"mix": mixed, **found}
        return found

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        """Returns image numbers and positions of a batch, and the embeddings of each teacher.

        Raises:
            InputError: CRD has no memory of such an image; checked here, on the host, so that no pass waits for a GPU.
        """
        device = next(self.backbone.parameters()).device
        indices = torch.from_numpy(np.ascontiguousarray(self._indices_of(batch.positions)))
        if self.contrastive is not None:
            self.contrastive.check_indices(indices)
        targets = [indices, batch.positions]
        targets += [teacher.embed(batch) for teacher in self._teachers]
        return tuple(tensor.to(device, non_blocking=True) for tensor in targets)

    def check_targets(self) -> None:
        """Checks what the teachers have given, see `Recognizer.check_targets`."""
        for teacher in self._teachers:
            teacher.check_finite()

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        positions: Tensor,
        *teachers_BE: Tensor,
    ) -> Tensor:
        """Returns (1 + K,) float32: the weighted sum, then each active loss, in the order of `loss_names`.

        Args:
            images: float (B, 3, S, S).
            labels: (B,) int64.
            indices: (B,) int64, image numbers from `targets`, which has checked them.
            positions: (B,) int64, positions in the run.
            teachers_BE: each teacher's embeddings of the same images, with the same ones mirrored.
        """
        # Embeddings, and the projection in full precision.
        student_BD = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            student_BD = student_BD.float()
            projected_BE = student_BD if self.projection is None else self.projection(student_BD)
            further_BE = [project(student_BD) for project in self.further_projections]
        # The losses run in the caller's autocast: a head with `product: autocast` takes its half type from there.
        weights = self.objective.weights
        inputs = LossInputs(
            student_BD=student_BD,
            projected_BE=projected_BE,
            teacher_BE=teachers_BE[0] if teachers_BE else None,
            labels_B=labels,
            indices_B=indices,
            positions_B=positions,
            own_head=self.head if self.owns_head else None,  # type: ignore[arg-type]
            teacher_head=self.teacher_head,
            temperature=weights.temperature,
            standardize_logits=weights.standardize_logits,
            margin_on_teacher_head=self.objective.margin_on_teacher_head,
            contrastive=self.contrastive,
            centres_CE=self.centres if weights.needs(Need.MOVING_CENTRES) else None,
            gather_rows=self._gather_rows,
        )
        losses = compute_losses(inputs, weights.active)
        # With several teachers, what depends on a teacher is computed with each of them.
        if further_BE:
            taught = [name for name in weights.active if LOSS_NEEDS[name] & Need.TEACHER_EMBEDDING]
            of_each = [losses]
            for projected_BE, teacher_BE in zip(further_BE, teachers_BE[1:], strict=True):
                of_each.append(
                    compute_losses(replace(inputs, projected_BE=projected_BE, teacher_BE=teacher_BE), taught)
                )
            for name in taught:
                parts = zip(self._shares, of_each, strict=True)
                losses[name] = torch.stack([share * found[name] for share, found in parts]).sum()
        return torch.stack([weights.combine(losses), *(losses[name].detach() for name in weights.active)])
