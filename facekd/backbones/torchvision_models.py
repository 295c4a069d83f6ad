"""Turns torchvision's classification networks into backbones: the input of their last linear layer is the embedding."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from facekd.backbones.backbone import Backbone, ImageSizes

# Name in torchvision -> input size of its last linear layer.
TORCHVISION_EMBEDDING_SIZES = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "wide_resnet50_2": 2048,
    "densenet121": 1024,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "mobilenet_v3_large": 1280,
    "shufflenet_v2_x1_0": 1024,
    "efficientnet_b0": 1280,
}


class TorchvisionBackbone(Backbone):
    """Computes embeddings by a network of torchvision with fresh weights.

    Args:
        name: a key of `TORCHVISION_EMBEDDING_SIZES`.
        embedding_size: D; the network fixes it, so it is only recorded.
        image_size: S in pixels, from 32 on.
        width: 1; torchvision's networks come in the widths of their names.
        dropout: probability of dropping a value of the embedding. The dropout that torchvision puts before the
            classifier (mobilenet_v2 and efficientnet_b0: 0.2) is not taken over.
    """

    image_sizes: ClassVar = ImageSizes(32, 1, "it halves the image five times", "224 is usual")
    takes_width: ClassVar = False

    def __init__(
        self, name: str, embedding_size: int, image_size: int = 224, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        import torchvision

        self.network = torchvision.models.get_model(name, weights=None)
        _remove_classifier(self.network)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def fixed_embedding_size(cls, name: str, width: float) -> int:
        """Returns the input size of the network's last linear layer."""
        return TORCHVISION_EMBEDDING_SIZES[name]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns embeddings (B, D)."""
        self.check_images(images)
        return self.dropout(self.network(images))


def _remove_classifier(network: nn.Module) -> None:
    """Replaces the last linear layer by the identity, and any dropout in the sequence that ends in it."""
    name = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent_name, _, own_name = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    setattr(parent, own_name, nn.Identity())
    if isinstance(parent, nn.Sequential):
        for child_name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, child_name, nn.Identity())
