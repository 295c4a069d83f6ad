"""CIFAR's networks against the published parameter counts, torchvision's against torchvision itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from facekd.backbones import count_parameters
from facekd.backbones.building import build_backbone, fixed_embedding_size
from facekd.errors import ModelError
from facekd.head.classifier import LinearClassifier

# With a linear classifier of 100 classes; two decimals of a million are published, the digits below are sums over the
# layers as the papers describe them.
PUBLISHED = {
    "resnet8x4": (256, 1_233_540),
    "resnet32x4": (256, 7_433_860),
    "resnet8": (64, 83_892),
    "resnet14": (64, 181_108),
    "resnet20": (64, 278_324),
    "resnet32": (64, 472_756),
    "resnet44": (64, 667_188),
    "resnet56": (64, 861_620),
    "resnet110": (64, 1_736_564),
    "wrn_16_2": (128, 703_284),
    "wrn_40_1": (64, 569_780),
    "wrn_40_2": (128, 2_255_156),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    size, parameters = PUBLISHED[name]
    with torch.device("meta"):
        backbone = build_backbone(name, embedding_size=size, image_size=32)
        classifier = LinearClassifier(size, 100)
        assert backbone(torch.empty(2, 3, 32, 32)).shape == (2, size)
    assert count_parameters(backbone) + count_parameters(classifier) == parameters


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2"])
def test_the_embedding_is_the_averaged_last_map(name: str) -> None:
    backbone: Any = build_backbone(
        name, embedding_size=fixed_embedding_size(name, 0.25) or 0, image_size=32, width=0.25
    )
    backbone.eval()
    images = torch.randn(3, 3, 32, 32)
    last_map = backbone.last_map(images)
    assert last_map.shape == (3, backbone.embedding_size, 8, 8)
    assert (last_map >= 0).all()
    torch.testing.assert_close(backbone(images), last_map.mean((2, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone(images).dtype == torch.float32


def test_a_residual_unit_is_what_the_paper_draws() -> None:
    # Naively: F(x) + shortcut(x), then ReLU; the wide unit activates before, and shares that with its shortcut.
    torch.manual_seed(0)
    backbone: Any = build_backbone("resnet20", embedding_size=64, image_size=32).eval()
    unit = backbone.layer2[0]
    x = torch.randn(2, 16, 8, 8)
    plain = torch.relu(unit.bn2(unit.conv2(torch.relu(unit.bn1(unit.conv1(x))))) + unit.downsample(x))
    torch.testing.assert_close(unit(x), plain)
    assert unit(x).shape == (2, 32, 4, 4)
    wide: Any = build_backbone("wrn_16_2", embedding_size=128, image_size=32).eval()
    unit = wide.block2[0]
    x = torch.randn(2, 32, 8, 8)
    active = torch.relu(unit.bn1(x))
    torch.testing.assert_close(unit(x), unit.conv2(torch.relu(unit.bn2(unit.conv1(active)))) + unit.shortcut(active))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0"])
def test_a_torchvision_network_without_its_classifier(name: str) -> None:
    """Backbone and the removed layer together compute what torchvision's network does, parameter for parameter."""
    whole = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    last_name, last = [(n, m) for n, m in whole.named_modules() if isinstance(m, nn.Linear)][-1]
    assert fixed_embedding_size(name) == last.in_features
    backbone: Any = build_backbone(name, embedding_size=last.in_features, image_size=64).eval()
    backbone.network.load_state_dict(
        {key: value for key, value in whole.state_dict().items() if not key.startswith(f"{last_name}.")}
    )
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(last(backbone(images)), whole(images))
    assert count_parameters(backbone) + count_parameters(last) == count_parameters(whole)
    backbone.train()
    if name.startswith("mobilenet"):  # no dropout is left behind: the embedding has no zeros it would not have anyway
        assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in backbone.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet8x4", {"embedding_size": 128}, r"embedding_size must be 256 for resnet8x4, not 128"),
        ("resnet8x4", {"embedding_size": 256, "width": 0.5}, r"must be 128 for resnet8x4 at width 0\.5"),
        ("wrn_16_2", {"embedding_size": 128, "image_size": 30}, "multiple of 4 from 8"),
        ("resnet50", {"embedding_size": 2048, "image_size": 16}, "at least 32 for resnet50"),
        ("resnet50", {"embedding_size": 2048, "width": 0.5}, "comes in one width"),
        ("resnet9x4", {"embedding_size": 256}, r"did you mean 'resnet8x4'"),
    ],
)
def test_what_such_a_network_cannot_be(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_backbone(name, **{"image_size": 32, **arguments})
