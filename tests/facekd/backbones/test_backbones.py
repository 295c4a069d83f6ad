"""Backbones through `build_backbone`: sizes, gradients, precision, layouts, learning, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekd.backbones import Backbone
from facekd.backbones.building import BACKBONES, build_backbone, fixed_embedding_size
from facekd.errors import ModelError

# One backbone of each family, thin and small enough to run by the dozen.
SMALL = [
    ("mobilefacenet", 0.25),
    ("mobilefacenet_0.45g", 0.25),
    ("mobilefacenet_large", 0.125),
    ("iresnet18", 0.125),
    ("ir_18", 0.125),
    ("vit_t", 0.125),
    ("edgeface_xs", 0.25),
    ("ghostfacenetv2_s1", 0.125),
]


def random_images(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("image_size", [112, 64, 32])
@pytest.mark.parametrize(("name", "width"), SMALL)
def test_images_become_embeddings(name, width, image_size):
    backbone = build_backbone(name, embedding_size=40, image_size=image_size, width=width)
    embedding = backbone(random_images(3, image_size))
    assert embedding.shape == (3, 40)
    assert embedding.dtype == torch.float32
    assert (backbone.name, backbone.embedding_size, backbone.image_size, backbone.width) == (
        name,
        40,
        image_size,
        width,
    )


# The deeper of a family say no more than its others, and take seconds.
DEEPER = ("34", "44", "50", "50_2", "56", "100", "101", "110", "121", "200", "32x4", "40_2", "v3_large", "_s1")
ALL = [pytest.param(name, marks=pytest.mark.slow) if name.endswith(DEEPER) else name for name in BACKBONES]


@pytest.mark.parametrize("name", ALL)
def test_every_backbone_of_the_table_runs_at_full_width_and_both_sizes(name):
    for image_size in (112, 64):
        with torch.device("meta"):
            size = fixed_embedding_size(name) or 512
            backbone = build_backbone(name, embedding_size=size, image_size=image_size)
            assert isinstance(backbone, Backbone)
            assert backbone.name == name
            assert backbone(torch.empty(2, 3, image_size, image_size)).shape == (2, size)


def test_the_embedding_is_not_normalised():
    backbone = build_backbone("mobilefacenet", embedding_size=32, image_size=32, width=0.25)
    norms = backbone(random_images(4, 32)).norm(dim=1)
    assert norms.std() > 1e-3
    # The last layer is a batch normalisation with gain 1: D values of unit variance.
    assert norms.square().mean().item() == pytest.approx(32, rel=0.02)


@pytest.mark.parametrize(("name", "width"), SMALL)
def test_a_smaller_width_is_a_smaller_network_and_one_is_the_default(name, width):
    sizes = [
        sum(p.numel() for p in build_backbone(name, embedding_size=64, image_size=64, width=w).parameters())
        for w in (width, 0.5, 1.0)
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    default = build_backbone(name, embedding_size=64, image_size=64)
    assert sum(p.numel() for p in default.parameters()) == sizes[2]


def test_channels_are_multiples_of_eight_at_any_width():
    for width in (0.1, 0.33, 0.7, 1.3):
        for name in ("mobilefacenet", "mobilefacenet_0.45g", "iresnet34"):
            with torch.device("meta"):
                backbone = build_backbone(name, width=width)
            channels = {m.out_channels for m in backbone.modules() if isinstance(m, nn.Conv2d)}
            assert all(c % 8 == 0 for c in channels), (name, width, channels)


@pytest.mark.parametrize(("name", "width"), SMALL)
def test_every_trainable_parameter_gets_a_finite_gradient(name, width):
    backbone = build_backbone(name, embedding_size=16, image_size=64, width=width)
    # Weighted, for a plain sum behind a batch normalisation has no gradient.
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    (backbone(random_images(4, 64)) * weights).sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize(
    ("name", "fixed"), [("iresnet18", {"features.weight": 1}), ("ir_18", {"features.weight": 1, "features.bias": 0})]
)
def test_iresnet_keeps_the_gain_of_its_embedding_at_one(name, fixed):
    backbone = build_backbone(name, embedding_size=16, image_size=32, width=0.125)
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [*fixed]
    assert all((backbone.state_dict()[name] == value).all() for name, value in fixed.items())


@pytest.mark.parametrize(("name", "width"), SMALL)
def test_training_and_evaluation_differ_only_by_running_statistics(name, width):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=16, image_size=32, width=width).double()
    images = random_images(8, 32).double()
    for module in backbone.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            module.momentum = 1.0  # the running statistics become those of the last batch
    with torch.no_grad():
        backbone.train()
        backbone(images)
        alone = backbone.eval()(images[:1])
        together = backbone(images)[:1]
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize(("name", "width"), SMALL)
def test_channels_last_gives_the_same_embeddings_and_gradients(name, width):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=16, image_size=64, width=width).double()
    images = random_images(4, 64).double()
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        backbone.to(memory_format=layout).zero_grad()
        embedding = backbone(images.contiguous(memory_format=layout))
        (embedding * weights).sum().backward()
        results.append((embedding.detach(), [p.grad.clone() for p in backbone.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for plain, last in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "width"), SMALL)
def test_autocast_leaves_the_embedding_layer_in_32_bits(name, width):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=16, image_size=64, width=width)
    outputs: dict[str, torch.dtype] = {}
    for module_name, module in backbone.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d)):
            module.register_forward_hook(lambda m, i, o, n=module_name: outputs.__setitem__(n, o.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = backbone(random_images(4, 64))
        assert torch.is_autocast_enabled("cpu")  # switched off for a layer, not for the caller
    assert embedding.dtype == torch.float32
    order = list(outputs.values())
    assert order[0] == torch.bfloat16
    assert order[len(order) // 2] == torch.bfloat16
    assert order[-2:] == [torch.float32, torch.float32]  # the linear layer and its normalisation
    # The rounding of the layers below stays a rounding.
    exact = backbone(random_images(4, 64))
    assert F.cosine_similarity(embedding, exact).min() > 0.98


def test_weights_follow_the_seed():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(build_backbone("mobilefacenet", embedding_size=8, image_size=32, width=0.125).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_convolutions_start_with_the_variance_of_their_fan_out():
    torch.manual_seed(0)
    backbone = build_backbone("mobilefacenet", embedding_size=64, image_size=112)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.out_channels
            fan_out = module.kernel_size[0] ** 2 * (1 if depthwise else module.out_channels)
            # Five standard errors of a sample standard deviation.
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance), name


def test_an_untrained_deep_network_embeds_finitely_in_evaluation_mode():
    torch.manual_seed(0)
    backbone = build_backbone("iresnet100", embedding_size=16, image_size=32).eval()
    with torch.no_grad():
        embedding = backbone(random_images(2, 32))
    assert torch.isfinite(F.normalize(embedding)).all()
    assert embedding.abs().max() > 0


def test_dropout_acts_in_training_only():
    for name in ("mobilefacenet", "iresnet18"):
        torch.manual_seed(0)
        backbone = build_backbone(name, embedding_size=16, image_size=32, width=0.125, dropout=0.5)
        images = random_images(8, 32)
        with torch.no_grad():
            assert not torch.equal(backbone(images), backbone(images))
            backbone.eval()
            assert torch.equal(backbone(images), backbone(images))


@pytest.mark.parametrize(("name", "width"), [("mobilefacenet", 0.25), ("iresnet18", 0.125)])
def test_a_few_steps_separate_patterns_and_generalise_to_noise_not_seen(name, width):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=16, image_size=32, width=width)
    head = nn.Linear(16, 4)
    patterns = F.interpolate(torch.randn(4, 3, 4, 4), 32, mode="bilinear")
    labels = torch.arange(4).repeat(4)
    parameters = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    for _ in range(20):
        images = patterns[labels] + torch.randn(16, 3, 32, 32)
        loss = F.cross_entropy(head(backbone(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3  # chance is log 4 = 1.39
    backbone.eval()
    with torch.no_grad():
        embedding = F.normalize(backbone(patterns[labels] + torch.randn(16, 3, 32, 32)))
    cosine = embedding @ embedding.T
    same = labels[:, None] == labels[None]
    genuine = cosine[same & ~torch.eye(16, dtype=torch.bool)]
    assert genuine.mean() > cosine[~same].mean() + 0.3


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((2, 3, 112, 112), torch.float32, r"\(B, 3, 64, 64\).*\(2, 3, 112, 112\)"),
        ((2, 64, 64, 3), torch.float32, r"\(B, 3, 64, 64\).*\(2, 64, 64, 3\)"),
        ((3, 64, 64), torch.float32, r"\(3, 64, 64\)"),
        ((2, 3, 64, 64), torch.uint8, "normalised float.*uint8"),
    ],
)
@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18"])
def test_other_images_are_refused(name, shape, dtype, words):
    backbone = build_backbone(name, embedding_size=16, image_size=64, width=0.125)
    with pytest.raises(ModelError, match=words):
        backbone(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "iresnet-50"}, "backbone.name 'iresnet-50'.*did you mean 'iresnet50'"),
        ({"name": "vgg"}, "backbone.name 'vgg' is unknown: there are mobilefacenet"),
        ({"image_size": 100}, "backbone.image_size.*16.*not 100"),
        ({"image_size": 16}, "backbone.image_size"),
        ({"image_size": 0}, "backbone.image_size"),
        ({"embedding_size": 0}, "backbone.embedding_size"),
        ({"width": 0.0}, "backbone.width"),
        ({"width": math.nan}, "backbone.width"),
        ({"width": math.inf}, "backbone.width"),
        ({"dropout": 1.0}, "backbone.dropout"),
        ({"dropout": -0.1}, "backbone.dropout"),
    ],
)
def test_impossible_backbones_are_refused_by_key(arguments, words):
    with pytest.raises(ModelError, match=words):
        build_backbone(**({"name": "mobilefacenet"} | arguments))
