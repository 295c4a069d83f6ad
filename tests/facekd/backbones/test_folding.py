"""Folded normalisations: the function of evaluation mode, without them, and the original left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from facekd.backbones import Backbone, ProjectedBackbone, can_fold_projection, fold_batch_norms
from facekd.backbones.building import build_backbone, fixed_embedding_size
from facekd.backbones.given_module import GivenModule

# Each with the 2-d normalisations that stay, for no convolution is right before them.
NETWORKS = {
    "mobilefacenet": (32, 0.25, 0),
    "mobilefacenet_0.45g": (32, 0.25, 0),
    "mobilefacenet_large": (32, 0.125, 0),
    "iresnet18": (32, 0.125, 9),
    "ir_18": (32, 0.125, 9),
    "ghostfacenetv2_s2": (32, 0.25, 0),
    "resnet20": (32, 0.5, 0),
    "wrn_16_2": (32, 0.5, 7),
    "resnet18": (64, 1.0, None),
}


def trained(name: str, size: int, width: float) -> nn.Module:
    torch.manual_seed(3)
    embedding_size = fixed_embedding_size(name, width) or 40
    backbone = build_backbone(name, embedding_size=embedding_size, image_size=size, width=width).train()
    for module in backbone.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    for _ in range(3):
        backbone(torch.randn(8, 3, size, size))
    return backbone


@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_are_those_of_evaluation_mode_and_the_original_stays(name):
    size, width, num_left = NETWORKS[name]
    backbone = trained(name, size, width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = copy.deepcopy(backbone.state_dict())
    images = torch.randn(4, 3, size, size)
    folded = fold_batch_norms(backbone)
    assert backbone.training and not folded.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.inference_mode():
        expected = backbone.eval()(images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if num_left is not None:
        assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == num_left


def test_a_projection_behind_a_backbone_is_no_hindrance():
    backbone = trained("mobilefacenet", 32, 0.25)
    projected = ProjectedBackbone(backbone, nn.Linear(40, 16, bias=False)).eval()  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(fold_batch_norms(projected)(images), projected(images), rtol=1e-4, atol=1e-4)


def test_a_normalisation_that_does_more_stays() -> None:
    class Active(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).relu()

    module = nn.Sequential(nn.Conv2d(3, 8, 3), Active(8))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fold_batch_norms(module)(images), module.eval()(images))


class Branching(nn.Module):
    """Goes on with what a convolution gives, beside what the normalisation after it makes of that."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        before = self.parts[0](images)
        return (before + 2 * self.parts[1](before)).mean((2, 3))


def test_a_network_of_the_callers_own_embeds_as_it_does_without():
    torch.manual_seed(0)
    network = Branching().train()
    images = torch.randn(4, 3, 8, 8)
    network(images * 3 + 1)
    given = GivenModule(network, 4, 8).eval()
    assert torch.equal(fold_batch_norms(given)(images), given(images))


class Doubling(Backbone):
    """Has a linear layer and a normalisation last, as a plug-in's network may, and goes on behind them."""

    def __init__(self) -> None:
        super().__init__("doubling", 4, 8, 1.0)
        self.linear = nn.Linear(3 * 8 * 8, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(images.flatten(1))).relu()


def test_no_projection_is_folded_into_a_network_of_others():
    assert not can_fold_projection(Doubling())
    assert can_fold_projection(build_backbone("mobilefacenet", embedding_size=16, image_size=32, width=0.125))
