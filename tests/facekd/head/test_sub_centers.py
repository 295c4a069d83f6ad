"""Tests sub-centres: the loss against its definition, where the gradient goes, and which centre is the dominant one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from facekd.errors import ConfigError, InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import MarginClassifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import KL, CrossEntropy, LazyLogits
from facekd.head.sub_centers import find_dominant_centres


def untracked(steps: range, *_: object) -> range:
    return steps


def waves(rows: int, columns: int, step: float) -> Tensor:
    return torch.sin(step * torch.arange(rows * columns, dtype=torch.float64) + 0.3).reshape(rows, columns)


def loss_by_the_paper(embedding: Tensor, weight: Tensor, labels: Tensor, count: int, scale: float, m: float) -> float:
    """Restates equations 4 and 5 of the paper, one number at a time."""
    size, total = embedding.shape[1], 0.0
    for e, label in zip(embedding.tolist(), labels.tolist(), strict=True):
        logits = []
        for j, row in enumerate(weight.tolist()):
            centres = [row[k * size : (k + 1) * size] for k in range(count)]
            cosine = max(
                sum(a * b for a, b in zip(e, w, strict=True)) / (math.hypot(*e) * math.hypot(*w)) for w in centres
            )
            logits.append(scale * (math.cos(math.acos(cosine) + m) if j == label else cosine))
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
    return total / len(labels)


def test_the_loss_is_the_definition_of_the_paper() -> None:
    embedding, labels = waves(5, 4, 1.7), torch.tensor([0, 2, 6, 3, 3])
    head = MarginClassifier(4, 7, HeadConfig(margin_value=0.5, scale=8.0, sub_centers=3)).double()
    with torch.no_grad():
        head.weight.copy_(waves(7, 12, 2.3))
    expected = loss_by_the_paper(embedding, head.weight.detach(), labels, 3, 8.0, 0.5)
    assert expected == pytest.approx(GOLDEN, abs=1e-12)
    for size in (1, 3, None):
        (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels, chunk_size=size)
        assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert functional.cross_entropy(head(embedding, labels), labels).item() == pytest.approx(expected, abs=1e-12)


GOLDEN = 5.619167228210026  # computed by `loss_by_the_paper`


def test_gradcheck() -> None:
    torch.manual_seed(0)
    head = MarginClassifier(3, 4, HeadConfig(margin_value=0.3, scale=4.0, sub_centers=2)).double()
    teacher = MarginClassifier(3, 4, HeadConfig(scale=4.0, sub_centers=3)).double().requires_grad_(False)
    embedding, taught = torch.randn(2, 3, 3, dtype=torch.float64).unbind()
    labels = torch.tensor([0, 3, 2])

    def losses(embedding: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        logits = LazyLogits(embedding, weight, 4.0, head.apply_margin, sub_centers=2)
        shared, of_teacher = LazyLogits.of(teacher, embedding), LazyLogits.of(teacher, taught)
        terms = [CrossEntropy(logits), KL(logits, of_teacher, 2.0), CrossEntropy(shared), KL(shared, of_teacher, 2.0)]
        return chunked_losses(terms, labels, chunk_size=2)

    assert torch.autograd.gradcheck(losses, (embedding.requires_grad_(), head.weight))


def test_the_gradient_reaches_the_nearest_sub_centre_alone() -> None:
    torch.manual_seed(0)
    head, embedding = MarginClassifier(5, 4, HeadConfig(scale=4.0, sub_centers=3)), torch.randn(1, 5)
    chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], torch.tensor([1]))[0].backward()
    assert head.weight.grad is not None
    cosine = functional.cosine_similarity(embedding[:, None], head.weight.view(4, 3, 5), dim=2)
    has_gradient = head.weight.grad.view(4, 3, 5).norm(dim=2) > 0
    assert torch.equal(has_gradient, functional.one_hot(cosine.argmax(1), 3).bool())


def test_one_sub_centre_is_the_plain_classifier_and_copies_of_it_change_no_score() -> None:
    torch.manual_seed(0)
    embedding, plain = torch.randn(6, 5), MarginClassifier(5, 7, HeadConfig())
    copies = MarginClassifier(5, 7, HeadConfig(sub_centers=3))
    with torch.no_grad():
        copies.weight.copy_(plain.weight.repeat(1, 3))
    labels = torch.arange(6)
    assert torch.equal(copies(embedding, labels), plain(embedding, labels))
    losses = [chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels)[0] for head in (copies, plain)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert copies.weight.grad is not None and plain.weight.grad is not None
    # Of equal scores the first takes the gradient.
    torch.testing.assert_close(copies.weight.grad, functional.pad(plain.weight.grad, (0, 10)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_a_half_type_the_chunks_are_the_dense_scores(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = HeadConfig(margin="none", product="autocast", scale=16.0, sub_centers=2)
    head, embedding, labels = MarginClassifier(32, 50, config), torch.randn(8, 32), torch.randint(50, (8,))
    with torch.autocast("cpu", dtype=dtype):
        dense = functional.cross_entropy(head(embedding), labels)
        (chunked,) = chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels, chunk_size=7)
    torch.testing.assert_close(chunked, dense, atol=16 * 2**-8, rtol=0)  # the target's score is float32 in chunks
    rounded, exact = (torch.autograd.grad(loss, head.weight)[0] for loss in (chunked, dense))
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (0, 65):
        with pytest.raises(ConfigError, match=rf"head\.sub_centers = {wrong} is outside 1 to 64"):
            HeadConfig(sub_centers=wrong)
    assert HeadConfig(sub_centers=64).sub_centers == 64
    with pytest.raises(ConfigError, match=r"head\.sub_centers = 3 has no effect with head\.kind = 'linear'"):
        HeadConfig(kind="linear", sub_centers=3)
    with pytest.raises(InputError, match=r"\(2, 5\) do not fit class centres \(4, 12\): .* \(C, 3 D\)"):
        LazyLogits(torch.ones(2, 5), torch.ones(4, 12), sub_centers=3)
    with pytest.raises(InputError, match="compared by their cosines"):
        LazyLogits(torch.ones(2, 4), torch.ones(4, 12), sub_centers=3, is_normalized=False)
    assert str(HeadConfig(sub_centers=3)) == "arcface 0.5, scale 64, 3 sub-centres"


# ---- the dominant centre ---------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    count=st.integers(1, 40), num_classes=st.integers(1, 5), sub_centers=st.integers(1, 4), seed=st.integers(0, 2**20)
)
def test_the_dominant_centre_is_the_one_that_most_images_are_nearest_to(
    count: int, num_classes: int, sub_centers: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(num_classes, sub_centers * 4)).astype(np.float32) * 3
    units = generator.normal(size=(count, 4)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    labels = generator.integers(-1, num_classes, count)
    found = find_dominant_centres(lambda images: units[images], labels, weight, sub_centers, untracked)
    for label in range(num_classes):
        # As the authors' script does it, class by class.
        centres, own = weight[label].reshape(sub_centers, 4), units[labels == label]
        cosines = own @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
        votes = np.bincount(cosines.argmax(1), minlength=sub_centers)
        assert found.num_nearest[label].tolist() == votes.tolist()
        assert found.number[label] == votes.argmax()
        assert np.array_equal(found.weight[label], centres[votes.argmax()])
        np.testing.assert_allclose(found.cosine[labels == label], cosines[:, votes.argmax()], atol=1e-6)
    assert found.cosine.dtype == np.float32
    assert np.isnan(found.cosine[labels < 0]).all() and not found.is_far(75)[labels < 0].any()


def test_an_image_is_far_beyond_the_angle() -> None:
    angles = np.deg2rad([10.0, 74.9, 75.1, 120.0])
    units = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    weight = np.array([[5.0, 0.0, -1.0, 1e-3]], np.float32)
    found = find_dominant_centres(lambda images: units[images], np.zeros(4, np.int64), weight, 2, untracked)
    assert found.num_nearest.tolist() == [[3, 1]]
    assert found.is_far(75).tolist() == [False, False, True, True]
    assert found.is_far(119).tolist() == [False, False, False, True]


def test_a_weight_that_does_not_fit_is_refused() -> None:
    units = np.eye(4, dtype=np.float32)
    with pytest.raises(InputError, match=r"\(2, 9\) does not have 2 centres"):
        find_dominant_centres(units.__getitem__, np.zeros(4, np.int64), np.ones((2, 9), np.float32), 2, untracked)
    with pytest.raises(InputError, match="label 3 is none of the 2 classes"):
        find_dominant_centres(units.__getitem__, np.arange(4), np.ones((2, 8), np.float32), 2, untracked)
