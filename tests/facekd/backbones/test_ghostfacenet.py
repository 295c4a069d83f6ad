"""GhostFaceNetV2 against naive restatements of its parts, with its map sizes and its first weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekd.backbones.building import build_backbone
from facekd.backbones.ghostfacenet import scale_to_fours
from facekd.errors import ModelError


def thin(name: str = "ghostfacenetv2_s1", **options: Any) -> Any:
    torch.manual_seed(0)
    backbone: Any = build_backbone(name, **{"embedding_size": 16, "image_size": 64, "width": 0.25} | options)
    for module in backbone.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return backbone.double().eval()


def naive(layers: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A convolution, its normalisation with fresh statistics, and PReLU if it has one."""
    convolution, norm, *active = layers.children()
    pads = [side // 2 for side in convolution.kernel_size]
    x = F.conv2d(x, convolution.weight, stride=convolution.stride, padding=pads, groups=convolution.groups)
    x = x / math.sqrt(1 + 1e-5) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return torch.where(x > 0, x, x * active[0].weight[:, None, None]) if active else x


def test_a_strided_unit_with_gate_and_excitation_is_what_the_papers_draw() -> None:
    unit = thin().units[3]
    module, strided, excitation, narrow = unit.layers
    x = torch.randn(2, 8, 14, 14, dtype=torch.float64)

    # The first ghost module, weighed by its gate: half the size, then bilinear.
    primary = naive(module.primary, x)
    ghosts = torch.cat((primary, naive(module.cheap, primary)), 1)
    gate = F.avg_pool2d(x, 2)
    for layers in module.gate.layers:
        gate = naive(layers, gate)
    kernels = [layers[0].kernel_size for layers in module.gate.layers]
    assert kernels == [(1, 1), (1, 5), (5, 1)]
    inner = ghosts * F.interpolate(gate.sigmoid(), scale_factor=2, mode="bilinear")

    # Stride, excitation, the second module without activations, and the shortcut.
    inner = naive(strided, inner)
    first, slope, second, _ = excitation.layers
    squeezed = inner.mean((2, 3)) @ first.weight[:, :, 0, 0].T + first.bias
    squeezed = torch.where(squeezed > 0, squeezed, squeezed * slope.weight)
    weights = (squeezed @ second.weight[:, :, 0, 0].T + second.bias) / 6 + 0.5
    inner = inner * weights.clamp(0, 1)[:, :, None, None]
    narrowed = naive(narrow.primary, inner)
    expected = torch.cat((narrowed, naive(narrow.cheap, narrowed)), 1)
    shortcut = x
    for layers in unit.shortcut:
        shortcut = naive(layers, shortcut)
    torch.testing.assert_close(unit(x), expected + shortcut)

    # Two units have no gate, and a second module never does.
    assert [unit.layers[0].gate is None for unit in thin().units] == [True] * 2 + [False] * 14
    assert narrow.gate is None


def test_channel_counts_round_to_fours_and_never_lose_a_tenth() -> None:
    assert [scale_to_fours(1.3 * c) for c in (16, 24, 40, 80, 112, 160, 960)] == [20, 32, 52, 104, 144, 208, 1248]
    assert [scale_to_fours(c) for c in (0.1, 5.9, 10, 22)] == [4, 8, 12, 24]


@pytest.mark.parametrize(
    ("name", "image_size", "map_size"),
    [
        ("ghostfacenetv2_s1", 112, 7),
        ("ghostfacenetv2_s2", 112, 4),
        ("ghostfacenetv2_s1", 32, 2),
        ("ghostfacenetv2_s2", 32, 1),
    ],
)
def test_the_last_convolution_covers_the_whole_map(name: str, image_size: int, map_size: int) -> None:
    backbone = thin(name, image_size=image_size)
    assert backbone.whole_map[0].kernel_size == (map_size, map_size)
    assert backbone(torch.randn(1, 3, image_size, image_size, dtype=torch.float64)).shape == (1, 16)


def test_weights_start_as_those_of_keras() -> None:
    torch.manual_seed(0)
    backbone: Any = build_backbone("ghostfacenetv2_s2", embedding_size=64)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            # Keras counts the channels of a depthwise convolution as its inputs, and one output.
            area, depthwise = math.prod(module.kernel_size), module.groups > 1
            fans = module.in_channels + (1 if depthwise else module.out_channels)
            limit = math.sqrt(6 / (area * fans))
            assert 0.8 * limit < module.weight.abs().max() <= limit, name
    assert backbone.fc.weight.std().item() == pytest.approx(math.sqrt(2 / (1248 + 64)), rel=0.02)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="a multiple of 16 from 32 on for ghostfacenetv2_s2"):
        build_backbone("ghostfacenetv2_s2", image_size=120)
