"""Compares losses in class chunks with those of whole matrices: values, all gradients, and what is never allocated."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from facekd.distillation import kd_kl
from facekd.errors import InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import KL, CrossEntropy, LazyLogits
from facekd.margins import arcface

HEADS = [
    HeadConfig(),
    HeadConfig(gradient="straight_through"),
    HeadConfig(margin="cosface", scale=32.0),
    HeadConfig(margin="combined", m1=1.1, m2=0.2, m3=0.1),
    HeadConfig(margin="adaface"),
    HeadConfig(margin="none", scale=20.0),
    HeadConfig(kind="linear"),
    HeadConfig(kind="linear", bias=False),
    HeadConfig(scale=20.0, sub_centers=3),
]


def name_of(config):
    return f"{config}, {config.gradient}"


def naive_kl(student_BC, teacher_BC, temperature):
    p = F.softmax(teacher_BC / temperature, 1)
    difference = F.log_softmax(teacher_BC / temperature, 1) - F.log_softmax(student_BC / temperature, 1)
    return (p * difference).sum(1).mean() * temperature**2


class Example:
    """Holds a student with its own head, a teacher's frozen head for its projected embedding, and teacher rows."""

    def __init__(self, config=None, *, batch=6, classes=23, size=5, teacher_size=4, seed=0, dtype=torch.float64):
        torch.manual_seed(seed)
        config = HeadConfig() if config is None else config
        self.own = build_classifier(config, size, classes).to(dtype)
        self.frozen = build_classifier(config, teacher_size, classes).to(dtype).requires_grad_(False)
        if config.margin == "adaface":  # statistics the norms differ from
            for head in (self.own, self.frozen):
                head.eval().norm_mean.fill_(2.0)
                head.norm_std.fill_(1.0)
        self.embedding = (torch.randn(batch, size, dtype=dtype) * 2).requires_grad_()
        self.projection = torch.randn(size, teacher_size, dtype=dtype).requires_grad_()
        self.teacher = torch.randn(batch, teacher_size, dtype=dtype)
        self.labels = torch.randint(classes, (batch,))

    def naive(self, temperature=4.0):
        projected = self.embedding @ self.projection
        student, taught = self.own(self.embedding), self.frozen(self.teacher)
        return (
            F.cross_entropy(self.own(self.embedding, self.labels), self.labels),
            naive_kl(student, taught, temperature),
            F.cross_entropy(self.frozen(projected, self.labels), self.labels),
            naive_kl(self.frozen(projected), taught, temperature),
        )

    def chunked(self, chunk_size=None, temperature=4.0):
        own = LazyLogits.of(self.own, self.embedding)
        shared = LazyLogits.of(self.frozen, self.embedding @ self.projection)
        teacher = LazyLogits.of(self.frozen, self.teacher)
        terms = [
            CrossEntropy(own),
            KL(own, teacher, temperature),
            CrossEntropy(shared),
            KL(shared, teacher, temperature),
        ]
        return chunked_losses(terms, self.labels, chunk_size=chunk_size)

    def gradients(self, losses, weights=(1.0, 1.5, 0.3, 0.7)):
        leaves = [self.embedding, self.projection, *self.own.parameters()]
        return torch.autograd.grad(sum(w * loss for w, loss in zip(weights, losses, strict=True)), leaves)


def assert_same(example, chunked, naive, **tolerance):
    torch.testing.assert_close(chunked, naive, **tolerance)
    torch.testing.assert_close(example.gradients(chunked), example.gradients(naive), **tolerance)


# ---- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 23, 100, None])
@pytest.mark.parametrize("config", HEADS, ids=name_of)
def test_the_numbers_are_those_of_whole_matrices(config, chunk_size):
    example = Example(config)
    assert_same(example, example.chunked(chunk_size), example.naive(), atol=1e-10, rtol=1e-10)


