"""Tests DKD, DIST and logit standardisation in class chunks: naive loops, the authors' values, gradients, extremes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.loss_terms import KL, CrossEntropy, InterClass, IntraClass, LazyLogits, OthersKL, TargetKL
from tests.facekd.head.test_chunked_loss import Watch

COMPARISONS = [KL, TargetKL, OthersKL, InterClass, IntraClass]


# ---- the same, image by image and class by class ---------------------------------------------------------------------


def softmax(logits: torch.Tensor) -> torch.Tensor:
    exponentials = (logits - logits.max()).exp()
    return exponentials / exponentials.sum()


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(q || p)."""
    return sum((q[c] * (q[c] / p[c]).log() for c in range(len(p)) if q[c] > 0), p.sum() * 0)


def correlation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = x - x.mean(), y - y.mean()
    if len(x) == 1:  # nothing varies
        return (x * y).sum()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def naive(kind, student_BC, teacher_BC, labels, temperature, standardize):
    students, teachers = [], []
    for found, rows in ((students, student_BC), (teachers, teacher_BC)):
        for logits in rows:
            if standardize:
                logits = (logits - logits.mean()) / ((logits.std() if len(logits) > 1 else 0) + 1e-7)
            found.append(logits / temperature)
    losses = []
    for student, teacher, label in zip(students, teachers, labels.tolist(), strict=True):
        p, q = softmax(student), softmax(teacher)
        others = [c for c in range(len(p)) if c != label]
        if kind is KL:
            losses.append(divergence(p, q))
        elif kind is TargetKL:
            losses.append(divergence(*(torch.stack([r[label], r[others].sum()]) for r in (p, q))))
        elif kind is OthersKL:
            losses.append(divergence(softmax(student[others]), softmax(teacher[others])) if others else p.sum() * 0)
        elif kind is InterClass:
            losses.append(1 - correlation(p, q))
    if kind is IntraClass:
        p, q = (torch.stack([softmax(logits) for logits in rows]) for rows in (students, teachers))
        losses = [1 - correlation(p[:, c], q[:, c]) for c in range(p.shape[1])]
    return torch.stack(losses).mean() * temperature**2


class Example:
    """Holds a student's head, normalised or plain, and a teacher's frozen one of another size, in float64."""

    def __init__(self, *, batch=5, classes=11, is_normalized=True, seed=0, scale=6.0):
        torch.manual_seed(seed)
        self.embedding = torch.randn(batch, 4, dtype=torch.float64).requires_grad_()
        self.weight = torch.randn(classes, 4, dtype=torch.float64).requires_grad_()
        self.bias = None if is_normalized else torch.randn(classes, dtype=torch.float64).requires_grad_()
        self.teacher = torch.randn(batch, 3, dtype=torch.float64)
        self.frozen = torch.randn(classes, 3, dtype=torch.float64)
        self.labels = torch.randint(classes, (batch,))
        self.is_normalized, self.scale = is_normalized, scale

    @property
    def leaves(self):
        return [tensor for tensor in (self.embedding, self.weight, self.bias) if tensor is not None]

    def logits(self):
        student = LazyLogits(self.embedding, self.weight, self.scale, None, self.is_normalized, self.bias)
        return student, LazyLogits(self.teacher, self.frozen, 5.0)

    def dense(self):
        unit = torch.nn.functional.normalize
        teacher = 5 * unit(self.teacher) @ unit(self.frozen).T
        if self.is_normalized:
            return self.scale * unit(self.embedding) @ unit(self.weight).T, teacher
        return self.scale * (self.embedding @ self.weight.T + self.bias), teacher


