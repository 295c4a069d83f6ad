"""Parameter and multiply-add counts: against published figures, the paper's table and sums over the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facekd.backbones import count_macs, count_parameters
from facekd.backbones.building import BACKBONES, build_backbone, fixed_embedding_size

# Embedding of 512 at 112 pixels: millions of parameters and milliards of multiply-adds as published for MS1MV3.
PUBLISHED = {
    "mobilefacenet_0.45g": ("2.06", "0.438"),
    "iresnet50": ("43.6", "6.31"),
    "iresnet100": ("65.2", "12.1"),
    "vit_t": ("19.1", "1.5"),
    "vit_s": ("76", "5.75"),
    "edgeface_xs": ("1.77", "0.0769"),  # 154 M operations, two for a multiply-add and some for other things
    "edgeface_s": ("3.65", "0.153"),  # 306 M
    "ghostfacenetv2_s1": ("6.8", "0.267"),  # their counter gives 272 M, with normalisations and activations
}
# To the digit, of the authors' own code.
PARAMETERS = {
    "vit_t": 19_137_792,
    "vit_s": 76_023_296,
    "edgeface_xs": 1_770_492,
    "edgeface_s": 3_652_520,
    "ghostfacenetv2_s1": 6_795_720,
}


def build_without_memory(name: str, **sizes) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(name, **sizes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_equal_the_published_ones(name):
    backbone = build_without_memory(name)
    parameters = f"{count_parameters(backbone) / 1e6:.3g}"
    macs = f"{count_macs(backbone, 112) / 1e9:.3g}"
    assert (parameters, macs) == PUBLISHED[name]
    assert count_parameters(backbone) == PARAMETERS.get(name, count_parameters(backbone))


def test_the_original_mobilefacenet_is_the_one_of_its_paper():
    """Chen et al. 2018, table 1, row by row: (side, input, t, c, n, s) of bottlenecks between stem and head."""
    table = [(56, 64, 2, 64, 5, 2), (28, 64, 4, 128, 1, 2), (14, 128, 2, 128, 6, 1)]
    table += [(14, 128, 4, 128, 1, 2), (7, 128, 2, 128, 2, 1)]
    weights = 3 * 64 * 9 + 64 * 9
    macs = 56 * 56 * (3 * 64 * 9 + 64 * 9)
    normalised = [64, 64]
    slopes = 64 + 64
    for side, channels, t, c, n, s in table:
        for unit in range(n):
            stride = s if unit == 0 else 1
            inner = t * channels
            weights += channels * inner + inner * 9 + inner * c
            macs += side * side * channels * inner
            side //= stride
            macs += side * side * (inner * 9 + inner * c)
            normalised += [inner, inner, c]
            slopes += 2 * inner
            channels = c
    embedding = 128
    weights += 128 * 512 + 512 * 49 + 512 * embedding
    macs += 49 * 128 * 512 + 512 * 49 + 512 * embedding
    normalised += [512, 512, embedding]
    slopes += 512

    backbone = build_without_memory("mobilefacenet", embedding_size=embedding)
    assert count_macs(backbone, 112) == macs
    assert count_parameters(backbone) == weights + 2 * sum(normalised) + slopes
    assert 0.99e6 < count_parameters(backbone) < 1.2e6
    assert f"{macs / 1e9:.2f}" == "0.22"


def macs_by_layer(backbone: nn.Module, image_size: int) -> int:
    """Adds up, naively, what the convolutions and linear layers of a network on the device meta multiply."""
    macs = 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs
        weights = layer.weight[0].numel()  # a convolution's inputs within a group, times its kernel
        macs += output.numel() * weights

    for layer in backbone.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    with torch.no_grad():
        backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
    return macs


# The first name of each class.
FAMILIES = {network: name for name, network in reversed(BACKBONES.items())}.values()


@pytest.mark.parametrize("name", FAMILIES)
def test_macs_are_those_of_the_layers_and_of_the_products_in_attention(name):
    size = fixed_embedding_size(name) or 128
    backbone = build_without_memory(name, embedding_size=size, image_size=64).eval()
    attention = {
        "vit_t": 12 * 2 * 49**2 * 256,
        # Channels by channels, within a head, over the pixels of three maps.
        "edgeface_xs": 2 * (64 * 64**2 + 16 * 100**2 + 4 * 192**2) // 4,
    }
    assert count_macs(backbone, 64) == macs_by_layer(backbone, 64) + attention.get(name, 0)


def test_counting_leaves_the_module_as_it_was():
    backbone = build_backbone("mobilefacenet", embedding_size=16, image_size=32, width=0.125)
    backbone.train()
    backbone.conv_sep.eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    count_macs(backbone, 32)
    assert modes == [module.training for module in backbone.modules()]
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_parameters_count_once_and_frozen_ones_by_choice():
    linear = nn.Linear(3, 5)
    shared = nn.ModuleList([linear, linear])
    assert count_parameters(shared) == 20
    linear.bias.requires_grad_(False)
    assert count_parameters(shared) == 20
    assert count_parameters(shared, trainable_only=True) == 15
