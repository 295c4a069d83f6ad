"""Compares margins with closed forms and naive restatements; tests the properties that training relies on.

Gradients are in test_margin_gradients.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.commands.config_files import parse_config
from facekd.errors import ConfigError, FacekdError, InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import CrossEntropy, LazyLogits
from facekd.labels import check_labels, labels_checked
from facekd.margins import (
    MARGIN_FUNCTIONS,
    MARGINS,
    NORM_LOSSES,
    OTHER_COSINES,
    Margin,
    Parameter,
    adaface,
    arcface,
    combined,
    cosface,
    no_margin,
    norm_statistics,
)
from facekd.training.config import TrainConfig
from facekd.training.config.main_keys import TRAIN_KEYS
from tests.facekd.margins.cosines import LABEL, SCALE, random_batch, slope, target


def naive_combined(cosine, labels, m1, m2, m3):
    """Computes the definition one number at a time, and past pi the guard of `combined`."""
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
    cosine, labels, norms = random_batch(seed=2)
    assert torch.equal(combined(cosine, labels), cosine)
    assert torch.equal(adaface(cosine, labels, norms), adaface(cosine, labels, norms, margin=0.4, h=0.333))


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


def by_name(name, cosine, labels, norms):
    """Applies a margin of the table, at a value that changes something."""
    arguments = {"m2": 0.5} if name == "combined" else {}
    if MARGINS[name].needs_norms or MARGINS[name].learns_norms:
        arguments["norms"] = norms
    return MARGIN_FUNCTIONS[name](cosine, labels, **arguments)


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_only_the_target_changes_and_nothing_in_place(name):
    cosine, labels, norms = random_batch(dtype=torch.float32)
    before = cosine.clone()
    out = by_name(name, cosine, labels, norms)
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
    for cosine in (0.3, -0.95):  # at -0.95 the angle exceeds pi, where the guard is ArcFace's too
        assert target(adaface, cosine, low, 0.4, 1.0, **at).item() == pytest.approx(target(arcface, cosine, 0.4).item())
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
    assert norm_statistics(torch.tensor([1.0, 4.0]))[1].item() == pytest.approx(3 / math.sqrt(2))
    # Half-precision norms are averaged in the precision of the cosines.
    half = norms.half()
    torch.testing.assert_close(adaface(cosine, labels, half), adaface(cosine, labels, half.double()), rtol=0, atol=0)


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_float32_under_autocast_and_for_half_precision_cosines(name):
    cosine, labels, norms = random_batch(dtype=torch.float32)
    expected = by_name(name, cosine, labels, norms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_name(name, cosine, labels, norms)
        half = by_name(name, cosine.bfloat16(), labels, norms)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(half, by_name(name, cosine.bfloat16().float(), labels, norms))
    assert by_name(name, cosine.double(), labels, norms).dtype == torch.float64


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
    with pytest.raises(InputError, match=rf"label {wrong} at position 4 .*\[0, 7\).*1 of 12"):
        by_name(name, cosine, labels, norms)


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
        (lambda c, y: adaface(c, y, torch.ones(5)), "^adaface needs one norm .* 12 labels but norms of \\(5,\\)"),
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
    for name in MARGINS:
        assert by_name(name, cosine, labels, torch.zeros(0)).shape == (0, 5)
    check_labels(labels, 5)


# ---- the table of margins --------------------------------------------------------------------------------------------


def random_arguments(name, generator):
    """Draws values of all parameters from their ranges."""
    found = {}
    for argument, parameter in MARGINS[name].parameters.items():
        high = min(parameter.high, parameter.low + 0.8)
        found[argument] = parameter.low + float(torch.rand((), generator=generator)) * (high - parameter.low)
    for low in [argument for argument in found if argument.endswith("_low")]:  # of a pair
        high = low.replace("_low", "_high")
        found[low], found[high] = sorted((found[low], found[high]))
    return found


def config_of(name, arguments, **more):
    return HeadConfig(
        margin=name, **{MARGINS[name].key(argument): value for argument, value in arguments.items()}, **more
    )


@pytest.mark.parametrize("name", MARGINS)
def test_defaults_of_the_table_are_in_range_and_those_of_the_function(name):
    margin = MARGINS[name]
    signature = inspect.signature(MARGIN_FUNCTIONS[name]).parameters
    for argument, parameter in margin.parameters.items():
        assert not parameter.find_fault(argument, parameter.default)
        assert signature[argument].default == parameter.default
        assert margin.key(argument) in {field.name for field in dataclasses.fields(HeadConfig)}
    others = {"cosine", "labels", "gradient"} | ({"norms", "norm_mean", "norm_std"} if margin.needs_norms else set())
    others |= {"margins"} if margin.draws_margins else set()
    others |= {"norms"} if margin.learns_norms else set()
    assert signature.keys() == others | margin.parameters.keys()


@pytest.mark.parametrize("name", MARGINS)
def test_values_outside_the_range_of_the_table_are_refused_by_function_and_configuration(name):
    cosine, labels, norms = random_batch()
    for argument, parameter in MARGINS[name].parameters.items():
        # The highest value is in the range where the message closes it.
        is_fault = bool(parameter.find_fault(argument, parameter.high))
        assert is_fault != parameter.includes_high
        assert f"{parameter.high:.4g}{')' if is_fault else ']'}" in parameter.find_fault(argument, parameter.high + 0.1)
        wrong = [parameter.low - 0.1, math.nan, math.inf]
        wrong += [parameter.high + 0.1] if parameter.includes_high else [parameter.high]
        for value in wrong:
            more = {"norms": norms} if MARGINS[name].needs_norms or MARGINS[name].learns_norms else {}
            with pytest.raises(InputError, match=rf"^{argument} of {name} = "):
                MARGIN_FUNCTIONS[name](cosine, labels, **more, **{argument: value})
            with pytest.raises(ConfigError, match=rf"^head\.{MARGINS[name].key(argument)} = "):
                config_of(name, {argument: value})


def assert_chunked_equals_dense(config, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    head = build_classifier(config, 6, 23).to(dtype).eval()
    if MARGINS[config.margin].needs_norms:  # statistics that the norms differ from
        head.norm_mean.fill_(2.0)
        head.norm_std.fill_(1.0)
    if MARGINS[config.margin].changes_others:
        head.mean_target.fill_(0.3)
    embedding = (torch.randn(9, 6, dtype=dtype) * 2).requires_grad_()
    labels = torch.randint(23, (9,))
    dense = torch.nn.functional.cross_entropy(head(embedding, labels), labels)
    if head.learns_norms:
        dense = dense + head.norm_loss(embedding).mean()
    (chunked,) = chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels, chunk_size=5)
    torch.testing.assert_close(chunked, dense)
    leaves = [embedding, head.weight]
    torch.testing.assert_close(torch.autograd.grad(chunked, leaves), torch.autograd.grad(dense, leaves))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize("name", MARGINS)
def test_every_margin_works_through_configuration_classifier_and_chunked_loss(name, gradient, seed):
    arguments = random_arguments(name, torch.Generator().manual_seed(seed))
    config = config_of(name, arguments, gradient=gradient, scale=16.0)
    assert config.margin_arguments == arguments
    # The classifier applies this function with these numbers.
    head = build_classifier(config, 4, 7).double().eval()
    cosine, labels, norms = random_batch()
    embedding = norms[:, None] * torch.eye(4, dtype=torch.float64)[0]
    more = {"norms": norms, "norm_mean": head.norm_mean, "norm_std": head.norm_std} if MARGINS[name].needs_norms else {}
    more |= {"norms": norms} if MARGINS[name].learns_norms else {}
    expected = MARGIN_FUNCTIONS[name](cosine, labels, **more, **arguments, gradient=gradient)
    torch.testing.assert_close(head.apply_margin(cosine, labels, embedding), expected)
    assert_chunked_equals_dense(config, seed)


def test_a_margin_is_added_by_a_row_of_the_table_and_its_function(monkeypatch):
    def squared(cosine, labels, margin=0.1, *, gradient="exact"):
        target = cosine.gather(1, labels[:, None])
        return cosine.scatter(1, labels[:, None], target - margin * target.square() - margin)

    row = Margin({"margin": Parameter(0.1, 0.0, 1.0, "units of cosine", key="margin_value")})
    monkeypatch.setitem(MARGINS, "squared", row)
    monkeypatch.setitem(MARGIN_FUNCTIONS, "squared", squared)
    assert str(HeadConfig(margin="squared")) == "squared 0.1, scale 64"
    with pytest.raises(ConfigError, match=r"head\.margin_value = 2 is outside \[0, 1\) \(units of cosine\)"):
        HeadConfig(margin="squared", margin_value=2)
    with pytest.raises(ConfigError, match=r"head\.m2 = 0\.1 has no effect with head\.margin = 'squared'"):
        HeadConfig(margin="squared", m2=0.1)
    assert_chunked_equals_dense(HeadConfig(margin="squared", margin_value=0.3, scale=16.0), 0)


def test_the_command_line_offers_the_margins_of_the_table():
    assert TRAIN_KEYS["head.margin"] == ", ".join(MARGINS)
    with pytest.raises(ConfigError, match=r"head\.margin = 'arcfce': choose one of none, arcface"):
        parse_config(TrainConfig, ["--head.margin", "arcfce"], "facekd train", "")


def test_every_name_of_a_margin_has_its_formula() -> None:
    assert tuple(MARGIN_FUNCTIONS) == tuple(MARGINS)
    assert list(NORM_LOSSES) == [name for name, margin in MARGINS.items() if margin.learns_norms]
    assert list(OTHER_COSINES) == [name for name, margin in MARGINS.items() if margin.changes_others]


# ---- MagFace ---------------------------------------------------------------------------------------------------------


def test_magface_is_the_published_formula():
    # Their margin, eq. 9, and loss, eq. 4 to 6, number by number, at norms below, within and above the limits.
    def theirs(embedding, centres, label, scale):
        norm = min(max(math.dist(embedding, [0] * len(embedding)), 10), 110)
        margin = (0.8 - 0.45) / (110 - 10) * (norm - 10) + 0.45
        cosines = [float(torch.cosine_similarity(torch.tensor(embedding), centre, dim=0)) for centre in centres]
        terms = [math.exp(scale * value) for value in cosines]
        terms[label] = math.exp(scale * math.cos(math.acos(cosines[label]) + margin))
        return -math.log(terms[label] / sum(terms)) + 35 * (1 / norm + norm / 110**2)

    torch.manual_seed(0)
    head = build_classifier(HeadConfig(margin="magface", scale=8.0), 3, 4).double()
    embedding = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64))
    embedding = embedding * torch.tensor([3.0, 10.5, 40.0, 80.0, 109.0, 200.0])[:, None]
    labels = head.cosine(embedding).argmax(1)  # theta + m below pi
    (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels)
    expected = [
        theirs(row, head.weight.detach(), label, 8.0)
        for row, label in zip(embedding.tolist(), labels.tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(sum(expected) / 6)


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_magface_learns_the_norm(gradient):
    config = HeadConfig(margin="magface", scale=4.0, gradient=gradient, norm_weight=5.0)
    head = build_classifier(config, 4, 6).double()
    embedding = torch.nn.functional.normalize(torch.randn(8, 4, dtype=torch.float64))
    embedding = (embedding * torch.linspace(15, 100, 8, dtype=torch.float64)[:, None]).requires_grad_()
    labels = torch.randint(6, (8,))
    (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(head, embedding))], labels)
    (found,) = torch.autograd.grad(loss, embedding)
    unit = torch.nn.functional.normalize(embedding.detach())
    # By the length of one embedding at a time, against finite differences: the direction keeps its cosines.
    for row in range(8):
        values = []
        for step in (-1e-4, 1e-4):
            moved = embedding.detach().clone()
            moved[row] += step * unit[row]
            values.append(chunked_losses([CrossEntropy(LazyLogits.of(head, moved))], labels)[0].item())
        along = float(found[row] @ unit[row])
        assert along == pytest.approx((values[1] - values[0]) / 2e-4, rel=1e-5) and abs(along) > 1e-6
    with pytest.raises(ConfigError, match=r"head\.margin_low = 0.5 must be below head.margin_high = 0.2"):
        HeadConfig(margin="magface", margin_low=0.5, margin_high=0.2)
    with pytest.raises(InputError, match="norm_low of magface = 20 must be below norm_high = 10"):
        MARGIN_FUNCTIONS["magface"](torch.zeros(1, 2), torch.tensor([0]), torch.ones(1), norm_low=20, norm_high=10)


# ---- CurricularFace, ElasticFace, filtering --------------------------------------------------------------------------


def test_curricularface_is_the_published_formula():
    # The paper's eq. 4 and 5 with the running mean of its section 3.3, number by number; two batches of training.
    torch.manual_seed(0)
    config = HeadConfig(margin="curricularface", margin_value=0.4, scale=8.0)
    head, embedding = build_classifier(config, 3, 5).double(), torch.randn(2, 20, 3, dtype=torch.float64)
    labels, mean = torch.randint(5, (2, 20)), 0.0
    for embedding_BD, labels_B in zip(embedding, labels, strict=True):
        logits = head(embedding_BD, labels_B)
        cosine = [
            [float(torch.cosine_similarity(one, centre, dim=0)) for centre in head.weight.detach()]
            for one in embedding_BD
        ]
        mean = 0.01 * sum(row[y] for row, y in zip(cosine, labels_B, strict=True)) / 20 + 0.99 * mean
        hard = 0
        for row, label, found in zip(cosine, labels_B.tolist(), logits, strict=True):
            theta = math.acos(row[label])
            margined = math.cos(theta + 0.4) if theta + 0.4 < math.pi else row[label] - 0.4 * math.sin(0.4)
            expected = [margined if j == label else c * (mean + c) if c > margined else c for j, c in enumerate(row)]
            hard += sum(j != label and c > margined for j, c in enumerate(row))
            assert found.tolist() == pytest.approx([8 * value for value in expected], abs=1e-6)
        assert hard > 10
        assert head.mean_target.item() == pytest.approx(mean, abs=1e-7)
    head.eval()
    head(embedding[0], labels[0])
    assert head.mean_target.item() == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("name", ["elastic_arcface", "elastic_cosface"])
def test_elasticface_takes_the_margins_it_is_given(name):
    cosine, labels, _ = random_batch()
    plain = {"elastic_arcface": arcface, "elastic_cosface": cosface}[name]
    assert torch.allclose(MARGIN_FUNCTIONS[name](cosine, labels, 0.3), plain(cosine, labels, 0.3), atol=1e-12)
    margins = torch.linspace(0, 0.9, 12, dtype=torch.float64)
    found = MARGIN_FUNCTIONS[name](cosine, labels, 0.3, margins=margins)
    for row, margin in enumerate(margins.tolist()):
        expected = plain(cosine[row : row + 1], labels[row : row + 1], margin)
        torch.testing.assert_close(found[row : row + 1], expected)
    with pytest.raises(InputError, match=r"\(3,\) margins for 12 images"):
        MARGIN_FUNCTIONS[name](cosine, labels, 0.3, margins=margins[:3])


def test_elasticface_draws_in_training_alone_and_by_the_seed():
    config = HeadConfig(margin="elastic_cosface", margin_value=0.3, margin_std=0.05, scale=1.0)
    head = build_classifier(config, 4, 3).double()
    embedding, labels = torch.randn(4000, 4, dtype=torch.float64), torch.randint(3, (4000,))
    plain = head.cosine(embedding).gather(1, labels[:, None])[:, 0]

    def margins():
        return plain - head(embedding, labels).gather(1, labels[:, None])[:, 0]

    torch.manual_seed(1)
    drawn = margins()
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.004) and drawn.std().item() == pytest.approx(0.05, abs=0.003)
    assert not torch.allclose(margins(), drawn)
    torch.manual_seed(1)
    assert torch.allclose(margins(), drawn)
    assert torch.allclose(head.eval()(embedding, labels), head(embedding, labels))
    assert torch.allclose(margins(), torch.full((4000,), 0.3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["none", "arcface", "curricularface"])
def test_filtering_takes_near_classes_for_the_same_person(name):
    config = HeadConfig(margin=name, scale=16.0, filter_above=0.3)
    assert_chunked_equals_dense(config, 0)
    head = build_classifier(config, 6, 23).double().eval()
    embedding, labels = torch.randn(9, 6, dtype=torch.float64), torch.randint(23, (9,))
    cosine, found = head.cosine(embedding), head(embedding, labels) / 16
    is_target = torch.nn.functional.one_hot(labels, 23).bool()
    is_near = (cosine > 0.3) & ~is_target
    assert is_near.sum() > 5 and (found[is_near] == 0).all()
    torch.testing.assert_close(found[is_target], head.apply_margin(cosine, labels, embedding)[is_target])
    # Nothing that is filtered is learnt from: with all others filtered, no centre but the target's moves.
    config = HeadConfig(margin="none", scale=16.0, filter_above=1e-9)
    head = build_classifier(config, 2, 3).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.9, 0.2]]))
    logits = LazyLogits.of(head, torch.tensor([[1.0, 0.0]]).double())
    chunked_losses([CrossEntropy(logits)], torch.tensor([1]))[0].backward()
    assert head.weight.grad[1].abs().sum() > 0 and head.weight.grad[[0, 2]].abs().sum() == 0
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match=r"head\.filter_above = "):
            HeadConfig(filter_above=wrong)
