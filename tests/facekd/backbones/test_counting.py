"""Parameter and multiply-add counts: against published figures, the paper's table and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facekd.backbones import count_macs, count_parameters
from facekd.backbones.building import BACKBONES, build_backbone, fixed_embedding_size

# Embedding of 512 at 112 pixels: millions of parameters and milliards of multiply-adds as published for MS1MV3.
PUBLISHED = {
    "mobilefacenet_0.45g": ("2.06", "0.438"),
    "iresnet50": ("43.6", "6.31"),
    "iresnet100": ("65.2", "12.1"),
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


@pytest.mark.parametrize("image_size", [112, 64])
@pytest.mark.parametrize("name", BACKBONES)
def test_macs_are_half_the_flops_torch_counts(name, image_size):
    size = fixed_embedding_size(name) or 128
    backbone = build_without_memory(name, embedding_size=size, image_size=image_size).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
    assert count_macs(backbone, image_size) == counter.get_total_flops() // 2


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
