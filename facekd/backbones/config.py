"""Defines the `backbone:` section of a training config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facekd.commands.config_files import path_field
from facekd.commands.plain_configs import to_plain


@dataclass(frozen=True)
class BackboneConfig:
    """Selects the network that turns images into embeddings.

    Args:
        name: `mobilefacenet` (1.0 M), `mobilefacenet_0.45g` (2.06 M, InsightFace's), `mobilefacenet_large` (6.31 M),
            `iresnet18` .. `iresnet200`, AdaFace's `ir_18`, `ir_34`, `ir_50` and `ir_101`, InsightFace's vision
            transformers `vit_t` (19 M) and `vit_s` (76 M), `edgeface_xs` (1.77 M), `edgeface_s` (3.65 M), or
            `ghostfacenetv2_s1` and `ghostfacenetv2_s2` (6.8 M); for classification, those of CIFAR papers,
            `resnet8` .. `resnet110`, `resnet8x4`, `resnet32x4`, `wrn_16_2`, `wrn_40_1` and `wrn_40_2`, or torchvision's
            `resnet50`, `mobilenet_v2` and others. `timm:NAME` is a network of timm (docs/backbones.md). In Python,
            `module` is a network of your own (`facekd.training.api`).
        embedding_size: numbers in an embedding; classification networks fix it.
        width: factor of the channels of every layer.
        dropout: probability of dropping a value before the embedding layer, or of the embedding if there is none.
        drop_path: probability of leaving out a residual branch in training, for vision transformers.
        mask_ratio: share of the image's patches that are left out in training, for vision transformers.
        gradient_checkpointing: computes the units of the network a second time in the backward pass instead of keeping
            what is inside them: less memory, about a third more time, the same result.
        weights: a checkpoint or the folder of a run to start from, what `facekd import` writes among them; by default
            the weights are fresh. A resumed run does not read it.
        select_weights: `weights` are those of a larger network of the same family, of which this one starts as a part:
            evenly spaced channels, the first units of each stage (weight selection, arXiv:2311.18823). Within
            MobileFaceNet, within IR-ResNet, and within the ResNets of CIFAR.
    """

    name: str = "mobilefacenet"
    embedding_size: int = 512
    width: float = 1.0
    dropout: float = 0.0
    drop_path: float = 0.0
    mask_ratio: float = 0.0
    gradient_checkpointing: bool = False
    weights: str = path_field()
    select_weights: bool = False

    @property
    def architecture(self) -> dict[str, Any]:
        """Returns the arguments of `build_backbone` that this section has, those that make the network what it is."""
        others = ("weights", "select_weights", "gradient_checkpointing")
        return {key: value for key, value in to_plain(self).items() if key not in others}