@settings(max_examples=60, derandomize=True)
@given(
    batch=st.integers(1, 9),
    classes=st.integers(1, 40),
    size=st.integers(2, 7),  # with D = 1 every cosine is +-1, where a margin's slope turns rounding into anything
    teacher_size=st.integers(2, 7),
    chunk_size=st.integers(1, 50),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    config=st.sampled_from(HEADS),
    seed=st.integers(0, 10_000),
)
def test_at_any_size_chunk_and_temperature(batch, classes, size, teacher_size, chunk_size, temperature, config, seed):
    example = Example(config, batch=batch, classes=classes, size=size, teacher_size=teacher_size, seed=seed)
    naive = example.naive(temperature)
    assert_same(example, example.chunked(chunk_size, temperature), naive, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("config", HEADS, ids=name_of)
def test_in_float32_it_is_as_close_to_float64_as_whole_matrices_are(config):
    exact, rounded = (Example(config, batch=16, classes=1000, size=32, teacher_size=16) for _ in range(2))
    for head in (rounded.own, rounded.frozen):
        head.float()
    for name in ("embedding", "projection", "teacher"):
        tensor = getattr(rounded, name)
        setattr(rounded, name, tensor.detach().float().requires_grad_(tensor.requires_grad))
    with torch.no_grad():  # both hold the same, float32 numbers
        for theirs, mine in zip(exact.own.parameters(), rounded.own.parameters(), strict=True):
            theirs.copy_(mine)
        exact.frozen.weight.copy_(rounded.frozen.weight)
        for name in ("embedding", "projection", "teacher"):
            getattr(exact, name).copy_(getattr(rounded, name))

    def errors(losses):
        pairs = zip(
            (*losses, *rounded.gradients(losses)),
            (*exact.naive(), *exact.gradients(exact.naive())),
            strict=True,
        )
        return [float(((mine.detach() - truth).norm() / (truth.norm() + 1e-30)).detach()) for mine, truth in pairs]

    for chunked, naive in zip(errors(rounded.chunked(37)), errors(rounded.naive()), strict=True):
        assert chunked < 2 * naive + 2e-6


@pytest.mark.parametrize("config", [HEADS[0], HEADS[3], HEADS[6]], ids=name_of)
def test_gradcheck(config):
    example = Example(config, batch=3, classes=7, size=3, teacher_size=3)
    scale = 1.0 if config.kind == "linear" else 4.0  # a softmax that is not saturated has gradients to compare
    arguments = (example.embedding, example.own.weight, example.own.bias if config.kind == "linear" else None)

    def losses(embedding, weight, bias):
        margin = (lambda cosine, labels, _: arcface(cosine, labels, 0.3)) if config.kind == "margin" else None
        logits = LazyLogits(embedding, weight, scale, margin, config.kind == "margin", bias)
        teacher = LazyLogits(example.teacher[:, :3], example.frozen.weight, 5.0)
        return chunked_losses([CrossEntropy(logits), KL(logits, teacher, 2.0)], example.labels, chunk_size=3)

    assert torch.autograd.gradcheck(losses, arguments)


@settings(max_examples=60, derandomize=True)
@given(
    batch=st.integers(1, 9),
    classes=st.integers(1, 40),
    chunk_size=st.integers(1, 50),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    scale=st.sampled_from([1.0, 16.0, 64.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    under_autocast=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_kd_kl_of_whole_logits_is_the_kl_that_training_computes(
    batch, classes, chunk_size, temperature, scale, dtype, under_autocast, seed
):
    torch.manual_seed(seed)
    heads = [build_classifier(HeadConfig(scale=scale), 5, classes) for _ in range(2)]
    student, teacher = torch.randn(batch, 5).to(dtype).requires_grad_(), torch.randn(batch, 5).to(dtype)
    if dtype == torch.float64:
        heads = [head.double() for head in heads]
    with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
        term = KL(LazyLogits.of(heads[0], student), LazyLogits.of(heads[1], teacher), temperature)
        (chunked,) = chunked_losses([term], chunk_size=chunk_size)
        dense = kd_kl(heads[0](student), heads[1](teacher), temperature)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert chunked.dtype == dense.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(chunked, dense, atol=tolerance, rtol=tolerance)
    leaves = [student, heads[0].weight]
    for mine, theirs in zip(torch.autograd.grad(chunked, leaves), torch.autograd.grad(dense, leaves), strict=True):
        # Gradients carry scale * temperature; that of a bfloat16 embedding is rounded to 8 bits by both.
        relative = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8}[mine.dtype]
        size = theirs.double().norm() + 1e-2 * scale * temperature
        assert (mine - theirs).double().norm() <= relative * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dense_scores_in_a_half_type_are_those_of_the_chunks(dtype):
    torch.manual_seed(0)
    head, embedding = build_classifier(HeadConfig(product="autocast", scale=16.0), 32, 50), torch.randn(8, 32)
    labels = torch.randint(50, (8,))
    with torch.autocast("cpu", dtype=dtype):
        dense = F.cross_entropy(head(embedding), labels)
        logits = dataclasses.replace(LazyLogits.of(head, embedding), margin=None)
        (chunked,) = chunked_losses([CrossEntropy(logits)], labels, chunk_size=7)
    # Only the target's score is computed apart, in float32.
    torch.testing.assert_close(chunked, dense, atol=16 * 2**-8, rtol=0)


def test_labels_on_the_borders_of_chunks():
    example = Example(batch=8, classes=12)
    example.labels = torch.tensor([0, 3, 4, 7, 8, 11, 11, 0])
    assert_same(example, example.chunked(4), example.naive(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e4])
def test_extreme_logits_stay_finite(scale):
    torch.manual_seed(0)
    embedding = (torch.randn(5, 8) * scale).requires_grad_()
    weight = torch.randn(30, 8).requires_grad_()
    teacher, labels = torch.randn(5, 30) * scale, torch.randint(30, (5,))
    naive = (
        F.cross_entropy(embedding @ weight.T, labels),
        naive_kl(embedding @ weight.T, teacher, 2.0),
    )
    logits = LazyLogits(embedding, weight, is_normalized=False)
    identity = LazyLogits(teacher, torch.eye(30), is_normalized=False)  # logits that are given outright
    chunked = chunked_losses([CrossEntropy(logits), KL(logits, identity, 2.0)], labels, chunk_size=4)
    torch.testing.assert_close(chunked, naive)
    for mine, theirs in zip(
        torch.autograd.grad(sum(chunked), [embedding, weight]),
        torch.autograd.grad(sum(naive), [embedding, weight]),
        strict=True,
    ):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_class_centres_of_zeros_of_huge_and_of_vanishing_length():
    example = Example()
    with torch.no_grad():
        example.own.weight[3] = 0
        example.own.weight[5] *= 1e-12  # shorter than the epsilon of the normalisation
        example.own.weight[4] *= 1e6
    assert_same(example, example.chunked(5), example.naive(), atol=1e-9, rtol=1e-9)


def test_golden_values_of_the_reference():
    def det(n, m, a, b):
        rows, columns = torch.meshgrid(torch.arange(n).double(), torch.arange(m).double(), indexing="ij")
        return 2 * torch.sin(a * (rows * m + columns) + b)

    identity = torch.eye(5, dtype=torch.float64)
    student, shared, teacher = (
        LazyLogits(det(4, 5, a, b), identity, is_normalized=False) for a, b in ((1.0, 0.1), (0.7, 0.3), (1.3, 0.5))
    )
    terms = [CrossEntropy(student), KL(student, teacher, 4.0), KL(shared, teacher, 4.0)]
    values = [float(loss) for loss in chunked_losses(terms, torch.tensor([0, 3, 1, 4]), chunk_size=2)]
    expected = [2.190454072727915, 1.9421550442751074, 1.662786079347721]
    assert values == pytest.approx(expected, abs=1e-12)


def test_kl_of_a_head_with_itself_is_zero_and_has_no_gradient():
    example = Example()
    student = LazyLogits.of(example.own, example.embedding)
    (loss,) = chunked_losses([KL(student, LazyLogits.of(example.own, example.embedding.detach()))], chunk_size=5)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, example.embedding)
    assert gradient.abs().max() < 1e-13


# ---- frozen heads and shared work ------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Records the elements of the largest tensor made, and counts matrix products, while it is active."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        self.products += function.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return result


def distil(example, chunk_size, watch):
    with watch:
        losses = example.chunked(chunk_size)
        sum(losses).backward()


def test_nothing_as_large_as_batch_by_classes_is_made():
    example = Example(batch=48, classes=2000, size=4, teacher_size=4, dtype=torch.float32)
    watch = Watch()
    distil(example, 50, watch)
    # The largest is the gradient of the weight; a product of the two heads on the teacher's weight has 96 * 50.
    assert watch.largest == 4 * 2000

    naive = Watch()
    with naive:
        sum(example.naive()).backward()
    assert naive.largest >= 48 * 2000  # the watch does see whole matrices


def test_with_frozen_heads_only_nothing_as_large_as_a_weight_is_made():
    example = Example(batch=4, classes=2000, size=4, dtype=torch.float32)
    watch = Watch()
    with watch:
        shared = LazyLogits.of(example.frozen, example.embedding @ example.projection)
        teacher = LazyLogits.of(example.frozen, example.teacher)
        sum(chunked_losses([CrossEntropy(shared), KL(shared, teacher)], example.labels, chunk_size=50)).backward()
    assert example.frozen.weight.grad is None
    assert watch.largest == 2000  # the lengths of the class centres


def products_of(example, *names):
    heads = {
        "own": LazyLogits.of(example.own, example.embedding),
        "shared": LazyLogits.of(example.frozen, example.embedding),
        "teacher": LazyLogits.of(example.frozen, example.teacher),
    }
    terms = {
        "ce": CrossEntropy(heads["own"]),
        "kl": KL(heads["own"], heads["teacher"]),
        "th_ce": CrossEntropy(heads["shared"]),
        "th_kl": KL(heads["shared"], heads["teacher"]),
    }
    watch = Watch()
    with watch:
        sum(chunked_losses([terms[name] for name in names], example.labels)).backward()
    return watch.products


def test_terms_of_the_same_heads_share_their_products():
    """Counts for one chunk: a product per weight in forward and again in backward, and one per gradient wanted."""
    example = Example(size=4)
    assert products_of(example, "ce") == 2 + 2  # scores twice, embedding, weight
    assert products_of(example, "th_ce") == 2 + 1  # frozen: no gradient of the weight
    assert products_of(example, "th_ce", "th_kl") == 2 + 1  # the teacher's rows ride along
    assert products_of(example, "ce", "kl") == 4 + 2
    assert products_of(example, "ce", "kl", "th_ce", "th_kl") == 4 + 3


def test_heads_of_one_weight_and_two_biases_keep_their_own():
    example = Example(HeadConfig(kind="linear", bias=False))
    biases = torch.randn(2, 23, dtype=torch.float64, requires_grad=True)
    weight = example.own.weight
    terms = [CrossEntropy(LazyLogits(example.embedding, weight, is_normalized=False, bias_C=b)) for b in biases]
    for found, bias_C in zip(chunked_losses(terms, example.labels, chunk_size=5), biases, strict=True):
        dense = F.cross_entropy(example.embedding @ weight.T + bias_C, example.labels)
        torch.testing.assert_close(found, dense)
        leaves = [example.embedding, weight, biases]
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves, retain_graph=True), torch.autograd.grad(dense, leaves, retain_graph=True)
        )


