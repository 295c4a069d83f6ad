"""Compares ArcDistill and AdaDistill with the classifier and with naive loops; tests how centres move."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.distillation import adadistill, adadistill_centres, arcdistill
from facekd.errors import InputError
from facekd.head.classifier import MarginClassifier
from facekd.head.config import HeadConfig
from facekd.margins import arcface, cosface, no_margin

LABELS = torch.tensor([3, 0, 3, 5, 1, 3])


def batch(seed=0, size=4, classes=7):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(6, size, generator=generator, dtype=torch.float64)
    teacher = student + 0.7 * torch.randn(6, size, generator=generator, dtype=torch.float64)
    centres = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    centres[LABELS] += 0.5 * teacher
    return student, teacher, centres


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def naive_centres(student, teacher, labels, centres):
    """Moves centres one image at a time, then takes the mean over the images of a class."""
    wishes: dict[int, list[list[float]]] = {}
    for f_s, f_t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        w = centres[label].tolist()
        alpha = min(max(cosine(f_s, f_t) * min(max(cosine(w, f_t), 0.0), 1.0), 0.0), 1.0)
        length = math.hypot(*f_t)
        wishes.setdefault(label, []).append([alpha * a + (1 - alpha) * b / length for a, b in zip(w, f_t, strict=True)])
    means = {label: [sum(values) / len(rows) for values in zip(*rows, strict=True)] for label, rows in wishes.items()}
    return torch.tensor([means[label] for label in labels.tolist()], dtype=torch.float64)


def naive_cross_entropy(student, labels, centres, margin, scale):
    total = 0.0
    for f_s, label in zip(student.tolist(), labels.tolist(), strict=True):
        logits = [scale * cosine(f_s, w) for w in centres.tolist()]
        angle = math.acos(logits[label] / scale) + margin
        assert angle < math.pi
        logits[label] = scale * math.cos(angle)
        total += math.log(sum(map(math.exp, logits))) - logits[label]
    return total / len(labels)


# ---- frozen centres --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_arcdistill_is_the_definition(seed):
    student, _, centres = batch(seed)
    loss = arcdistill(student, LABELS, centres, margin=functools.partial(arcface, margin=0.3), scale=8)
    assert loss.item() == pytest.approx(naive_cross_entropy(student, LABELS, centres, 0.3, 8), abs=1e-12)


def test_arcdistill_is_the_teachers_classifier_on_the_students_embedding():
    student, _, centres = batch()
    for config, margin in (
        (HeadConfig(), arcface),
        (HeadConfig(margin="cosface", margin_value=0.2, scale=30), functools.partial(cosface, margin=0.2)),
        (HeadConfig(margin="none", scale=16), no_margin),
    ):
        head = MarginClassifier(4, 7, config).double()
        with torch.no_grad():
            head.weight.copy_(centres)
        expected = torch.nn.functional.cross_entropy(head(student, LABELS), LABELS)
        torch.testing.assert_close(arcdistill(student, LABELS, centres, margin=margin, scale=config.scale), expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10))
def test_lengths_and_a_common_rotation_do_not_matter(seed, scale):
    student, _, centres = batch(seed)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    expected = arcdistill(student, LABELS, centres)
    torch.testing.assert_close(arcdistill(scale * student @ rotation, LABELS, centres @ rotation / scale), expected)


def test_gradients_reach_the_student_alone():
    student, teacher, centres = (values.requires_grad_() for values in batch())
    (arcdistill(student, LABELS, centres) + adadistill(student, teacher, LABELS, centres)[0]).backward()
    assert student.grad is not None and teacher.grad is None and centres.grad is None


def test_gradient_of_arcdistill():
    student, _, centres = batch()
    torch.autograd.gradcheck(lambda values: arcdistill(values, LABELS, centres, scale=8), student.requires_grad_())


# ---- moving centres --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_centres_move_by_the_definition(seed):
    student, teacher, centres = batch(seed)
    rows = adadistill_centres(student, teacher, LABELS, centres)
    torch.testing.assert_close(rows, naive_centres(student, teacher, LABELS, centres), rtol=0, atol=1e-12)
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[0], rows[5])  # three images of one class


def test_the_loss_is_taken_on_the_moved_centres_and_nothing_is_written():
    student, teacher, centres = batch()
    before = centres.clone()
    loss, rows = adadistill(student, teacher, LABELS, centres, scale=8)
    assert torch.equal(centres, before) and not rows.requires_grad
    moved = centres.index_copy(0, LABELS, rows)
    torch.testing.assert_close(loss, arcdistill(student, LABELS, moved, scale=8))
    untouched = [row for row in range(7) if row not in LABELS.tolist()]
    assert torch.equal(moved[untouched], before[untouched])


def test_gradient_of_adadistill_is_that_on_the_moved_centres():
    student, teacher, centres = batch()
    student.requires_grad_()
    loss, rows = adadistill(student, teacher, LABELS, centres)
    expected = arcdistill(student, LABELS, centres.index_copy(0, LABELS, rows))
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))


def test_a_student_like_its_teacher_on_the_centre_leaves_the_centre_alone():
    _, _, centres = batch()
    on_centre = 3 * centres[LABELS]
    torch.testing.assert_close(adadistill_centres(on_centre, 2 * on_centre, LABELS, centres), centres[LABELS])


def test_a_student_against_its_teacher_hands_the_centre_to_the_teacher():
    _, teacher, centres = batch()
    labels = torch.arange(6)
    rows = adadistill_centres(-teacher, teacher, labels, centres)
    torch.testing.assert_close(rows, torch.nn.functional.normalize(teacher))
    # So does a centre on the far side of its image, even when both cosines are negative and their product is not.
    rows = adadistill_centres(-teacher, teacher, labels, -teacher)
    torch.testing.assert_close(rows, torch.nn.functional.normalize(teacher))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10))
def test_order_of_the_batch_and_lengths_of_embeddings_do_not_matter(seed, scale):
    student, teacher, centres = batch(seed)
    rows = adadistill_centres(student, teacher, LABELS, centres)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = adadistill_centres(scale * student[order], teacher[order] / scale, LABELS[order], centres)
    torch.testing.assert_close(shuffled, rows[order])


def test_rows_have_the_dtype_of_the_centres():
    student, teacher, centres = batch()
    assert adadistill_centres(student.float(), teacher.half(), LABELS, centres.bfloat16()).dtype == torch.bfloat16


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_sizes_and_labels_are_checked():
    student, teacher, centres = batch()
    with pytest.raises(InputError, match=r"has 3 values and the teacher's class centres 4.*projection \(3 to 4\)"):
        arcdistill(student[:, :3], LABELS, centres)
    with pytest.raises(InputError, match=r"loss.adadistill.*projection \(3 to 4\)"):
        adadistill(student[:, :3], teacher, LABELS, centres)
    with pytest.raises(InputError, match=r"loss.adadistill needs one size"):
        adadistill_centres(student, teacher, LABELS, centres[:, :3])
    with pytest.raises(InputError, match=r"class centres of shape \(C, D\)"):
        arcdistill(student, LABELS, centres[0])
    with pytest.raises(InputError, match="5 labels for 6"):
        adadistill(student, teacher, LABELS[:5], centres)
    for loss in (
        lambda labels: arcdistill(student, labels, centres),
        lambda labels: adadistill_centres(student, teacher, labels, centres),
    ):
        with pytest.raises(InputError, match=r"label 7 .* outside \[0, 7\)"):
            loss(LABELS + 2)
