"""Compares classifiers with numpy restatements; tests precision under autocast and the configurations refused."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from facekd.errors import ConfigError, FacekdError, InputError
from facekd.head.classifier import LinearClassifier, MarginClassifier, build_classifier
from facekd.head.config import HeadConfig

HEADS = [
    HeadConfig(),
    HeadConfig(margin="cosface", scale=32.0),
    HeadConfig(margin="combined", m1=1.1, m2=0.2, m3=0.1),
    HeadConfig(margin="adaface"),
    HeadConfig(margin="none", scale=20.0),
    HeadConfig(gradient="straight_through"),
    HeadConfig(kind="linear"),
    HeadConfig(kind="linear", bias=False),
]


def name_of(config):
    return f"{config}, {config.gradient}"


def example(config, batch=10, embedding_size=8, num_classes=6, seed=0):
    torch.manual_seed(seed)
    classifier = build_classifier(config, embedding_size, num_classes)
    embedding = torch.randn(batch, embedding_size) * 5
    return classifier, embedding, torch.randint(num_classes, (batch,))


# ---- values ----------------------------------------------------------------------------------------------------------


def test_arcface_logits_are_the_definition():
    classifier, embedding, labels = example(HeadConfig(margin_value=0.3, scale=30.0))
    e, w = embedding.double().numpy(), classifier.weight.detach().double().numpy()
    theta = np.arccos(e @ w.T / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(w, axis=1))
    theta[np.arange(len(e)), labels.numpy()] += 0.3
    assert theta.max() < math.pi
    torch.testing.assert_close(
        classifier(embedding, labels).double(), torch.from_numpy(30 * np.cos(theta)), atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("config", HEADS, ids=name_of)
def test_called_the_same_way_with_the_same_shapes(config):
    classifier, embedding, labels = example(config)
    logits = classifier(embedding, labels)
    assert logits.shape == (10, 6)
    assert logits.dtype == torch.float32
    assert classifier.weight.shape == (6, 8)
    assert (classifier.embedding_size, classifier.num_classes) == (8, 6)
    functional.cross_entropy(logits, labels).backward()
    assert classifier.weight.grad is not None
    assert classifier.weight.grad.isfinite().all()


@pytest.mark.parametrize("config", [config for config in HEADS if config.kind == "margin"], ids=name_of)
def test_without_labels_there_is_no_margin(config):
    classifier, embedding, labels = example(config)
    plain = classifier(embedding)
    torch.testing.assert_close(
        plain, config.scale * functional.normalize(embedding) @ functional.normalize(classifier.weight).T
    )
    with_margin = classifier(embedding, labels)
    targets = labels[:, None]
    if config.margin == "none":
        assert torch.equal(with_margin, plain)
    else:
        assert (with_margin.gather(1, targets) < plain.gather(1, targets)).all()
        assert torch.equal(with_margin.scatter(1, targets, 0.0), plain.scatter(1, targets, 0.0))


def test_only_directions_count():
    classifier, embedding, labels = example(HeadConfig())
    expected = classifier(embedding, labels)
    with torch.no_grad():
        classifier.weight.mul_(torch.tensor([0.1, 1, 7, 100, 1e-3, 2])[:, None])
    torch.testing.assert_close(classifier(embedding * 13, labels), expected)


def test_linear_is_a_linear_layer():
    classifier, embedding, labels = example(HeadConfig(kind="linear"))
    expected = embedding @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(classifier(embedding, labels), expected)
    assert torch.equal(classifier(embedding), classifier(embedding, labels))
    without, embedding, _ = example(HeadConfig(kind="linear", bias=False))
    assert without.bias is None
    torch.testing.assert_close(without(embedding), embedding @ without.weight.T)
    assert set(without.state_dict()) == {"weight"}


def test_linear_starts_as_torch_starts():
    torch.manual_seed(5)
    layer = torch.nn.Linear(8, 6)
    torch.manual_seed(5)
    classifier = LinearClassifier(8, 6)
    assert torch.equal(classifier.weight, layer.weight)
    assert torch.equal(classifier.bias, layer.bias)
    classifier.load_state_dict(layer.state_dict())


def test_build_chooses_by_kind():
    assert isinstance(build_classifier(HeadConfig(), 4, 3), MarginClassifier)
    assert isinstance(build_classifier(HeadConfig(kind="linear"), 4, 3), LinearClassifier)
    assert MarginClassifier(4, 3).config == HeadConfig()


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [config for config in HEADS if config.gradient == "exact"], ids=name_of)
def test_gradient_of_the_loss_equals_finite_differences(config):
    classifier, embedding, labels = example(config, batch=5)
    classifier = classifier.double().eval()
    embedding = embedding.double().requires_grad_()
    weight = classifier.weight.detach().clone().mul_(50).requires_grad_()

    def loss(embedding, weight):
        logits = torch.func.functional_call(classifier, {"weight": weight}, (embedding, labels))
        return functional.cross_entropy(logits / config.scale * 4, labels)  # a scale at which every logit matters

    if config.margin == "adaface":  # its margin follows the norm, through which by definition no gradient flows
        assert torch.autograd.gradcheck(lambda weight: loss(embedding.detach(), weight), (weight,))
    else:
        assert torch.autograd.gradcheck(loss, (embedding, weight))


@pytest.mark.parametrize("config", [c for c in HEADS if c.margin != "adaface"], ids=name_of)
def test_gradients_of_parts_add_up_to_that_of_the_whole(config):
    classifier, embedding, labels = example(config, batch=12)
    classifier, embedding = classifier.double(), embedding.double()
    functional.cross_entropy(classifier(embedding, labels), labels).backward()
    whole = classifier.weight.grad.clone()
    classifier.zero_grad()
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        (functional.cross_entropy(classifier(embedding[rows], labels[rows]), labels[rows]) / 3).backward()
    torch.testing.assert_close(classifier.weight.grad, whole)


@pytest.mark.parametrize("config", [c for c in HEADS if c.kind == "margin"], ids=name_of)
def test_training_pulls_embeddings_to_their_centres(config):
    torch.manual_seed(0)
    classifier = build_classifier(config, 16, 10)
    labels = torch.arange(10).repeat(4)
    embedding = torch.nn.Parameter(torch.randn(40, 16))

    def mean_target_cosine():
        return classifier.cosine(embedding).gather(1, labels[:, None]).mean().item()

    before = mean_target_cosine()
    optimizer = torch.optim.SGD([embedding, classifier.weight], lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(classifier(embedding, labels), labels).backward()
        optimizer.step()
    assert before < 0.3
    assert mean_target_cosine() > 0.5


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", HEADS, ids=name_of)
def test_autocast_changes_nothing(config, dtype):
    classifier, embedding, labels = example(config)
    twin = copy.deepcopy(classifier)
    expected = classifier(embedding, labels)
    with torch.autocast("cpu", dtype=dtype):
        found = twin(embedding, labels)
        of_half = twin.eval()(embedding.to(dtype), labels)
    assert found.dtype == of_half.dtype == torch.float32
    assert torch.equal(found, expected)
    reference = copy.deepcopy(twin)(embedding.to(dtype).float(), labels)
    assert torch.equal(of_half, reference)


def test_float16_embeddings_too_long_for_float16_arithmetic():
    classifier, embedding, labels = example(HeadConfig())
    long = (embedding * 2000).half()  # squares would pass 65504
    torch.testing.assert_close(classifier(long, labels), classifier(embedding, labels), atol=0.1, rtol=0.01)


def test_product_in_half_precision_is_a_choice():
    config = HeadConfig(product="autocast")
    classifier, embedding, labels = example(config, batch=64, embedding_size=128, num_classes=50)
    expected = classifier(embedding, labels)
    exact = classifier.cosine(embedding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = classifier.cosine(embedding)
        logits = classifier(embedding, labels)
    assert found.dtype == logits.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert (found - exact).abs().max() < 2**-7  # bfloat16 keeps 8 bits of a number below 1, and of each factor
    assert torch.equal(found.bfloat16().float(), found)
    torch.testing.assert_close(logits, expected, atol=64 * 2**-7 * 2, rtol=0.0)
    assert torch.equal(classifier.cosine(embedding), exact)  # without autocast there is nothing to follow


# ---- AdaFace's running statistics ------------------------------------------------------------------------------------


def test_adaface_statistics_move_in_training_only_and_are_saved():
    classifier, embedding, labels = example(HeadConfig(margin="adaface", norm_momentum=0.25))
    assert set(classifier.state_dict()) == {"weight", "norm_mean", "norm_std"}
    assert (classifier.norm_mean.item(), classifier.norm_std.item()) == (20.0, 100.0)
    norms = embedding.norm(dim=1)
    expected_mean, expected_std = 20.0, 100.0
    for _ in range(3):
        classifier(embedding, labels)
        expected_mean = 0.75 * expected_mean + 0.25 * norms.mean().item()
        expected_std = 0.75 * expected_std + 0.25 * norms.std().item()
    assert classifier.norm_mean.item() == pytest.approx(expected_mean)
    assert classifier.norm_std.item() == pytest.approx(expected_std)

    classifier.eval()
    logits = classifier(embedding, labels)
    assert classifier.norm_mean.item() == pytest.approx(expected_mean)
    twin = build_classifier(classifier.config, 8, 6).eval()
    twin.load_state_dict(classifier.state_dict())
    assert torch.equal(twin(embedding, labels), logits)


def test_adaface_uses_the_statistics_it_keeps():
    classifier, embedding, labels = example(HeadConfig(margin="adaface", h=1.0))
    classifier.eval()
    classifier.norm_mean.fill_(1000.0)  # every image is now of the poorest quality: ArcFace with margin 0.4
    classifier.norm_std.fill_(1.0)
    arcface = build_classifier(HeadConfig(margin_value=0.4), 8, 6)
    arcface.load_state_dict({"weight": classifier.weight})
    torch.testing.assert_close(classifier(embedding, labels), arcface(embedding, labels))


def test_other_heads_save_their_weight_only():
    for config in HEADS[:3]:
        assert set(build_classifier(config, 4, 3).state_dict()) == {"weight"}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", HEADS, ids=name_of)
def test_labels_of_another_data_set(config):
    classifier, embedding, labels = example(config)
    labels[3] = 6
    with pytest.raises(InputError, match=r"label 6 at position 3 .* 6 classes"):
        classifier(embedding, labels)
    with pytest.raises(InputError, match="label 6 at position 3"):
        classifier.check_labels(labels)


@pytest.mark.parametrize("config", [HEADS[0], HEADS[-1]], ids=name_of)
def test_embeddings_of_another_backbone(config):
    classifier, _, labels = example(config)
    with pytest.raises(InputError, match=r"\(10, 9\).*\(B, 8\)"):
        classifier(torch.randn(10, 9), labels)


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (5, -1)])
@pytest.mark.parametrize("config", [HEADS[0], HEADS[-1]], ids=name_of)
def test_sizes_below_one(config, sizes):
    with pytest.raises(InputError, match="at least 1"):
        build_classifier(config, *sizes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"margin": "arcfce"}, "head.margin = 'arcfce': choose one of none, arcface"),
        ({"kind": "cosine"}, "head.kind = 'cosine'"),
        ({"gradient": "none"}, "head.gradient"),
        ({"product": "fp16"}, "head.product"),
        ({"scale": 0.0}, "head.scale = 0.0"),
        ({"scale": math.inf}, "head.scale = inf"),
        ({"margin_value": 28.6}, "head.margin_value = 28.6 .* degrees, give 0.499"),
        ({"margin": "cosface", "margin_value": -0.1}, "head.margin_value = -0.1"),
        ({"margin": "adaface", "margin_value": 1.5}, "head.margin_value = 1.5"),
        ({"margin": "adaface", "h": 0.0}, "head.h = 0"),
        ({"margin": "adaface", "norm_momentum": 0.0}, r"head.norm_momentum = 0.0 is outside \(0, 1\]"),
        ({"margin": "combined"}, "needs head.m1, head.m2 or head.m3"),
        ({"margin": "combined", "m1": 0.5}, "head.m1 = 0.5"),
        ({"margin": "combined", "m2": 0.5, "margin_value": 0.5}, "head.margin_value = 0.5 has no effect"),
        ({"m3": 0.1}, "head.m3 = 0.1 has no effect with head.margin = 'arcface'"),
        ({"margin": "none", "margin_value": 0.5}, "head.margin_value = 0.5 has no effect with head.margin = 'none'"),
        ({"h": 0.3}, "head.h = 0.3 has no effect"),
        ({"norm_momentum": 0.3}, "head.norm_momentum = 0.3 has no effect"),
        ({"bias": True}, "head.bias = True has no effect with head.margin = 'arcface'"),
        ({"kind": "linear", "margin_value": 0.5}, "head.margin_value = 0.5 has no effect with head.kind = 'linear'"),
        ({"kind": "linear", "margin": "cosface"}, "head.margin = cosface has no effect with head.kind = 'linear'"),
        ({"kind": "linear", "scale": 30.0}, "head.scale = 30.0 has no effect with head.kind = 'linear'"),
    ],
)
def test_configurations_that_contradict_themselves(values, message):
    with pytest.raises(FacekdError, match=message):
        HeadConfig(**values)


def test_combined_needs_only_what_is_not_neutral():
    classifier, embedding, labels = example(HeadConfig(margin="combined", m3=0.35))
    cosface = build_classifier(HeadConfig(margin="cosface"), 8, 6)
    cosface.load_state_dict(classifier.state_dict())
    assert torch.equal(classifier(embedding, labels), cosface(embedding, labels))


def test_a_linear_configuration_is_no_margin_classifier():
    with pytest.raises(ConfigError, match="build_classifier"):
        MarginClassifier(4, 3, HeadConfig(kind="linear"))


def test_heads_say_what_they_are():
    assert str(HeadConfig()) == "arcface 0.5, scale 64"
    assert str(HeadConfig(margin_value=0.0)) == "arcface 0, scale 64"
    assert str(HeadConfig(margin="none", scale=20.0)) == "none, scale 20"
    assert str(HeadConfig(margin="combined", m2=0.3, m3=0.2)) == "combined m1 1, m2 0.3, m3 0.2, scale 64"
    assert str(HeadConfig(kind="linear", bias=False)) == "linear without bias"
    assert "arcface 0.5" in repr(MarginClassifier(4, 3))