def assert_same(example, kind, temperature, standardize, chunk_size, tolerance=1e-9):
    (chunked,) = chunked_losses(
        [kind(*example.logits(), temperature, standardize)], example.labels, chunk_size=chunk_size
    )
    expected = naive(kind, *example.dense(), example.labels, temperature, standardize)
    torch.testing.assert_close(chunked, expected, atol=tolerance, rtol=tolerance)
    found, truth = (torch.autograd.grad(loss, example.leaves) for loss in (chunked, expected))
    torch.testing.assert_close(found, truth, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("kind", COMPARISONS)
@pytest.mark.parametrize("is_normalized", [True, False])
def test_values_and_gradients_are_those_of_naive_loops(kind, standardize, is_normalized):
    for chunk_size in (1, 4, 11, None):
        assert_same(Example(is_normalized=is_normalized), kind, 2.0, standardize, chunk_size)


@settings(max_examples=25, derandomize=True)
@given(
    kind=st.sampled_from(COMPARISONS),
    standardize=st.booleans(),
    batch=st.integers(1, 6),
    classes=st.integers(3, 14),
    chunk_size=st.integers(1, 16),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    seed=st.integers(0, 10_000),
)
def test_at_any_size_chunk_and_temperature(kind, standardize, batch, classes, chunk_size, temperature, seed):
    # Between two images a correlation is 1 or -1, and its gradient nothing but rounding.
    batch = 1 if kind is IntraClass and batch == 2 else batch
    example = Example(batch=batch, classes=classes, seed=seed)
    assert_same(example, kind, temperature, standardize, chunk_size, 1e-6)


@pytest.mark.parametrize("kind", COMPARISONS)
def test_classes_with_several_centres(kind):
    torch.manual_seed(0)
    embedding = torch.randn(5, 4, dtype=torch.float64).requires_grad_()
    weight = torch.randn(9, 2 * 4, dtype=torch.float64).requires_grad_()
    labels, teacher = torch.randint(9, (5,)), Example(classes=9).logits()[1]
    student = LazyLogits(embedding, weight, 6.0, sub_centers=2)
    (chunked,) = chunked_losses([kind(student, teacher, 2.0, True)], labels, chunk_size=4)
    unit = torch.nn.functional.normalize
    dense = torch.stack([6 * unit(embedding) @ unit(part).T for part in weight.split(4, 1)]).amax(0)
    taught = 5 * unit(teacher.embedding_BD) @ unit(teacher.weight_CD).T
    expected = naive(kind, dense, taught, labels, 2.0, True)
    torch.testing.assert_close(chunked, expected)
    found, truth = (torch.autograd.grad(loss, [embedding, weight]) for loss in (chunked, expected))
    torch.testing.assert_close(found, truth)


def test_all_terms_of_one_call_are_those_of_each_alone_and_gradients_add_up():
    example = Example()
    student, teacher = example.logits()
    terms = [kind(student, teacher, t, s) for kind in COMPARISONS for t in (1.0, 3.0) for s in (False, True)]
    terms.append(CrossEntropy(student))
    weights = torch.linspace(0.5, 2, len(terms), dtype=torch.float64)
    together = chunked_losses(terms, example.labels, chunk_size=4)
    alone = [chunked_losses([term], example.labels, chunk_size=11)[0] for term in terms]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone))
    found, truth = (
        torch.autograd.grad((torch.stack(list(v)) * weights).sum(), example.leaves) for v in (together, alone)
    )
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("kind", COMPARISONS)
def test_gradcheck(kind):
    example = Example(batch=3, classes=5, scale=3.0)

    def losses(embedding, weight):
        student, teacher = LazyLogits(embedding, weight, example.scale), example.logits()[1]
        terms = [kind(student, teacher, 2.0, standardize) for standardize in (False, True)]
        return chunked_losses(terms, example.labels, chunk_size=2)

    assert torch.autograd.gradcheck(losses, (example.embedding, example.weight))


# ---- the authors' values ---------------------------------------------------------------------------------------------


def golden(rate: float, shift: float) -> LazyLogits:
    rows = [[2 * math.sin(rate * (i * 5 + j) + shift) for j in range(5)] for i in range(4)]
    embedding = torch.tensor(rows, dtype=torch.float64).requires_grad_()
    return LazyLogits(embedding, torch.eye(5, dtype=torch.float64), is_normalized=False)


# Values, and the sums of squared gradients by the student's logits, of
# - DKD: megvii-research/mdistiller at a08d46f, `dkd_loss` with (alpha, beta) = (1, 0) and (0, 1);
# - DIST: hunto/image_classification_sota at 6f7a70a, with (beta, gamma) = (1, 0) and (0, 1), and no epsilon;
# - standardised: sunshangquan/logit-standardization-KD at f6e5aa5, `kd_loss` and `dkd_loss`; DIST of its `normalize`.
AUTHORS = {
    (TargetKL, 4.0, False): (0.7664821351826494, 0.07527357083799276),
    (OthersKL, 4.0, False): (1.4829841298617357, 0.17943245173431646),
    (InterClass, 4.0, False): (16.433365017230226, 3.939835320860255),
    (IntraClass, 4.0, False): (10.143739748417085, 3.5653122392965635),
    (KL, 2.0, True): (0.7831716553113608, 0.008036189321312115),
    (TargetKL, 2.0, True): (0.3059230586178082, 0.009203567834845638),
    (OthersKL, 2.0, True): (0.601882800185516, 0.017037516248309834),
    (InterClass, 2.0, True): (4.099696003172753, 0.26899309080953926),
    (IntraClass, 2.0, True): (2.4637861405074606, 0.1488866086975884),
}


