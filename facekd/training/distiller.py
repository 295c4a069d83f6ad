"""A student and what it learns by: the module whose `forward` is the loss of a distillation.

TH-KD and SH-KD: "It's All in the Head" (arXiv:2201.06945). Shapes: B batch, D the student's embedding size, E the
teacher's, C classes, K losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from facekd import distillation
from facekd.backbones import Backbone, ProjectedBackbone
from facekd.data.loading.loader import Batch
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distillation.weights import LossWeights
from facekd.head.chunked_loss import KL, CrossEntropy, LazyLogits, chunked_losses
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.teacher.teacher import CachedTeacher, LiveTeacher
from facekd.training.recognizer import Recognizer

GatherRows = Callable[[Tensor], Tensor]


class Distiller(Recognizer):
    """A student's backbone and classifier, the teacher's frozen classifier, and the losses between them.

    Args:
        backbone: the student's, images to (B, D).
        head: its own classifier; None where the teacher's is its only one.
        teacher_head: the teacher's classifier on (B, E), frozen; None where no loss asks for it.
        projection: D to E, where the sizes differ and a loss compares in the teacher's space.
        weights: which losses, and how much of each.
        teacher: gives the embeddings (B, E) of a batch; None where no loss uses them.
        indices_of: image numbers of positions in the run.
        margin_on_teacher_head: whether `th_ce` demands the margin.
        share: a, by which predictions of both heads are mixed; None where the losses are weighed singly.
        contrastive: CRD with its memory, where it is active.
        gather_rows: concatenates rows over the processes.
        teacher_fingerprint: of the teacher's weights and preprocessing, kept in checkpoints.
    """

    centres: Tensor  # (C, E), those that AdaDistill moves

    rank_invariant_buffers = ("centres", "contrastive.")  # moved by the gathered rows of all processes

    def __init__(
        self,
        backbone: Backbone,
        head: MarginClassifier | LinearClassifier | None,
        teacher_head: MarginClassifier | LinearClassifier | None,
        projection: nn.Linear | None,
        weights: LossWeights,
        teacher: LiveTeacher | CachedTeacher | None,
        indices_of: Callable[[Tensor], np.ndarray],
        *,
        margin_on_teacher_head: bool = True,
        share: float | None = None,
        contrastive: ContrastiveDistillation | None = None,
        gather_rows: GatherRows = lambda rows: rows,
        teacher_fingerprint: str = "",
    ) -> None:
        # A student that owns no classifier is recognised by the teacher's: that is what its checkpoint carries.
        super().__init__(backbone, head or teacher_head or nn.Identity())
        self.owns_head = head is not None
        self.teacher_head = teacher_head
        self.projection = projection
        self.contrastive = contrastive
        self.weights = weights
        self.margin_on_teacher_head = margin_on_teacher_head
        self.share = share
        self.teacher_fingerprint = teacher_fingerprint
        self.summary_lines = f"\nloss       {weights}; teacher {teacher_fingerprint[:12]}"
        self.loss_names = ("loss", *(f"loss_{name}" for name in weights.active))
        self._teacher = teacher
        self._indices_of = indices_of
        self._gather_rows = gather_rows
        if "adadistill" in weights.active:
            assert teacher_head is not None
            self.register_buffer("centres", teacher_head.weight.detach().clone())

    @property
    def deployed(self) -> nn.Module:
        """The backbone, with the projection behind it where only projected embeddings meet a classifier."""
        if self.projection is None or self.owns_head:
            return self.backbone
        return ProjectedBackbone(self.backbone, self.projection)  # type: ignore[arg-type]

    def predictions(self, embedding: Tensor) -> dict[str, Tensor]:
        """Of the student's own head, the teacher's, and with `share` (1 - a) p_s + a p_s^TH; the one to use first."""
        if not self.owns_head:
            return {"teacher_head": self.head(embedding).softmax(1)}
        found = {"head": self.head(embedding).softmax(1)}
        if self.teacher_head is not None:
            projected = embedding if self.projection is None else self.projection(embedding)
            found["teacher_head"] = self.teacher_head(projected).softmax(1)
            if self.share is not None and 0 < self.share < 1:
                mixed = distillation.mix(found["head"], found["teacher_head"], self.share)
                found = {"mix": mixed, **found}
        return found

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        """Image numbers and positions of a batch, and the teacher's embeddings.

        Raises:
            InputError: CRD remembers no such image; found here, on the host, so that no pass waits for the GPU.
        """
        device = next(self.backbone.parameters()).device
        indices = torch.from_numpy(np.ascontiguousarray(self._indices_of(batch.positions)))
        if self.contrastive is not None:
            self.contrastive.check_indices(indices)
        targets = [indices, batch.positions]
        if self._teacher is not None:
            targets.append(self._teacher.embed(batch))
        return tuple(tensor.to(device, non_blocking=True) for tensor in targets)

    def check_targets(self) -> None:
        """See `Recognizer.check_targets`."""
        if self._teacher is not None:
            self._teacher.check_finite()

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        positions: Tensor,
        teacher_BE: Tensor | None = None,
    ) -> Tensor:
        """(1 + K,) float32: the weighted sum, then each active loss, as `loss_names` has them.

        Args:
            images: float (B, 3, S, S).
            labels: (B,) int64.
            indices: (B,) int64, image numbers; from `targets`, which has checked them.
            positions: (B,) int64, places in the run.
            teacher_BE: the teacher's embeddings of the same images, mirrored alike.
        """
        student_BD = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            student_BD = student_BD.float()
            projected_BE = student_BD if self.projection is None else self.projection(student_BD)
        # Not in there: a head with `product: autocast` takes its half type from the surroundings.
        terms = self._classifier_terms(student_BD, projected_BE, teacher_BE, labels)
        if teacher_BE is not None:
            terms |= self._embedding_terms(student_BD, projected_BE, teacher_BE, labels, indices, positions)
        total = self.weights.combine(terms)
        return torch.stack([total, *(terms[name].detach() for name in self.weights.active)])

    def _classifier_terms(
        self, student_BD: Tensor, projected_BE: Tensor, teacher_BE: Tensor | None, labels: Tensor
    ) -> dict[str, Tensor]:
        """What goes through a classifier, in one pass over the classes: no (B, C) matrix however many they are."""
        active, temperature = self.weights.active, self.weights.temperature
        wanted: dict[str, CrossEntropy | KL] = {}
        own = shared = teacher = None
        if self.owns_head:
            own = LazyLogits.of(self.head, student_BD)  # type: ignore[arg-type]
        if self.teacher_head is not None:
            if {"th_ce", "th_kl", "arcdistill"} & active.keys():
                shared = LazyLogits.of(self.teacher_head, projected_BE)
            if teacher_BE is not None:
                teacher = LazyLogits.of(self.teacher_head, teacher_BE)
        if "ce" in active and own is not None:
            wanted["ce"] = CrossEntropy(own)
        if "kl" in active and own is not None and teacher is not None:
            wanted["kl"] = KL(own, teacher, temperature)
        if "th_ce" in active and shared is not None:
            wanted["th_ce"] = CrossEntropy(shared if self.margin_on_teacher_head else replace(shared, margin=None))
        if "th_kl" in active and shared is not None and teacher is not None:
            wanted["th_kl"] = KL(shared, teacher, temperature)
        if "arcdistill" in active and shared is not None:
            wanted["arcdistill"] = CrossEntropy(shared)
        return dict(zip(wanted, chunked_losses(list(wanted.values()), labels), strict=True)) if wanted else {}

    def _embedding_terms(
        self,
        student_BD: Tensor,
        projected_BE: Tensor,
        teacher_BE: Tensor,
        labels: Tensor,
        indices: Tensor,
        positions: Tensor,
    ) -> dict[str, Tensor]:
        active = self.weights.active
        terms: dict[str, Tensor] = {}
        for name in ("embedding_l2", "embedding_cosine", "simkd"):
            if name in active:
                terms[name] = getattr(distillation, name)(projected_BE, teacher_BE)
        for name in ("rkd_distance", "rkd_angle", "sp"):
            if name in active:
                terms[name] = getattr(distillation, name)(student_BD, teacher_BE)
        if "crd" in active:
            assert self.contrastive is not None
            terms["crd"] = self.contrastive(student_BD, teacher_BE, indices, positions, indices_checked=True)
        if "adadistill" in active:
            terms["adadistill"] = self._adadistill(projected_BE, teacher_BE, labels)
        return terms

    def _adadistill(self, projected_BE: Tensor, teacher_BE: Tensor, labels: Tensor) -> Tensor:
        """Move the centres by the images of every process, then the margin cross-entropy of this one's on them."""
        assert self.teacher_head is not None
        students_GE, teachers_GE, labels_G = (
            self._gather_rows(rows.detach()) for rows in (projected_BE, teacher_BE, labels)
        )
        moved_GE = distillation.adadistill_centres(students_GE, teachers_GE, labels_G, self.centres)
        self.centres.index_copy_(0, labels_G, moved_GE)  # in place: the gradient of the last pass has been taken
        logits = replace(LazyLogits.of(self.teacher_head, projected_BE), weight_CD=self.centres)
        return chunked_losses([CrossEntropy(logits)], labels)[0]
