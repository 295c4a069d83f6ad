"""Tests the tables of losses: their names agree, and each loss uses exactly what its row says it needs."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from facekd.distillation import LossWeights
from facekd.distillation.contrastive import ContrastiveDistillation, ContrastiveSettings
from facekd.distillation.losses import CLASS_LOSSES, EMBEDDING_LOSSES, LossInputs, compute_losses
from facekd.distillation.weights import COMPARED_SCORES, LOSS_NEEDS, Need
from facekd.head.classifier import MarginClassifier

BATCH, SIZE, TEACHER_SIZE, CLASSES = 5, 6, 4, 9


def offer(**changes: object) -> LossInputs:
    """Returns all that a step can offer, with changes (None: missing); student and teacher differ in size."""
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (BATCH,))
    teacher_head = MarginClassifier(TEACHER_SIZE, CLASSES).requires_grad_(False)
    settings = ContrastiveSettings(projection_size=3, num_negatives=4)
    offered = {
        "student_BD": torch.randn(BATCH, SIZE, requires_grad=True),
        "projected_BE": torch.randn(BATCH, TEACHER_SIZE, requires_grad=True),
        "teacher_BE": torch.randn(BATCH, TEACHER_SIZE),
        "labels_B": labels,
        "indices_B": torch.arange(BATCH),
        "positions_B": torch.arange(BATCH),
        "own_head": MarginClassifier(SIZE, CLASSES),
        "teacher_head": teacher_head,
        "temperature": 4.0,
        "standardize_logits": False,
        "margin_on_teacher_head": True,
        "contrastive": ContrastiveDistillation(SIZE, TEACHER_SIZE, 2 * BATCH, settings=settings),
        "centres_CE": teacher_head.weight.detach().clone(),
        "gather_rows": lambda rows: rows,
    }
    return LossInputs(**{**offered, **changes})  # type: ignore[arg-type]


def test_weights_needs_and_functions_have_the_same_names() -> None:
    options = ("temperature", "standardize_logits", "plugin")
    fields = [field.name for field in dataclasses.fields(LossWeights) if field.name not in options]
    assert list(LOSS_NEEDS) == fields
    assert sorted([*CLASS_LOSSES, *EMBEDDING_LOSSES]) == sorted(fields)


# What is offered for a need, and taken away where a loss does not have it.
OFFERED = {
    Need.OWN_HEAD: "own_head",
    Need.TEACHER_HEAD: "teacher_head",
    Need.TEACHER_EMBEDDING: "teacher_BE",
    Need.MOVING_CENTRES: "centres_CE",
    Need.MEMORY: "contrastive",
}


@pytest.mark.parametrize("name", LOSS_NEEDS)
def test_a_loss_works_with_what_it_needs_and_with_nothing_less(name: str) -> None:
    needs = LOSS_NEEDS[name]
    unneeded = {argument: None for need, argument in OFFERED.items() if not needs & need}
    inputs = offer(**unneeded)
    (value,) = compute_losses(inputs, {name}).values()
    assert value.ndim == 0 and value.dtype == torch.float32 and value.isfinite()
    value.backward()
    # The student learns through the embedding of the space that the table names.
    grads = {True: inputs.projected_BE.grad, False: inputs.student_BD.grad}
    assert grads[bool(needs & Need.TEACHER_SPACE)] is not None and grads[not needs & Need.TEACHER_SPACE] is None
    for need, argument in OFFERED.items():
        if needs & need:
            with pytest.raises(AssertionError):
                compute_losses(offer(**unneeded, **{argument: None}), {name})


def test_only_active_losses_are_computed_and_all_at_once_equals_one_by_one() -> None:
    together = compute_losses(offer(), LOSS_NEEDS.keys())
    assert together.keys() == LOSS_NEEDS.keys()
    for name, value in together.items():
        alone = compute_losses(offer(), {name})
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name], value)


def test_the_margin_on_the_teachers_head_can_be_left_out() -> None:
    with_margin = compute_losses(offer(), {"th_ce", "arcdistill"})
    without = compute_losses(dataclasses.replace(offer(), margin_on_teacher_head=False), {"th_ce", "arcdistill"})
    assert torch.equal(with_margin["th_ce"], with_margin["arcdistill"])
    assert without["th_ce"] < with_margin["th_ce"] and torch.equal(without["arcdistill"], with_margin["arcdistill"])


def test_every_loss_with_a_temperature_follows_it_and_standardised_logits() -> None:
    names = {name for name in LOSS_NEEDS if name.removeprefix("th_") in COMPARED_SCORES}
    plain = compute_losses(offer(), LOSS_NEEDS.keys())
    for changes in ({"temperature": 2.0}, {"standardize_logits": True}):
        changed = compute_losses(offer(**changes), LOSS_NEEDS.keys())
        assert {name for name in LOSS_NEEDS if not torch.equal(plain[name], changed[name])} == names


def test_contrastive_negatives_follow_the_positions_of_the_images_in_the_run() -> None:
    later = dataclasses.replace(offer(), positions_B=torch.arange(BATCH) + 70)
    plain = offer()
    assert plain.contrastive is not None and plain.teacher_BE is not None
    expected = plain.contrastive(plain.student_BD, plain.teacher_BE, plain.indices_B, later.positions_B)
    assert torch.equal(compute_losses(later, {"crd"})["crd"], expected)
    assert not torch.equal(compute_losses(offer(), {"crd"})["crd"], expected)


def test_adadistill_is_the_margin_loss_on_the_centres_that_it_has_moved() -> None:
    inputs = offer()
    found = compute_losses(inputs, {"adadistill"})["adadistill"]
    moved = copy.deepcopy(inputs.teacher_head)
    assert isinstance(moved, MarginClassifier) and inputs.centres_CE is not None
    assert not torch.equal(inputs.centres_CE, moved.weight)
    moved.weight.copy_(inputs.centres_CE)
    assert torch.equal(found, compute_losses(offer(teacher_head=moved), {"arcdistill"})["arcdistill"])
