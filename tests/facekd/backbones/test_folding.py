"""Folded normalisations: the function of evaluation mode, without them, and the original left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from facekd.backbones import ProjectedBackbone, fold_batch_norms
from facekd.backbones.building import build_backbone, fixed_embedding_size

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