def test_only_the_gradients_asked_for():
    example = Example()
    example.embedding.requires_grad_(False)
    (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(example.own, example.embedding))], example.labels)
    loss.backward()
    assert example.own.weight.grad is not None
    assert example.embedding.grad is None
    with torch.no_grad():
        assert not example.chunked()[0].requires_grad


def test_the_teacher_gets_no_gradient_even_where_it_could():
    example = Example(size=4)
    example.teacher.requires_grad_()
    example.frozen.requires_grad_()
    student, teacher = LazyLogits.of(example.own, example.embedding), LazyLogits.of(example.frozen, example.teacher)
    chunked_losses([KL(student, teacher)])[0].backward()
    assert example.teacher.grad is None
    assert example.frozen.weight.grad is None
    assert example.own.weight.grad is not None


def test_a_head_shared_by_student_and_teacher_learns_from_the_student_only():
    example = Example()
    taught = torch.randn_like(example.embedding)
    student, teacher = LazyLogits.of(example.own, example.embedding), LazyLogits.of(example.own, taught)
    losses = chunked_losses([CrossEntropy(student), KL(student, teacher)], example.labels, chunk_size=4)
    naive = (
        F.cross_entropy(example.own(example.embedding, example.labels), example.labels),
        naive_kl(example.own(example.embedding), example.own(taught).detach(), 4.0),
    )
    leaves = [example.embedding, example.own.weight]
    torch.testing.assert_close(losses, naive)
    torch.testing.assert_close(torch.autograd.grad(sum(losses), leaves), torch.autograd.grad(sum(naive), leaves))


