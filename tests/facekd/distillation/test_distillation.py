"""Tests losses that compare image by image: golden values of the public TH-KD code, naive loops, symmetries."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from facekd.distillation import LossWeights, adadistill, arcdistill, rkd_angle, rkd_distance, sp
from facekd.distillation.embeddings import embedding_cosine, embedding_l2, simkd
from facekd.distillation.logits import kd_kl, mix
from facekd.errors import InputError

SEEDS = st.integers(0, 2**31)
PAIRWISE = [embedding_l2, embedding_cosine, simkd, rkd_distance, rkd_angle, sp]


def golden(rate: float, shift: float) -> torch.Tensor:
    """Returns 2 sin(rate (5 i + j) + shift), 4 images x 5 classes: the public code's losses are known for these."""
    return torch.tensor(
        [[2 * math.sin(rate * (i * 5 + j) + shift) for j in range(5)] for i in range(4)], dtype=torch.float64
    )


STUDENT, SHARED, TEACHER = golden(1.0, 0.1), golden(0.7, 0.3), golden(1.3, 0.5)
LABELS = torch.tensor([0, 3, 1, 4])


def random_pair(seed=0, batch=6, student_size=5, teacher_size=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, student_size, generator=generator, dtype=dtype)
    return student, torch.randn(batch, teacher_size, generator=generator, dtype=dtype)


