"""Defines the `backbone:` section of a training config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneConfig:
    """Selects the network that turns images into embeddings.

    Args:
        name: `mobilefacenet` (1.0 M), `mobilefacenet_0.45g` (2.06 M, InsightFace's), or `iresnet18` .. `iresnet200`;
            for classification, those of CIFAR papers, `resnet8x4`, `resnet32x4`, `resnet20`, `resnet56`, `wrn_16_2` and
            `wrn_40_2`, or torchvision's `resnet50`, `mobilenet_v2` and others.
        embedding_size: numbers in an embedding; classification networks fix it.
        width: factor of the channels of every layer.
        dropout: probability of dropping a value before the embedding layer, or of the embedding if there is none.
    """

    name: str = "mobilefacenet"
    embedding_size: int = 512
    width: float = 1.0
    dropout: float = 0.0