def test_adaface_moves_its_statistics_once():
    one, other = Example(HeadConfig(margin="adaface")), Example(HeadConfig(margin="adaface"))
    one.own.train(), other.own.train()
    one.own(one.embedding, one.labels)
    logits = LazyLogits.of(other.own, other.embedding)
    chunked_losses([CrossEntropy(logits), KL(logits, LazyLogits.of(other.frozen, other.teacher))], other.labels)
    assert torch.equal(one.own.norm_mean, other.own.norm_mean)
    assert torch.equal(one.own.norm_std, other.own.norm_std)
    assert float(one.own.norm_mean) != 2.0


# ---- precision -------------------------------------------------------------------------------------------------------


def test_autocast_changes_nothing():
    example = Example(dtype=torch.float32)
    shared = LazyLogits.of(example.frozen, example.teacher)
    terms = [CrossEntropy(own := LazyLogits.of(example.own, example.embedding)), KL(own, shared)]

    def run():
        losses = chunked_losses(terms, example.labels, chunk_size=5)
        return *losses, *torch.autograd.grad(sum(losses), [example.embedding, example.own.weight])

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = run()
    for mine, theirs in zip(under_autocast, plain, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)


def test_half_embeddings_count_in_float32():
    example = Example(dtype=torch.float32)
    half = example.embedding.detach().bfloat16().requires_grad_()
    (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(example.own, half))], example.labels)
    expected = F.cross_entropy(example.own(half, example.labels), example.labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    (gradient,), (other,) = torch.autograd.grad(loss, half), torch.autograd.grad(expected, half)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, other)