def random_rotation(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


# ---- values ----------------------------------------------------------------------------------------------------------


def test_golden_values_of_the_public_code():
    assert functional.cross_entropy(STUDENT, LABELS).item() == pytest.approx(2.190454072727915, abs=1e-12)
    assert kd_kl(STUDENT, TEACHER, 4.0).item() == pytest.approx(1.9421550442751074, abs=1e-12)
    assert kd_kl(SHARED, TEACHER, 4.0).item() == pytest.approx(1.662786079347721, abs=1e-12)


def test_golden_total_through_the_weights_of_a_configuration():
    weights = LossWeights(ce=1, kl=1.5, th_kl=0.02, temperature=4)
    total = weights.combine(
        {
            "ce": functional.cross_entropy(STUDENT, LABELS),
            "kl": kd_kl(STUDENT, TEACHER, weights.temperature),
            "th_kl": kd_kl(SHARED, TEACHER, weights.temperature),
        }
    )
    assert total.item() == pytest.approx(5.136942360727531, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kl_is_the_definition(temperature):
    total = 0.0
    for student_row, teacher_row in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        student = [math.exp(value / temperature) for value in student_row]
        teacher = [math.exp(value / temperature) for value in teacher_row]
        p, q = [value / sum(teacher) for value in teacher], [value / sum(student) for value in student]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = total * temperature**2 / 4
    assert kd_kl(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_kl_at_high_temperature_compares_centred_logits():
    # Hinton et al., sec. 2.1: T^2 KL tends to half the mean squared difference of centred logits.
    centred = (STUDENT - STUDENT.mean(1, keepdim=True)) - (TEACHER - TEACHER.mean(1, keepdim=True))
    limit = centred.square().mean(1).mean() / 2
    assert kd_kl(STUDENT, TEACHER, 1e5).item() == pytest.approx(limit.item(), rel=1e-4)


def test_kl_of_scaled_cosines_stays_finite():
    student, teacher = torch.tensor([[64.0, -64.0, -64.0]]), torch.tensor([[-64.0, 64.0, -64.0]])
    assert kd_kl(student, teacher, 0.5).item() == pytest.approx(256 * 0.25, rel=1e-6)


def test_embedding_losses_are_the_definition():
    student, teacher = random_pair()
    cosines = [
        sum(a * b for a, b in zip(s, t, strict=True)) / math.dist(s, [0] * 5) / math.dist(t, [0] * 5)
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    kde = sum(2 * (1 - cosine) for cosine in cosines)
    assert embedding_l2(student, teacher, "sum").item() == pytest.approx(kde, abs=1e-12)
    assert embedding_l2(student, teacher).item() == pytest.approx(kde / 6, abs=1e-12)
    assert embedding_cosine(student, teacher).item() == pytest.approx(kde / 12, abs=1e-12)


def test_simkd_goes_through_the_projector():
    student, teacher = random_pair(student_size=3)
    projector = nn.Linear(3, 5).double()
    loss = simkd(student, teacher, projector)
    naive = 0.0
    for b, e in itertools.product(range(6), range(5)):
        mapped = sum((projector.weight[e, d] * student[b, d]).item() for d in range(3)) + projector.bias[e].item()
        naive += (mapped - teacher[b, e].item()) ** 2
    assert loss.item() == pytest.approx(naive / 30, abs=1e-12)
    loss.backward()
    assert projector.weight.grad is not None and projector.weight.grad.abs().sum() > 0


# ---- symmetries ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=SEEDS, shift=st.floats(-50, 50), temperature=st.floats(0.2, 20))
def test_kl_is_positive_and_ignores_what_softmax_ignores(seed, shift, temperature):
    student, teacher = random_pair(seed)
    value = kd_kl(student, teacher, temperature)
    assert value >= 0
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(kd_kl(student + shift, teacher - shift, temperature), value, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(kd_kl(student[:, order], teacher[:, order], temperature), value)
    # Logits and temperature scaled together change only the factor.
    torch.testing.assert_close(kd_kl(3 * student, 3 * teacher, 3 * temperature), 9 * value)


@settings(max_examples=30)
@given(seed=SEEDS, student_scale=st.floats(0.01, 100), teacher_scale=st.floats(0.01, 100))
def test_embedding_losses_look_at_directions_alone(seed, student_scale, teacher_scale):
    student, teacher = random_pair(seed)
    rotation = random_rotation(5, seed)
    for loss in (embedding_l2, embedding_cosine):
        value = loss(student, teacher)
        assert 0 <= value <= 4
        torch.testing.assert_close(loss(student_scale * student, teacher_scale * teacher), value)
        torch.testing.assert_close(loss(student @ rotation, teacher @ rotation), value)
        torch.testing.assert_close(loss(teacher, student), value)


@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
def test_zero_and_at_rest_where_the_student_is_the_teacher(loss):
    student = random_pair(3)[0].requires_grad_()
    value = loss(student, student.detach().clone())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None and student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_the_order_of_the_batch_does_not_matter(loss, seed):
    student, teacher = random_pair(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


# ---- gradients and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
def test_gradient(loss):
    student, teacher = random_pair(5)
    torch.autograd.gradcheck(lambda values: loss(values, teacher), student.requires_grad_())


@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = (side.requires_grad_() for side in random_pair())
    loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize("loss", PAIRWISE)
def test_an_embedding_of_zeros_has_a_finite_gradient(loss):
    student, teacher = random_pair(dtype=torch.float32)
    student[2] = 0
    student[4] = student[5]  # and two images that the student cannot tell apart
    loss(student.requires_grad_(), teacher).backward()
    assert student.grad is not None and student.grad.isfinite().all() and student.grad.abs().max() < 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
def test_float32_under_autocast_and_for_half_inputs(loss, dtype):
    student, teacher = (side.to(dtype) for side in random_pair(dtype=torch.float32))
    expected = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_losses_on_centres_are_float32_under_autocast():
    student, teacher = random_pair(batch=4, dtype=torch.float32)
    centres = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    expected = arcdistill(student, LABELS, centres), adadistill(student, teacher, LABELS, centres)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(arcdistill(student, LABELS, centres), expected[0])
        loss, rows = adadistill(student, teacher, LABELS, centres)
    assert torch.equal(loss, expected[1][0]) and torch.equal(rows, expected[1][1])


# ---- the mix of TH-KD ------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(a=st.floats(0, 1), temperature=st.floats(0.5, 10))
def test_equations_1_and_2(a, temperature):
    own, shared = kd_kl(STUDENT, TEACHER, temperature), kd_kl(SHARED, TEACHER, temperature)
    assert mix(own, shared, a).item() == pytest.approx((1 - a) * own.item() + a * shared.item(), abs=1e-12)
    # The same through the weights of a configuration, as its docstring says (a weight of 0 is left out there).
    weights = LossWeights(ce=0, kl=1.5 * (1 - a), th_kl=1.5 * a)
    assert weights.combine({"kl": own, "th_kl": shared}).item() == pytest.approx(1.5 * mix(own, shared, a).item())
    prediction = mix(STUDENT.softmax(1), SHARED.softmax(1), a)
    torch.testing.assert_close(prediction.sum(1), torch.ones(4, dtype=torch.float64))


def test_either_end_of_the_mix_leaves_the_other_head_alone():
    value, infinite = torch.tensor(2.0), torch.tensor(math.inf)
    assert mix(value, infinite, 0) is value and mix(infinite, value, 1) is value
    assert mix(None, value, 1) is value and mix(value, None, 0) is value


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((None, STUDENT, 0.5), "own"),
        ((STUDENT, None, 1), "shared"),
        ((None, None, 1), "shared"),
        ((None, None, 0), "own"),
    ],
)
def test_a_mix_without_one_of_its_heads_is_refused(arguments, missing):
    with pytest.raises(InputError, match=f"nothing was given for the {missing} one"):
        mix(*arguments)


@pytest.mark.parametrize("a", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(a):
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        mix(STUDENT, SHARED, a)


def test_a_mix_of_two_shapes_is_refused():
    with pytest.raises(InputError, match="one shape"):
        mix(STUDENT, SHARED[:, :3], 0.5)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [embedding_l2, embedding_cosine, simkd])
def test_unequal_embedding_sizes_are_refused_with_what_to_do(loss):
    student, teacher = random_pair(student_size=3, teacher_size=5)
    message = rf"has 3 values and the teacher's 5: loss\.{loss.__name__} compares.*projection \(3 to 5\)"
    with pytest.raises(InputError, match=message):
        loss(student, teacher)


def test_other_classes_are_refused():
    with pytest.raises(InputError, match=r"4 classes and the teacher's 5.*same identities"):
        kd_kl(STUDENT[:, :4], TEACHER)


@pytest.mark.parametrize("loss", [kd_kl, *PAIRWISE])
def test_shapes_and_dtypes_are_checked(loss):
    student, teacher = random_pair()
    rows = f"4 rows of student {'logits' if loss is kd_kl else 'embeddings'} and"
    with pytest.raises(InputError, match=f"{rows}.* same images"):
        loss(student[:4], teacher)
    with pytest.raises(InputError, match="same images"):
        loss(student[:0], teacher[:0])
    with pytest.raises(InputError, match="two-dimensional"):
        loss(student[0], teacher)
    with pytest.raises(InputError, match=r"teacher.*int64"):
        loss(student, teacher.long())


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(InputError, match="temperature"):
        kd_kl(STUDENT, TEACHER, temperature)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(InputError, match="'mean' or 'sum'"):
        embedding_l2(STUDENT, TEACHER, "none")  # pyright: ignore[reportArgumentType]
