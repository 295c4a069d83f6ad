"""EdgeFace against naive restatements of its parts, and whole against timm's EdgeNeXt with low-rank layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekd.backbones.building import build_backbone
from facekd.errors import ModelError
from facekd.training.optim import parameter_groups


def thin(**options: Any) -> Any:
    """A thin network in double precision whose blocks add much, unlike those of a fresh one."""
    torch.manual_seed(0)
    backbone = build_backbone("edgeface_xs", **{"embedding_size": 16, "image_size": 64, "width": 0.25} | options)
    for name, parameter in backbone.named_parameters():
        if "gamma" in name or "temperature" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return backbone.double()


def test_channels_attend_to_each_other_by_cosines_over_the_tokens() -> None:
    attention = thin().stages[1].blocks[-1].xca
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    query, key, value = attention.qkv(x).split(16, -1)
    expected = torch.empty_like(x)
    for image in range(2):
        for head in range(4):
            own = slice(4 * head, 4 * head + 4)
            q, k, v = (part[image, :, own].T for part in (query, key, value))  # one row a channel, over 9 tokens
            cosines = torch.stack([torch.stack([F.cosine_similarity(a, b, 0) for b in k]) for a in q])
            expected[image, :, own] = ((cosines * attention.temperature[head]).softmax(1) @ v).T
    torch.testing.assert_close(attention(x), attention.proj(expected))


def test_places_are_encoded_by_the_waves_of_detr() -> None:
    """Carion et al. 2020: of 32 values for an axis, pair i has the sine and the cosine of place / 10000^(2 i / 32)."""
    encoding = thin(image_size=112).stages[1].blocks[-1].pos_embd
    assert encoding.waves.shape == (1, 64, 14, 14)
    for row, column in ((0, 0), (3, 12), (13, 7)):
        expected = []
        for place in (row, column):
            angle = (place + 1) / (14 + 1e-6) * 2 * math.pi
            for pair in range(16):
                expected += [wave(angle / 10_000 ** (2 * pair / 32)) for wave in (math.sin, math.cos)]
        assert encoding.waves[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    assert not any("waves" in name for name in thin().state_dict())


def test_a_group_of_channels_is_convolved_with_the_result_of_the_one_before() -> None:
    block = thin().stages[3].blocks[-1]  # 48 channels in four groups of 12
    seen: list[torch.Tensor] = []
    for convolution in block.convs:
        convolution.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    block.norm_xca.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.randn(2, 48, 2, 2, dtype=torch.float64)
    block(x)
    in1, out1, in2, out2, in3, out3, tokens = seen
    one, two, three, four = x.split(12, 1)
    for found, expected in ((in1, one), (in2, two + out1), (in3, three + out2)):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, (2, 2)), torch.cat((out1, out2, out3, four), 1))


def test_the_temperature_is_not_decayed_where_norms_and_biases_are_not() -> None:
    backbone = thin()
    groups = parameter_groups({"backbone": backbone}, 0.1, decay_norm_and_bias=False)
    undecayed = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    kinds = {name.rpartition(".")[2] for name, value in backbone.named_parameters() if id(value) in undecayed}
    assert kinds == {"temperature", "gamma", "gamma_xca", "weight", "bias"}  # the weights are those of norms
    assert id(backbone.stages[0].blocks[0].conv_dw.weight) not in undecayed


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"a multiple of 16 from 32 on for edgeface_s \(it divides the side by 16"):
        build_backbone("edgeface_s", image_size=100)


@pytest.mark.parametrize(
    ("name", "theirs", "gamma"), [("edgeface_xs", "edgenext_x_small", 0.6), ("edgeface_s", "edgenext_small", 0.5)]
)
def test_it_is_edgenext_of_timm_with_layers_of_low_rank(name: str, theirs: str, gamma: float) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours: Any = build_backbone(name, embedding_size=64, image_size=64)
    network = timm.create_model(theirs, num_classes=64)
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear):
            smaller = min(layer.in_features, layer.out_features)
            first = nn.Linear(layer.in_features, int(gamma * smaller), bias=False)
            second = nn.Linear(first.out_features, layer.out_features)
            network.set_submodule(path, nn.Sequential(first, second))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    weights = network.state_dict()
    for layer in ("mlp.fc1", "mlp.fc2", "xca.qkv", "xca.proj", "head.fc"):
        weights = {
            key.replace(f"{layer}.0.", f"{layer}.linear1.").replace(f"{layer}.1.", f"{layer}.linear2."): value
            for key, value in weights.items()
        }
    ours.load_state_dict(weights)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), network.eval()(images), rtol=1e-3, atol=1e-3)
