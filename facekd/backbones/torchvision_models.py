"""torchvision's classification networks as backbones: without the last linear layer, whose input is the embedding."""

from __future__ import annotations

import torch
from torch import nn

from facekd.backbones.backbone import Backbone

# Name in torchvision -> numbers that its last linear layer takes.
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
SMALLEST_IMAGE = 32  # these networks halve the image five times


class TorchvisionBackbone(Backbone):
    """A network of torchvision, with fresh weights, as images to embeddings.

    Args:
        name: a key of `TORCHVISION_EMBEDDING_SIZES`.
        embedding_size: D, fixed by the network; given only to be recorded.
        image_size: S in pixels, from 32 on.
        width: 1; torchvision's networks come in the widths of their names.
        dropout: probability of dropping a value of the embedding. Networks that have dropout before their classifier in
            torchvision (mobilenet_v2 and efficientnet_b0 0.2) have none here unless it is asked for.
    """

    def __init__(
        self, name: str, embedding_size: int, image_size: int = 224, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        import torchvision

        self.network = torchvision.models.get_model(name, weights=None)
        _remove_classifier(self.network)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised images (B, 3, S, S): embeddings (B, D)."""
        self.check_images(images)
        return self.dropout(self.network(images))


def _remove_classifier(network: nn.Module) -> None:
    """Put the identity in the place of the last linear layer, and of dropout in the sequence that ends in it."""
    name = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent_name, _, own_name = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    setattr(parent, own_name, nn.Identity())
    if isinstance(parent, nn.Sequential):
        for child_name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, child_name, nn.Identity())
