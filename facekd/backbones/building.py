"""Builds backbones by name, and checks what a network can be built with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from facekd.backbones.backbone import Backbone
from facekd.backbones.cifar import CIFAR_RESNETS, WIDE_RESNETS, CifarResNet, WideResNet
from facekd.backbones.edgeface import EdgeFace
from facekd.backbones.ghostfacenet import GhostFaceNet
from facekd.backbones.given_module import GIVEN, GivenModule
from facekd.backbones.iresnet import IResNet
from facekd.backbones.library_models import PREFIX, TORCHVISION_EMBEDDING_SIZES, TimmBackbone, TorchvisionBackbone
from facekd.backbones.mobilefacenet import MobileFaceNet
from facekd.backbones.vit import VisionTransformer
from facekd.commands.suggestions import nearest
from facekd.errors import ModelError
from facekd.utils.foreign import shown

BACKBONES: dict[str, type[Backbone]] = {
    "mobilefacenet": MobileFaceNet,
    "mobilefacenet_0.45g": MobileFaceNet,
    "mobilefacenet_large": MobileFaceNet,
    "iresnet18": IResNet,
    "iresnet34": IResNet,
    "iresnet50": IResNet,
    "iresnet100": IResNet,
    "iresnet200": IResNet,
    "ir_18": IResNet,
    "ir_34": IResNet,
    "ir_50": IResNet,
    "ir_101": IResNet,
    "vit_t": VisionTransformer,
    "vit_s": VisionTransformer,
    "edgeface_xs": EdgeFace,
    "edgeface_s": EdgeFace,
    "ghostfacenetv2_s1": GhostFaceNet,
    "ghostfacenetv2_s2": GhostFaceNet,
    **dict.fromkeys(CIFAR_RESNETS, CifarResNet),
    **dict.fromkeys(WIDE_RESNETS, WideResNet),
    **dict.fromkeys(TORCHVISION_EMBEDDING_SIZES, TorchvisionBackbone),
}


def build_backbone(
    name: str,
    *,
    embedding_size: int = 512,
    image_size: int = 112,
    width: float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    mask_ratio: float = 0.0,
) -> Backbone:
    """Builds a backbone with fresh weights drawn from torch's global generator.

    Its `forward` takes normalised float images (B, 3, S, S) and returns un-normalised embeddings (B, D). Under
    autocast the last linear layer and normalisation of the face networks stay in 32 bits.

    Args:
        name: a key of `BACKBONES`, or "timm:" and the name of a network of timm.
        embedding_size: D; for a network without an embedding layer it must be `fixed_embedding_size(name, width)`.
        image_size: S in pixels, one of the network's `image_sizes`: for convolutional face networks a multiple of 16
            (112 as usual, 64 to train on a CPU), for CIFAR's a multiple of 4, for torchvision's and vision transformers
            32 or more.
        width: multiplies the channels of every layer, rounded to multiples of 8; 1 for torchvision's networks.
        dropout: probability of dropping a value before the embedding layer, or of the embedding if there is no such
            layer.
        drop_path: probability of leaving out a residual branch, for networks with that among their `options`.
        mask_ratio: share of the tokens that are left out in training, likewise.

    Raises:
        ModelError: an argument does not suit the network; the message names it and says what does.
    """
    sizes: dict[str, Any] = {
        "embedding_size": embedding_size,
        "image_size": image_size,
        "width": width,
        "dropout": dropout,
    }
    options: dict[str, Any] = {"drop_path": drop_path, "mask_ratio": mask_ratio}
    check_backbone(name, **sizes, **options)
    if name == GIVEN:
        raise ModelError(
            f"backbone.name = '{GIVEN}' stands for a module of your own, which only Python code can give: call "
            "`facekd.training.api.train(config, backbone=...)`, or make it a plug-in for the commands "
            "(docs/extending.md)"
        )
    network = cast("Callable[..., Backbone]", network_of(name))  # every subclass takes dropout as well
    taken = {key: value for key, value in options.items() if key in network.options}
    return network(name, **sizes, **taken)


def check_backbone(
    name: str,
    *,
    embedding_size: int,
    image_size: int,
    width: float,
    dropout: float,
    drop_path: float = 0.0,
    mask_ratio: float = 0.0,
) -> None:
    """Checks the arguments of `build_backbone` without building, so that a config fails early.

    Raises:
        ModelError: an argument does not suit the network; the message names the config key to change.
    """
    network = network_of(name)
    if not (math.isfinite(width) and width > 0):
        raise ModelError(f"backbone.width must be a positive number, not {width}")
    options = {"drop_path": drop_path, "mask_ratio": mask_ratio}
    for key, share in ({"dropout": dropout} | options).items():
        if not 0 <= share < 1:
            raise ModelError(f"backbone.{key} must be in [0, 1), not {share}")
    if name == GIVEN and dropout:
        raise ModelError(f"backbone.dropout = {dropout:g}: a module of your own has its own dropout, so leave it at 0")

    # The other limits depend on the network; its class states them.
    network.check(name, image_size)
    if width != 1 and not network.takes_width:
        raise ModelError(f"backbone.width = {width:g}: {name} comes in one width, so leave it at 1")
    for key, share in options.items():
        if share and key not in network.options:
            raise ModelError(f"backbone.{key} = {share:g}: {name} has no {key}, so leave it at 0")
    fixed = fixed_embedding_size(name, width)
    if fixed is not None and embedding_size != fixed:
        raise ModelError(
            f"backbone.embedding_size must be {fixed} for {name}{f' at width {width:g}' if width != 1 else ''}, not "
            f"{embedding_size}: its embedding is its last map, averaged, with no layer that could change the size"
        )
    if embedding_size < 1:
        raise ModelError(f"backbone.embedding_size must be at least 1, not {embedding_size}")


def fixed_embedding_size(name: str, width: float = 1.0) -> int | None:
    """Returns D of a network whose architecture fixes it; None for networks with an embedding layer."""
    return network_of(name).fixed_embedding_size(name, width)


def network_of(name: str) -> type[Backbone]:
    """Returns the class of a network: a row of `BACKBONES`, that of timm's networks, or that of a caller's own module.

    Raises:
        ModelError: no such name. Whether timm knows a name is checked by `check_backbone`.
    """
    if name == GIVEN:
        return GivenModule
    if str(name).startswith(PREFIX):
        return TimmBackbone
    if name in BACKBONES:
        return BACKBONES[name]
    close = nearest(str(name), BACKBONES)
    hint = f"did you mean {close!r}? " if close else ""
    raise ModelError(f"backbone.name {shown(name)!r} is unknown: {hint}there are {', '.join(BACKBONES)}, {PREFIX}NAME")
