"""Compares losses on relations in the batch with loops over pairs and triples; tests invariances and pieces."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.distillation import relations, rkd_angle, rkd_distance, sp
from facekd.errors import InputError

RELATIONS = [rkd_distance, rkd_angle, sp]
SEEDS = st.integers(0, 2**31)


def random_pair(seed=0, batch=7, student_size=3, teacher_size=5):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, student_size, generator=generator, dtype=torch.float64)
    return student, torch.randn(batch, teacher_size, generator=generator, dtype=torch.float64)


def huber(difference):
    size = abs(difference)
    return size**2 / 2 if size <= 1 else size - 0.5


def naive_rkd_distance(student, teacher):
    def relations(rows):
        distances = [[math.dist(a, b) for b in rows] for a in rows]
        mean = sum(map(sum, distances)) / (len(rows) * (len(rows) - 1))
        return [value / mean for row in distances for value in row]

    pairs = list(zip(relations(student.tolist()), relations(teacher.tolist()), strict=True))
    return sum(huber(a - b) for a, b in pairs) / len(pairs)


def naive_rkd_angle(student, teacher):
    def cosine(rows, i, j, k):
        first = [a - b for a, b in zip(rows[i], rows[j], strict=True)]
        second = [a - b for a, b in zip(rows[k], rows[j], strict=True)]
        lengths = math.hypot(*first) * math.hypot(*second)
        return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0

    student, teacher = student.tolist(), teacher.tolist()
    batch = range(len(student))
    triples = [(i, j, k) for i in batch for j in batch for k in batch]
    return sum(huber(cosine(student, *triple) - cosine(teacher, *triple)) for triple in triples) / len(triples)


def naive_sp(student, teacher):
    def rows_of_length_one(rows):
        products = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        return [value / math.hypot(*row) for row in products for value in row]

    pairs = list(zip(rows_of_length_one(student.tolist()), rows_of_length_one(teacher.tolist()), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


NAIVE = {rkd_distance: naive_rkd_distance, rkd_angle: naive_rkd_angle, sp: naive_sp}


@pytest.mark.parametrize("loss", RELATIONS)
@settings(max_examples=10)
@given(seed=SEEDS, batch=st.integers(3, 8))
def test_relations_are_the_definition(loss, seed, batch):
    student, teacher = random_pair(seed, batch)
    student[0] *= 20  # so that the linear part of the Huber function is reached too
    assert loss(student, teacher).item() == pytest.approx(NAIVE[loss](student, teacher), abs=1e-12)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_normalize_is_the_loss_of_directions(loss):
    student, teacher = random_pair()
    directions = student / student.norm(dim=1, keepdim=True), teacher / teacher.norm(dim=1, keepdim=True)
    torch.testing.assert_close(loss(student, teacher, normalize=True), loss(*directions))
    assert loss(student, teacher, normalize=True) != loss(student, teacher)


@pytest.mark.parametrize("loss", RELATIONS)
@settings(max_examples=15)
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_scale_and_rotation_of_either_side_do_not_matter(loss, seed, scale):
    student, teacher = random_pair(seed)
    value = loss(student, teacher)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    torch.testing.assert_close(loss(scale * student, teacher @ rotation / scale), value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss(teacher, student), value)  # each is symmetric in the two sides
    if loss is not sp:  # which looks at inner products, so the origin counts
        torch.testing.assert_close(loss(student + scale, teacher - scale), value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", RELATIONS)
def test_zero_for_a_teacher_seen_through_a_rotation_into_more_dimensions(loss):
    student, _ = random_pair()
    generator = torch.Generator().manual_seed(9)
    embed = torch.linalg.qr(torch.randn(5, 3, generator=generator, dtype=torch.float64))[0].T
    assert loss(student, 3 * student @ embed).item() == pytest.approx(0, abs=1e-12)


def test_large_batches_in_pieces_give_the_same_value_and_gradient(monkeypatch):
    student, teacher = random_pair(batch=11)
    results = []
    for elements in (2**25, 2 * 11 * 11):  # in one piece, and 2 corners at a time with a remainder
        monkeypatch.setattr(relations, "ANGLE_ELEMENTS", elements)
        leaf = student.clone().requires_grad_()
        value = rkd_angle(leaf, teacher)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", RELATIONS)
def test_embeddings_that_have_collapsed_give_finite_values_and_gradients(loss):
    student, teacher = random_pair()
    leaf = torch.ones_like(student).requires_grad_()
    value = loss(leaf, teacher)
    value.backward()
    assert value.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()


def test_sp_holds_for_long_embeddings_in_float32():
    student, teacher = random_pair()
    value = sp((student * 1e15).float(), (teacher * 1e-15).float())
    assert value.item() == pytest.approx(sp(student, teacher).item(), rel=1e-5)


@pytest.mark.parametrize(("loss", "least"), [(rkd_distance, 2), (sp, 2), (rkd_angle, 3)])
def test_too_few_images_are_refused(loss, least):
    student, teacher = random_pair(batch=least)
    loss(student, teacher)
    with pytest.raises(InputError, match=f"loss.{loss.__name__}.*needs {least} or more.*raise the batch size"):
        loss(student[1:], teacher[1:])