@pytest.mark.parametrize(("kind", "temperature", "standardize"), AUTHORS)
def test_values_and_gradients_are_those_of_the_authors_code(kind, temperature, standardize):
    student, teacher = golden(1.0, 0.1), golden(1.3, 0.5)
    term = kind(student, teacher, temperature, standardize)
    (loss,) = chunked_losses([term], torch.tensor([0, 3, 1, 4]), chunk_size=2)
    (gradient,) = torch.autograd.grad(loss, student.embedding_BD)
    found = (loss.item(), gradient.square().sum().item())
    assert found == pytest.approx(AUTHORS[kind, temperature, standardize], abs=1e-10)


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("kind", COMPARISONS)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(kind, standardize):
    example = Example()
    student = example.logits()[0]
    teacher = LazyLogits(example.embedding.detach(), example.weight.detach(), example.scale)
    (loss,) = chunked_losses([kind(student, teacher, 2.0, standardize)], example.labels, chunk_size=4)
    gradients = torch.autograd.grad(loss, example.leaves)
    assert abs(loss.item()) < 1e-12 and max(gradient.abs().max().item() for gradient in gradients) < 1e-12


@pytest.mark.parametrize("kind", COMPARISONS)
def test_standardised_logits_have_no_scale_and_no_offset(kind):
    example = Example(is_normalized=False, scale=1.0)
    teacher = example.logits()[1]
    losses = []
    for scale, offset in ((1.0, 0.0), (30.0, 0.0), (1.0, 500.0)):
        student = LazyLogits(example.embedding, example.weight, scale, None, False, example.bias + offset)
        losses += chunked_losses([kind(student, teacher, 2.0, True)], example.labels, chunk_size=4)
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(3), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 64.0, 1e4])
@pytest.mark.parametrize("standardize", [False, True])
def test_in_float32_losses_and_gradients_stay_finite_and_near_the_exact_ones(scale, standardize):
    torch.manual_seed(0)
    exact = [torch.randn(n, 8).double() for n in (6, 40, 6, 40)]
    found = []
    for dtype in (torch.float64, torch.float32):
        embedding, weight, taught, frozen = (tensor.to(dtype) for tensor in exact)
        embedding.requires_grad_(), weight.requires_grad_()
        student, teacher = LazyLogits(embedding, weight, scale), LazyLogits(taught, frozen, scale)
        terms = [kind(student, teacher, 2.0, standardize) for kind in COMPARISONS]
        losses = chunked_losses(terms, torch.arange(6), chunk_size=16)
        found.append([torch.stack(losses), *torch.autograd.grad(sum(losses), [embedding, weight])])
    for truth, rounded in zip(*found, strict=True):
        assert rounded.isfinite().all()
        # At the ends, hardly anything varies, or softmax is 0 and 1: correlations are then those of rounding.
        tolerance = 1e-3 if scale == 64 or standardize else 1.0
        assert (truth - rounded).norm() <= tolerance * truth.norm()


@pytest.mark.parametrize("kind", COMPARISONS)
def test_one_class_and_constant_logits_give_no_infinite_gradient(kind):
    for classes, weight in ((1, torch.ones(1, 4)), (5, torch.ones(5, 4))):
        # Of length 2, so that all cosines are exact: otherwise some processors round those of the last classes
        # differently, and logits that differ by that are not constant.
        embedding = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, -1]]).requires_grad_()
        student, teacher = LazyLogits(embedding, weight), LazyLogits(torch.randn(3, 4), torch.randn(classes, 4))
        for standardize in (False, True):
            term = kind(student, teacher, 2.0, standardize)
            (loss,) = chunked_losses([term], torch.zeros(3, dtype=torch.int64), chunk_size=2)
            (gradient,) = torch.autograd.grad(loss, embedding)
            assert loss.isfinite() and gradient.isfinite().all()
            assert gradient.abs().max() < (1e-6 if classes == 1 else 1)  # rounding, at standard deviation 1


def test_labels_and_a_temperature_are_needed():
    student, teacher = Example().logits()
    for kind in (TargetKL, OthersKL):
        with pytest.raises(InputError, match="two parts of DKD need labels"):
            chunked_losses([kind(student, teacher)])
    with pytest.raises(InputError, match="temperature = 0"):
        InterClass(student, teacher, 0)


@pytest.mark.parametrize("kind", COMPARISONS)
def test_no_matrix_of_all_classes_is_made(kind):
    example = Example(batch=48, classes=400)
    watch = Watch()
    with watch:
        sum(chunked_losses([kind(*example.logits(), 2.0, True)], example.labels, chunk_size=25)).backward()
    assert watch.largest == 4 * 400  # the gradient of the weight; all logits would be 48 * 400
