"""Margins against closed forms and naive restatements, and the properties training relies on.

Gradients are in test_margin_gradients.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import FacekdError, InputError
from facekd.margin_values import MARGIN_NAMES
from facekd.margins import MARGINS, adaface, arcface, check_labels, combined, cosface, labels_checked, no_margin

LABEL = torch.tensor([0])
SCALE = 64.0


def target(margin_function, cosine, *args, **kwargs):
    """What a margin makes of single cosines, as the target of rows with one other class."""
    cosine = torch.as_tensor(cosine, dtype=kwargs.pop("dtype", torch.float64)).reshape(-1)
    both = torch.stack([cosine, torch.zeros_like(cosine)], dim=1)
    return margin_function(both, torch.zeros(len(cosine), dtype=torch.int64), *args, **kwargs)[:, 0]


def slope(margin_function, cosine, *args, dtype=torch.float64, **kwargs):
    """d margined / d cosine at single cosines."""
    cosine = torch.as_tensor(cosine, dtype=dtype).reshape(-1).requires_grad_()
    out = target(margin_function, cosine, *args, dtype=dtype, **kwargs)
    return torch.autograd.grad(out.sum(), cosine)[0]


def random_batch(batch=12, classes=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.rand(batch, classes, generator=generator, dtype=dtype) * 1.98 - 0.99
    labels = torch.randint(classes, (batch,), generator=generator)
    norms = torch.rand(batch, generator=generator, dtype=dtype) * 40 + 1
    return cosine, labels, norms


def naive_combined(cosine, labels, m1, m2, m3):
    """The definition, one number at a time, for angles that stay below pi; past it the guard of `combined`."""
    out = cosine.clone().numpy()
    for row, label in enumerate(labels.tolist()):
        theta = math.acos(out[row, label])
        angle = m1 * theta + m2
        phi = math.pi - (math.pi - m2) / m1
        guarded = math.cos(theta) - phi * math.sin(phi)
        out[row, label] = (math.cos(angle) if angle < math.pi else guarded) - m3
    return torch.from_numpy(out)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.35, 0.0, 0.0), (1.1, 0.3, 0.2), (3, 0, 0)])
def test_combined_is_the_definition(margins, seed):
    cosine, labels, _ = random_batch(batch=60, seed=seed)
    torch.testing.assert_close(combined(cosine, labels, *margins), naive_combined(cosine, labels, *margins))


def test_arcface_and_cosface_are_cases_of_combined():
    cosine, labels, _ = random_batch()
    assert torch.equal(arcface(cosine, labels, 0.5), combined(cosine, labels, 1.0, 0.5, 0.0))
    assert torch.equal(cosface(cosine, labels, 0.4), combined(cosine, labels, 1.0, 0.0, 0.4))
    assert torch.equal(combined(cosine, labels, 1.0, 0.0, 0.0), no_margin(cosine, labels))


def test_m2_counts_beside_m3():
    # arcface_torch ignores m2 as soon as m3 > 0.
    assert target(combined, 0.5, 1.0, 0.3, 0.2).item() == pytest.approx(math.cos(math.pi / 3 + 0.3) - 0.2)


def test_defaults_are_those_of_the_papers():
    assert target(arcface, 0.5).item() == pytest.approx(math.cos(math.pi / 3 + 0.5))
    assert target(cosface, 0.5).item() == pytest.approx(0.5 - 0.35)


@given(theta=st.floats(0, math.pi), margin=st.floats(0, 3.1))
def test_arcface_value_at_any_angle(theta, margin):
    value = target(arcface, math.cos(theta), margin).item()
    if theta + margin < math.pi - 1e-6:
        assert value == pytest.approx(math.cos(theta + margin), abs=1e-7)  # cos(theta) rounds theta near 0 to 1e-8
    elif theta + margin > math.pi + 1e-6:
        assert value == pytest.approx(math.cos(theta) - max(margin * math.sin(margin), 1 - math.cos(margin)))


def test_guard_is_the_published_one_for_usual_margins():
    for margin in (0.1, 0.3, 0.5, 0.8, 1.5, 2.3):
        value = target(arcface, -1.0, margin).item()
        assert value == pytest.approx(-1 - margin * math.sin(margin))


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_only_the_target_changes_and_nothing_in_place(name):
    cosine, labels, norms = random_batch(dtype=torch.float32)
    before = cosine.clone()
    extra = (norms,) if name == "adaface" else ()
    out = MARGINS[name](cosine, labels, *extra)
    assert torch.equal(cosine, before)
    other = torch.ones_like(cosine, dtype=torch.bool).scatter(1, labels[:, None], False)
    assert torch.equal(out[other], cosine[other])
    if name != "none":
        assert (out[~other] != cosine[~other]).all()


@given(
    cosines=st.lists(st.floats(-1, 1), min_size=2, max_size=30),
    m1=st.sampled_from([1.0, 1.0, 1.2, 1.35, 2.0, 4.0]),
    m2=st.floats(0, 3.14),
    m3=st.floats(0, 1),
    gradient=st.sampled_from(["exact", "straight_through"]),
)
def test_a_larger_angle_never_gives_a_larger_value(cosines, m1, m2, m3, gradient):
    ordered = torch.tensor(sorted(cosines), dtype=torch.float64)
    out = target(combined, ordered, m1, m2, m3, gradient=gradient)
    assert (out.diff() >= -1e-12).all()


@pytest.mark.parametrize("margin", [1e-4, 0.1, 0.5, 1.0, 2.33, 2.6, 3.1])
def test_past_pi_the_value_falls_strictly_and_the_slope_stays_one(margin):
    theta = torch.linspace(math.pi - margin + 1e-4 * margin, math.pi, 200, dtype=torch.float64)
    past = theta.cos()
    assert (target(arcface, past, margin).diff() < 0).all()
    assert (target(arcface, past, margin) <= -1 + 1e-12).all()
    assert torch.equal(slope(arcface, past, margin), torch.ones(200, dtype=torch.float64))


@given(
    cosines=st.lists(st.floats(-1, 1), min_size=2, max_size=30),
    norm=st.floats(0, 150),
    margin=st.floats(0, 1),
)
def test_adaface_never_rises_with_the_angle(cosines, norm, margin):
    ordered = torch.tensor(sorted(cosines), dtype=torch.float64)
    out = target(adaface, ordered, torch.full((len(cosines),), norm), margin, 1.0, norm_mean=20.0, norm_std=10.0)
    assert (out.diff() >= -1e-12).all()


@settings(max_examples=20)
@given(
    batch=st.integers(1, 6),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    margin=st.floats(0.01, 1.0),
)
def test_a_margin_never_lowers_the_loss(batch, classes, seed, margin):
    cosine, labels, _ = random_batch(batch, classes, seed)
    plain = torch.nn.functional.cross_entropy(SCALE * no_margin(cosine, labels), labels, reduction="none")
    for function in (arcface, cosface):
        loss = torch.nn.functional.cross_entropy(SCALE * function(cosine, labels, margin), labels, reduction="none")
        assert (loss >= plain).all()


# ---- AdaFace ---------------------------------------------------------------------------------------------------------


def test_adaface_is_the_published_formula():
    def theirs(cosine, labels, norms, margin, h, mean, std):
        norms = norms.clamp(0.001, 100)
        scaler = ((norms - mean) / (std + 1e-3) * h).clamp(-1, 1)
        one_hot = torch.nn.functional.one_hot(labels, cosine.shape[1]).to(cosine.dtype)
        angle = cosine.acos() - one_hot * (margin * scaler)[:, None]
        return angle.clamp(0, math.pi).cos() - one_hot * (margin + margin * scaler)[:, None]

    generator = torch.Generator().manual_seed(4)
    cosine = torch.rand(300, 6, generator=generator, dtype=torch.float64) * 1.89 - 0.9  # below pi even with + 0.4
    labels = torch.randint(6, (300,), generator=generator)
    norms = torch.rand(300, generator=generator, dtype=torch.float64) * 120
    for mean, std, h in ((20.0, 100.0, 0.333), (30.0, 6.0, 0.333), (50.0, 10.0, 1.0)):
        found = adaface(cosine, labels, norms, 0.4, h, norm_mean=mean, norm_std=std)
        torch.testing.assert_close(found, theirs(cosine, labels, norms, 0.4, h, mean, std))


def test_adaface_corner_cases_of_its_paper():
    # g = -1 is ArcFace, g = 0 is CosFace, and g = 1 a negative angle with twice the additive margin.
    at = {"norm_mean": 50.0, "norm_std": 1.0}
    low, middle, high = (torch.tensor([norm]) for norm in (1.0, 50.0, 99.0))
    assert target(adaface, 0.3, low, 0.4, 1.0, **at).item() == pytest.approx(target(arcface, 0.3, 0.4).item())
    assert target(adaface, 0.3, middle, 0.4, 1.0, **at).item() == pytest.approx(target(cosface, 0.3, 0.4).item())
    expected = math.cos(math.acos(0.3) - 0.4) - 0.8
    assert target(adaface, 0.3, high, 0.4, 1.0, **at).item() == pytest.approx(expected)


def test_adaface_takes_statistics_from_the_batch_unless_given():
    cosine, labels, norms = random_batch(batch=30)
    given_batch = adaface(cosine, labels, norms, norm_mean=norms.mean(), norm_std=norms.std())
    torch.testing.assert_close(adaface(cosine, labels, norms), given_batch)
    torch.testing.assert_close(adaface(cosine, labels, norms[:, None]), given_batch)
    alone = adaface(cosine[:1], labels[:1], norms[:1])  # no deviation to speak of: g = 0
    torch.testing.assert_close(alone, cosface(cosine[:1], labels[:1], 0.4))


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_float32_under_autocast_and_for_half_precision_cosines(name):
    cosine, labels, norms = random_batch(dtype=torch.float32)
    extra = (norms,) if name == "adaface" else ()
    expected = MARGINS[name](cosine, labels, *extra)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MARGINS[name](cosine, labels, *extra)
        half = MARGINS[name](cosine.bfloat16(), labels, *extra)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(half, MARGINS[name](cosine.bfloat16().float(), labels, *extra))
    assert MARGINS[name](cosine.double(), labels, *extra).dtype == torch.float64


def test_gradient_of_half_precision_cosines_arrives_in_half_precision():
    cosine, labels, _ = random_batch(dtype=torch.float32)
    half = cosine.half().requires_grad_()
    arcface(half, labels).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.float16
    assert half.grad.isfinite().all()


def test_nan_is_not_hidden():
    cosine = torch.tensor([[math.nan, 0.2]])
    assert arcface(cosine, LABEL)[0, 0].isnan()
    assert combined(cosine, LABEL, 1.3, 0.1, 0.1)[0, 0].isnan()
    assert adaface(cosine, LABEL, torch.tensor([3.0]))[0, 0].isnan()


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
@pytest.mark.parametrize("name", sorted(MARGINS))
def test_a_label_out_of_range_is_named(name, wrong):
    cosine, labels, norms = random_batch()
    labels[4] = wrong
    extra = (norms,) if name == "adaface" else ()
    with pytest.raises(InputError, match=rf"label {wrong} at position 4 .*\[0, 7\).*1 of 12"):
        MARGINS[name](cosine, labels, *extra)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(12, dtype=torch.int32), "int64.*int32"),
        (torch.zeros(12), "int64.*float32"),
        (torch.zeros(12, 1, dtype=torch.int64), r"\(B,\).*\(12, 1\)"),
        (torch.zeros(11, dtype=torch.int64), "11 labels for 12 rows"),
    ],
)
def test_labels_of_another_shape_or_dtype(labels, message):
    cosine, _, _ = random_batch()
    with pytest.raises(InputError, match=message):
        arcface(cosine, labels)


@pytest.mark.parametrize("cosine", [torch.zeros(3), torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64)])
def test_cosines_of_another_shape_or_dtype(cosine):
    with pytest.raises(InputError, match="floating"):
        arcface(cosine, LABEL)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, y: arcface(c, y, -0.1), r"margin of arcface = -0.1 .*\[0, 3.142\) \(radians\)$"),
        (lambda c, y: arcface(c, y, 28.6), "if that was degrees, give 0.499"),
        (lambda c, y: arcface(c, y, math.nan), "margin of arcface = nan"),
        (lambda c, y: cosface(c, y, 2.5), "margin of cosface = 2.5.*units of cosine"),
        (lambda c, y: combined(c, y, 0.9, 0.0, 0.0), r"m1 of combined = 0.9 .*\[1, inf\)"),
        (lambda c, y: combined(c, y, 1.0, 3.5, 0.0), "m2 of combined = 3.5"),
        (lambda c, y: combined(c, y, 1.0, 0.0, -1.0), "m3 of combined = -1"),
        (lambda c, y: adaface(c, y, torch.ones(12), 1.2), "margin of adaface = 1.2"),
        (lambda c, y: adaface(c, y, torch.ones(12), 0.4, 0.0), "h of adaface = 0"),
        (lambda c, y: adaface(c, y, torch.ones(5)), "12 labels but norms of \\(5,\\)"),
        (lambda c, y: arcface(c, y, gradient="through"), "'exact' or 'straight_through'"),
        (lambda c, y: cosface(c, y, gradient="through"), "'exact' or 'straight_through'"),
    ],
)
def test_values_out_of_range(call, message):
    cosine, labels, _ = random_batch()
    with pytest.raises(FacekdError, match=message):
        call(cosine, labels)


def test_labels_checked_once_are_trusted_as_far_as_they_were_checked():
    cosine, labels, wrong = torch.zeros(2, 4), torch.tensor([0, 3]), torch.tensor([0, 4])
    with labels_checked(labels, 4):
        check_labels(wrong, 4)  # which they are not: it is not looked at
        with pytest.raises(InputError, match="label 3 at position 1"):
            check_labels(labels, 3)
        with pytest.raises(InputError, match="3 labels for 2 rows"):
            arcface(cosine, torch.tensor([0, 1, 2]))
        with pytest.raises(InputError, match="int64"):
            check_labels(labels.int(), 4)
    with pytest.raises(InputError, match="label 4 at position 1"), labels_checked(wrong, 4):
        pass
    with pytest.raises(InputError, match="label 4 at position 1"):
        arcface(cosine, wrong)


def test_an_empty_batch_passes():
    cosine = torch.zeros(0, 5, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64)
    for name, function in MARGINS.items():
        extra = (torch.zeros(0),) if name == "adaface" else ()
        assert function(cosine, labels, *extra).shape == (0, 5)
    check_labels(labels, 5)


def test_every_name_of_a_margin_has_its_formula() -> None:
    assert tuple(MARGINS) == MARGIN_NAMES
