"""Tests the module that a distillation trains, with a backbone of one layer: losses, predictions, targets, buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facekd.data.loading.loader import Batch
from facekd.distillation.contrastive import ContrastiveDistillation, ContrastiveSettings
from facekd.distillation.losses import LossInputs, compute_losses
from facekd.distillation.weights import LossWeights
from facekd.errors import InputError
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.training.distilling.distiller import Distiller, Objective, StudentParts, TeacherParts

BATCH, SIZE, TEACHER_SIZE, CLASSES, IMAGES = 5, 6, 4, 9, 12
PIXELS = torch.randn(BATCH, 3, 2, 2, generator=torch.Generator().manual_seed(1))
TAUGHT = torch.randn(BATCH, TEACHER_SIZE, generator=torch.Generator().manual_seed(2))
LABELS, POSITIONS = torch.tensor([0, 8, 3, 3, 1]), torch.arange(20, 20 + BATCH)
INDICES = POSITIONS % IMAGES


class Embedder:
    """Stands for a teacher: gives the same embeddings for every batch, and counts the checks."""

    def __init__(self) -> None:
        self.checks = 0

    def embed(self, batch: Batch) -> torch.Tensor:
        assert batch.positions is POSITIONS
        return TAUGHT

    def check_finite(self) -> None:
        self.checks += 1


def build(weights: LossWeights, own_head: bool = True, projected: bool = True, **changes: Any) -> Distiller:
    """Builds a distiller with everything that a loss may need; students with a projection have another size."""
    torch.manual_seed(0)
    size = SIZE if projected else TEACHER_SIZE
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, size))
    head = LinearClassifier(size, CLASSES) if own_head else None
    projection = nn.Linear(size, TEACHER_SIZE, bias=False) if projected else None
    student = StudentParts(backbone, head, projection)  # type: ignore[arg-type]
    teacher_head = MarginClassifier(TEACHER_SIZE, CLASSES).requires_grad_(False)
    given: dict[str, Any] = {"embedder": Embedder(), **changes}
    teacher = TeacherParts(teacher_head, given["embedder"], "0123456789abcdef")
    settings = ContrastiveSettings(projection_size=3, num_negatives=4)
    contrastive = ContrastiveDistillation(size, TEACHER_SIZE, IMAGES, settings=settings) if weights.crd else None
    objective = Objective(weights, given.get("margin_on_teacher_head", True), given.get("share"))
    more = {"gather_rows": given["gather_rows"]} if "gather_rows" in given else {}
    return Distiller(
        student, teacher, objective, lambda positions: positions.numpy() % IMAGES, contrastive=contrastive, **more
    )


ALL = LossWeights(1, 2, 3, 4, 0.5, 0.25, 5, 6, 7, 8, 9, 10, 11, temperature=3)


@pytest.mark.parametrize("margin", [True, False])
@pytest.mark.parametrize("projected", [True, False])
def test_the_loss_is_the_weighted_sum_of_all_active_losses(margin: bool, projected: bool) -> None:
    distiller = build(ALL, projected=projected, margin_on_teacher_head=margin)
    again = build(ALL, projected=projected)
    found = distiller(PIXELS, LABELS, INDICES, POSITIONS, TAUGHT)

    student = again.backbone(PIXELS)
    taught = student if again.projection is None else again.projection(student)
    inputs = LossInputs(
        *(student, taught, TAUGHT, LABELS, INDICES, POSITIONS, again.head, again.teacher_head, 3.0, margin),
        *(again.contrastive, again.centres, lambda rows: rows),
    )
    losses = compute_losses(inputs, ALL.active)
    assert distiller.loss_names == ("loss", *(f"loss_{name}" for name in ALL.active))
    expected = torch.stack([ALL.combine(losses), *(losses[name] for name in ALL.active)])
    torch.testing.assert_close(found, expected)
    found[0].backward()
    assert distiller.backbone[1].weight.grad is not None and distiller.teacher_head.weight.grad is None
    assert torch.equal(distiller.centres, again.centres)
    assert not torch.equal(distiller.centres, distiller.teacher_head.weight)
    assert found.dtype == torch.float32


def test_with_several_teachers_losses_on_embeddings_are_their_weighted_sum() -> None:
    weights = LossWeights(ce=2, embedding_l2=3, sp=5)
    other = torch.randn(BATCH, TEACHER_SIZE + 3)
    batch = Batch(torch.zeros(BATCH, 2, 2, 3), LABELS, POSITIONS, torch.zeros(BATCH, dtype=torch.bool), [])

    def losses_with(*taught: torch.Tensor, shares: tuple[float, ...] = (1.0,)) -> torch.Tensor:
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, SIZE))
        head = LinearClassifier(SIZE, CLASSES)
        projections = {size: nn.Linear(SIZE, size, bias=False) for size in (TEACHER_SIZE, TEACHER_SIZE + 3)}
        first, *further = (projections[rows.shape[1]] for rows in taught)
        student = StudentParts(backbone, head, first, further)  # type: ignore[arg-type]
        embedders = [Embedder() for _ in taught]
        teachers = TeacherParts(None, embedders[0], "", embedders[1:], shares)  # type: ignore[arg-type]
        distiller = Distiller(student, teachers, Objective(weights), lambda positions: positions.numpy())
        distiller.check_targets()
        assert [embedder.checks for embedder in embedders] == [1] * len(taught)
        assert (distiller.deployed is backbone) and len(distiller.targets(batch)) == 2 + len(taught)
        return distiller(PIXELS, LABELS, INDICES, POSITIONS, *taught)

    found = losses_with(TAUGHT, other, shares=(0.75, 0.25))
    expected = 0.75 * losses_with(TAUGHT) + 0.25 * losses_with(other)
    torch.testing.assert_close(found, expected)


def test_a_step_of_several_processes_moves_the_centres_by_all_their_rows() -> None:
    seen = []

    def gather(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.shape)
        return rows

    distiller = build(LossWeights(ce=0, adadistill=1), gather_rows=gather)
    distiller(PIXELS, LABELS, INDICES, POSITIONS, TAUGHT)
    assert seen == [(BATCH, TEACHER_SIZE), (BATCH, TEACHER_SIZE), (BATCH,)]


def test_predictions_are_softmaxes_of_each_head_and_their_mix_first() -> None:
    embedding = torch.randn(BATCH, SIZE)
    distiller = build(LossWeights(ce=0.75, th_ce=0.25), share=0.25)
    own = distiller.head(embedding).softmax(1)
    shared = distiller.teacher_head(distiller.projection(embedding)).softmax(1)
    found = distiller.predictions(embedding)
    assert list(found) == ["mix", "head", "teacher_head"]
    torch.testing.assert_close(found["mix"], 0.75 * own + 0.25 * shared)
    assert torch.equal(found["head"], own) and torch.equal(found["teacher_head"], shared)
    for share in (None, 0.0, 1.0):
        assert list(build(LossWeights(th_ce=1), share=share).predictions(embedding)) == ["head", "teacher_head"]
    # A student of the teacher's size, and one that has the teacher's classifier alone.
    same_size = build(LossWeights(th_ce=1), projected=False)
    narrow = embedding[:, :TEACHER_SIZE]
    assert torch.equal(same_size.predictions(narrow)["teacher_head"], same_size.teacher_head(narrow).softmax(1))
    shared_only = build(LossWeights(ce=0, th_ce=1), own_head=False, projected=False)
    assert shared_only.head is shared_only.teacher_head
    assert list(shared_only.predictions(narrow)) == ["teacher_head"]
    assert torch.equal(shared_only.predictions(narrow)["teacher_head"], shared_only.head(narrow).softmax(1))


def test_the_projection_is_deployed_where_only_projected_embeddings_meet_a_classifier() -> None:
    for own_head, projected in ((True, True), (True, False), (False, False)):
        distiller = build(LossWeights(ce=0, th_ce=1), own_head, projected)
        assert distiller.deployed is distiller.backbone
    distiller = build(LossWeights(ce=0, th_ce=1), own_head=False)
    torch.testing.assert_close(distiller.deployed(PIXELS), distiller.projection(distiller.backbone(PIXELS)))


def test_targets_are_image_numbers_positions_and_the_teachers_embeddings() -> None:
    batch = Batch(torch.zeros(BATCH, 2, 2, 3), LABELS, POSITIONS, torch.zeros(BATCH, dtype=torch.bool), [])
    distiller = build(LossWeights(kl=1))
    for found, expected in zip(distiller.targets(batch), (INDICES, POSITIONS, TAUGHT), strict=True):
        assert torch.equal(found, expected)
    distiller.check_targets()
    assert distiller._teachers[0].checks == 1  # type: ignore[union-attr]
    without = build(LossWeights(ce=1), embedder=None)
    assert [tensor.tolist() for tensor in without.targets(batch)] == [INDICES.tolist(), POSITIONS.tolist()]
    without.check_targets()
    # CRD is asked first whether it knows the images.
    remembering = build(LossWeights(crd=1))
    remembering._indices_of = lambda positions: np.full(len(positions), IMAGES)
    with pytest.raises(InputError, match=f"image index {IMAGES} is outside"):
        remembering.targets(batch)


def test_the_log_names_losses_and_teacher_and_checkpoints_hold_centres_where_they_move() -> None:
    distiller = build(LossWeights(kl=1.5, temperature=2))
    assert distiller.summary_lines == "\nloss       ce 1, kl 1.5 (T 2); teacher 0123456789ab"
    assert distiller.loss_names == ("loss", "loss_ce", "loss_kl")
    assert distiller.teacher_fingerprint == "0123456789abcdef"
    assert "centres" not in distiller.state_dict()
    moving = build(LossWeights(adadistill=1))
    assert torch.equal(moving.state_dict()["centres"], moving.teacher_head.weight)
    assert moving.centres.data_ptr() != moving.teacher_head.weight.data_ptr()
    assert moving.rank_invariant_buffers == ("centres", "contrastive.")
