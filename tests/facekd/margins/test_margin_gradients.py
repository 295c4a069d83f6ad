"""Tests gradients of margins: finite differences, closed forms, the ends of the range, and straight-through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekd.margins import adaface, arcface, combined, cosface
from tests.facekd.margins.cosines import LABEL, SCALE, random_batch, slope, target


@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.35, 0.2, 0.1), (3.0, 0.0, 0.0)])
def test_gradient_equals_finite_differences_to_second_order(margins):
    cosine, labels, _ = random_batch(batch=20, classes=3, seed=1)
    cosine[:5, 0], labels[:5] = torch.tensor([-0.97, -0.93, -0.885, -0.87, 0.995], dtype=torch.float64), 0
    cosine.requires_grad_()

    def function(cosine):
        return combined(cosine, labels, *margins)

    assert torch.autograd.gradcheck(function, (cosine,))
    assert torch.autograd.gradgradcheck(function, (cosine,))


def test_gradient_of_adaface_equals_finite_differences_and_leaves_the_norms_alone():
    cosine, labels, norms = random_batch(batch=20, classes=3, seed=2)
    cosine.requires_grad_()
    norms.requires_grad_()

    def function(cosine):
        return adaface(cosine, labels, norms, 0.4, 1.5)

    assert torch.autograd.gradcheck(function, (cosine,))
    (grad_norms,) = torch.autograd.grad(function(cosine).sum(), norms, allow_unused=True)
    assert grad_norms is None


@given(cosine=st.floats(-0.75, 1 - 2**-24, width=32), margin=st.floats(0.05, 0.6))
def test_float32_slope_is_exact_up_to_the_last_cosine_below_one(cosine, margin):
    # sin(theta + m) / sin(theta), the closed form, in double precision on the very float32 cosine.
    sine = math.sqrt((1 - cosine) * (1 + cosine))
    exact = math.cos(margin) + math.sin(margin) * cosine / sine
    found = slope(arcface, cosine, margin, dtype=torch.float32).item()
    assert found == pytest.approx(exact, rel=2e-6, abs=2e-6)


# A float32 cosine below 1 cannot tell angles under 0.02 degrees apart: the closed form is taken at the rounded cosine.
SMALL_ANGLES = [math.radians(degrees) for degrees in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 2.8, 2.9)]


@pytest.mark.parametrize("theta", SMALL_ANGLES, ids=lambda theta: f"{math.degrees(theta):.2f} degrees")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "margins", [(1.0, 0.05, 0.0), (1.0, 0.5, 0.0), (1.0, 0.3, 0.2), (1.35, 0.2, 0.1), (3.0, 0.0, 0.0)]
)
def test_slope_at_small_angles_is_the_closed_form(margins, dtype, theta):
    m1, m2, m3 = margins
    cosine = torch.tensor([math.cos(theta)], dtype=dtype).clamp_max(1 - torch.finfo(dtype).eps / 2)
    sine = math.sqrt((1 - cosine.item()) * (1 + cosine.item()))
    # d cos(m1 theta + m2) / d cos(theta) = m1 sin(m1 theta + m2) / sin(theta)
    exact = m1 * math.sin(m1 * math.atan2(sine, cosine.item()) + m2) / sine
    assert slope(combined, cosine, m1, m2, m3, dtype=dtype).item() == pytest.approx(exact, rel=2e-5)


@pytest.mark.parametrize("theta", SMALL_ANGLES, ids=lambda theta: f"{math.degrees(theta):.2f} degrees")
@pytest.mark.parametrize("norm", [5.0, 20.0, 35.0])
def test_slope_of_adaface_at_small_angles_is_the_closed_form(norm, theta):
    quality = min(max((norm - 20.0) / (10.0 + 0.001) * 0.333, -1.0), 1.0)
    added = -0.4 * quality
    found = slope(adaface, math.cos(theta), torch.tensor([norm]), 0.4, norm_mean=20.0, norm_std=10.0).item()
    # A high norm takes the angle off; where nothing of it is left, the target is constant.
    expected = math.sin(theta + added) / math.sin(theta) if theta + added > 0 else 0.0
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("theta", SMALL_ANGLES, ids=lambda theta: f"{math.degrees(theta):.2f} degrees")
def test_slope_of_arcface_at_small_angles_equals_finite_differences(theta):
    # Differences by the angle, where the margined cosine is smooth; d / d cos(theta) = d / d theta / -sin(theta).
    step = 1e-3 * theta
    beside = torch.tensor([theta - step, theta + step], dtype=torch.float64).cos()
    values = target(arcface, beside, 0.5)
    estimate = float(values[1] - values[0]) / float(beside[1] - beside[0])
    assert slope(arcface, math.cos(theta), 0.5).item() == pytest.approx(estimate, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000002, -1.0000002])
@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.0, 2.8, 0.0), (1.35, 0.2, 0.1), (4, 0, 0)])
def test_finite_at_the_ends(cosine, margins, gradient, dtype):
    value = target(combined, cosine, *margins, gradient=gradient, dtype=dtype)
    found = slope(combined, cosine, *margins, gradient=gradient, dtype=dtype)
    _, m2, m3 = margins
    if cosine > 0:
        assert value.item() == pytest.approx(math.cos(m2) - m3, abs=1e-6)
    else:
        assert math.isfinite(value.item())
        assert value.item() <= -1 - m3 + 1e-6
    assert 0 <= found.item() < 1e9


@pytest.mark.parametrize("cosine", [1.0, -1.0])
@pytest.mark.parametrize("norm", [0.0, 20.0, 100.0])
def test_adaface_is_finite_at_the_ends(cosine, norm):
    kwargs = {"norm_mean": 20.0, "norm_std": 5.0, "dtype": torch.float32}
    norms = torch.tensor([norm])
    assert math.isfinite(target(adaface, cosine, norms, **kwargs).item())
    assert 0 <= slope(adaface, cosine, norms, **kwargs).item() < 1e9


@pytest.mark.parametrize("margin_function", [arcface, cosface])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_embedding_on_its_class_centre_gets_a_finite_gradient(margin_function, sign):
    # The slope by the cosine grows without bound towards theta = 0; that of the cosine by the embedding falls to 0.
    centre = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    embedding = (sign * 7 * centre[:1]).requires_grad_()
    cosine = torch.nn.functional.normalize(embedding) @ centre.T
    loss = torch.nn.functional.cross_entropy(SCALE * margin_function(cosine, LABEL), LABEL)
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert gradient.isfinite().all()
    # |d psi / d embedding| is sin(theta + m) / |embedding| at most; two terms (target and others), times the scale.
    assert gradient.norm() < 2 * SCALE / 7


def test_straight_through_is_the_published_gradient():
    # At 60 degrees, margin 0.5, scale 64 the derivative is 64 sin(60 deg + 0.5) / sin(60 deg) = 73.88.
    cosine = 0.5
    assert SCALE * slope(arcface, cosine, 0.5).item() == pytest.approx(73.88, abs=0.005)
    assert SCALE * slope(arcface, cosine, 0.5, gradient="straight_through").item() == 64.0


def test_straight_through_equals_a_restatement_of_arcface_torch():
    def theirs(cosine, labels, margin):
        """Computes arccos, addition and cos outside autograd, so that autograd sees only the scale."""
        logits = cosine.clone()
        with torch.no_grad():
            angle = logits.arccos()
            angle[torch.arange(len(labels)), labels] += margin
            logits.copy_(angle.cos())
        return (cosine + (logits - cosine).detach()) * SCALE

    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64))
    embedding = torch.randn(9, 8, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(5, (9,), generator=generator)
    gradients, values = [], []
    for function in (theirs, lambda c, y, m: SCALE * arcface(c, y, m, gradient="straight_through")):
        cosine = torch.nn.functional.normalize(embedding) @ weight.T
        assert cosine.gather(1, labels[:, None]).min() > -math.cos(0.5)  # past pi theirs rises again, ours does not
        logits = function(cosine, labels, 0.5)
        values.append(logits.detach())
        loss = torch.nn.functional.cross_entropy(logits, labels)
        gradients.append(torch.autograd.grad(loss, embedding)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.3, 0.2, 0.1)])
def test_straight_through_changes_the_gradient_only(margins):
    cosine, labels, norms = random_batch(dtype=torch.float32)
    exact = combined(cosine, labels, *margins)
    assert torch.equal(exact, combined(cosine, labels, *margins, gradient="straight_through"))
    assert torch.equal(adaface(cosine, labels, norms), adaface(cosine, labels, norms, gradient="straight_through"))
    assert (slope(combined, [-0.99, -0.5, 0.0, 0.7], *margins, gradient="straight_through") == 1).all()


# ---- together with the rest of torch ---------------------------------------------------------------------------------


def test_per_sample_slopes_by_vmap_and_grad():
    def value(cosine):
        return arcface(torch.stack([cosine, torch.zeros_like(cosine)])[None], LABEL, 0.5)[0, 0]

    cosine = torch.tensor([-0.95, -0.2, 0.5, 1.0])
    found = torch.stack([torch.func.grad(value)(c) for c in cosine])
    torch.testing.assert_close(found, slope(arcface, cosine, 0.5, dtype=torch.float32))


@pytest.mark.slow
def test_compiled_is_the_same():
    compiled = torch.compile(arcface, backend="aot_eager")
    cosine, labels, _ = random_batch(dtype=torch.float32)
    gradients = []
    for function in (arcface, compiled):
        leaf = cosine.clone().requires_grad_()
        out = function(leaf, labels, 0.5)
        torch.testing.assert_close(out, arcface(cosine, labels, 0.5))
        gradients.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