def test_a_product_in_half_precision_is_near_that_of_the_classifier():
    config = HeadConfig(product="autocast", scale=16.0)
    example = Example(config, batch=32, classes=200, size=64, teacher_size=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked, naive = example.chunked(33), example.naive()
    exact = example.chunked(33)
    assert chunked[0] != exact[0]  # it was used
    torch.testing.assert_close(chunked, naive, atol=0.02, rtol=0.02)
    for mine, theirs in zip(example.gradients(chunked), example.gradients(exact), strict=True):
        assert (mine - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    example = Example(dtype=torch.float32)
    expected = (*example.chunked(5), *example.gradients(example.chunked(5)))
    for name in ("embedding", "projection", "teacher", "labels"):
        tensor = getattr(example, name)
        setattr(example, name, tensor.detach().cuda().requires_grad_(tensor.requires_grad))
    example.own.cuda(), example.frozen.cuda()
    found = (*example.chunked(5), *example.gradients(example.chunked(5)))
    torch.testing.assert_close([t.cpu() for t in found], list(expected), atol=1e-4, rtol=1e-4)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    example = Example()
    own = LazyLogits.of(example.own, example.embedding)
    with pytest.raises(InputError, match="no loss terms"):
        chunked_losses([])
    with pytest.raises(InputError, match="need labels"):
        chunked_losses([CrossEntropy(own)])
    with pytest.raises(InputError, match=r"label 23 at position 0 .* outside \[0, 23\)"):
        chunked_losses([CrossEntropy(own)], torch.full((6,), 23))
    with pytest.raises(InputError, match="int64"):
        chunked_losses([CrossEntropy(own)], torch.zeros(6, dtype=torch.int32))
    with pytest.raises(InputError, match=r"\(5,\) labels for 6 embeddings"):
        chunked_losses([CrossEntropy(own)], torch.zeros(5, dtype=torch.int64))
    with pytest.raises(InputError, match=r"\(6, 22\), \(6, 23\).* share their identities"):
        chunked_losses([KL(own, LazyLogits(example.teacher, torch.randn(22, 4)))])
    with pytest.raises(InputError, match=r"\(6, 4\) do not fit .* \(23, 5\): they must be \(B, D\) and \(C, D\)"):
        LazyLogits.of(example.own, example.teacher)
    with pytest.raises(InputError, match="normalised heads have none"):
        LazyLogits(example.teacher, example.frozen.weight, bias_C=torch.zeros(23))
    with pytest.raises(InputError, match="made for cosines"):
        LazyLogits(example.teacher, example.frozen.weight, margin=arcface, is_normalized=False)
    with pytest.raises(InputError, match="chunk_size = 0"):
        chunked_losses([CrossEntropy(own)], example.labels, chunk_size=0)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="temperature"):
            KL(own, own, temperature)
