"""Compares the diagnostics of heads and embeddings with naive loops and closed forms."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from facekd.distillation import compare_classifiers, embedding_similarity, relation_similarity
from facekd.errors import InputError


def random_rows(seed, rows=6, size=4):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_heads_are_compared_row_by_row():
    first, second = random_rows(0), random_rows(1)
    first_bias, second_bias = random_rows(2)[:, 0], random_rows(3)[:, 0]
    result = compare_classifiers(first, second, first_bias, second_bias)
    cosines = [cosine(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    biases = list(zip(first_bias.tolist(), second_bias.tolist(), strict=True))
    assert result.scalars() == pytest.approx(
        {
            "mean": statistics.mean(cosines),
            "mean_abs": statistics.mean(map(abs, cosines)),
            "std": statistics.pstdev(cosines),
            "max_abs": max(map(abs, cosines)),
            "bias_distance": math.dist(*zip(*biases, strict=True)),
            "bias_mean_abs": statistics.mean(abs(a - b) for a, b in biases),
            "bias_cosine": cosine(*zip(*biases, strict=True)),
        },
        abs=1e-12,
    )
    assert result.cosine_per_class.tolist() == pytest.approx(cosines, abs=1e-12)


def test_a_head_against_itself_and_without_biases():
    head = torch.nn.Linear(4, 6)
    result = compare_classifiers(head.weight, 3 * head.weight, head.bias, None)
    assert result.scalars() == pytest.approx({"mean": 1, "mean_abs": 1, "std": 0, "max_abs": 1}, abs=1e-6)


def test_heads_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="row by row"):
        compare_classifiers(random_rows(0), random_rows(0, rows=5))
    with pytest.raises(InputError, match="for 6 classes"):
        compare_classifiers(random_rows(0), random_rows(1), torch.zeros(6), torch.zeros(5))


def test_embedding_similarity_is_the_cosine_of_each_image():
    student, teacher = random_rows(0), random_rows(1)
    expected = [cosine(a, b) for a, b in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert embedding_similarity(student, teacher).tolist() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match=r"projection \(3 to 4\)"):
        embedding_similarity(student[:, :3], teacher)


def test_relation_similarity_is_centred_kernel_alignment():
    student, teacher = random_rows(0, 9, 3), random_rows(1, 9, 5)

    def centred_kernel(rows):
        directions = rows / rows.norm(dim=1, keepdim=True)
        centring = torch.eye(9, dtype=torch.float64) - 1 / 9
        return centring @ directions @ directions.T @ centring

    first, second = centred_kernel(student), centred_kernel(teacher)
    expected = (first * second).sum() / (first.norm() * second.norm())
    assert relation_similarity(student, teacher) == pytest.approx(expected.item(), abs=1e-12)


def test_relation_similarity_sees_through_a_rotation_into_more_dimensions():
    student = random_rows(0, 9, 3)
    embed = torch.linalg.qr(random_rows(1, 5, 3))[0].T
    assert relation_similarity(student, 4 * student @ embed) == pytest.approx(1, abs=1e-12)
    assert relation_similarity(student, random_rows(2, 9, 5)) < 0.9


def test_relation_similarity_of_a_collapsed_side_is_0_and_of_one_image_refused():
    student = random_rows(0)
    assert relation_similarity(student, torch.ones(6, 2)) == 0
    assert relation_similarity(student[:2], random_rows(1)[:2]) == pytest.approx(1)  # two images have one relation
    with pytest.raises(InputError, match="2 rows of student embeddings and 6 of the teacher"):
        relation_similarity(student[:2], random_rows(1))
    with pytest.raises(InputError, match="2 or more"):
        relation_similarity(student[:1], student[:1])
