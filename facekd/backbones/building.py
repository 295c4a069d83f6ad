"""Builds backbones by name and checks that they suit the image size."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from functools import partial

from facekd.backbones.backbone import TOTAL_STRIDE, Backbone
from facekd.backbones.cifar import (
    CIFAR_RESNETS,
    CIFAR_STRIDE,
    WIDE_RESNETS,
    CifarResNet,
    WideResNet,
    cifar_embedding_size,
)
from facekd.backbones.iresnet import IRESNET_UNITS, IResNet
from facekd.backbones.mobilefacenet import TRUNK_SCALE, MobileFaceNet
from facekd.backbones.torchvision_models import SMALLEST_IMAGE, TORCHVISION_EMBEDDING_SIZES, TorchvisionBackbone
from facekd.errors import ModelError

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilefacenet": partial(MobileFaceNet, "mobilefacenet", TRUNK_SCALE["mobilefacenet"]),
    "mobilefacenet_0.45g": partial(MobileFaceNet, "mobilefacenet_0.45g", TRUNK_SCALE["mobilefacenet_0.45g"]),
    "iresnet18": partial(IResNet, "iresnet18", IRESNET_UNITS["iresnet18"]),
    "iresnet34": partial(IResNet, "iresnet34", IRESNET_UNITS["iresnet34"]),
    "iresnet50": partial(IResNet, "iresnet50", IRESNET_UNITS["iresnet50"]),
    "iresnet100": partial(IResNet, "iresnet100", IRESNET_UNITS["iresnet100"]),
    "iresnet200": partial(IResNet, "iresnet200", IRESNET_UNITS["iresnet200"]),
    **{name: partial(CifarResNet, name) for name in CIFAR_RESNETS},
    **{name: partial(WideResNet, name) for name in WIDE_RESNETS},
    **{name: partial(TorchvisionBackbone, name) for name in TORCHVISION_EMBEDDING_SIZES},
}


def build_backbone(
    name: str, *, embedding_size: int = 512, image_size: int = 112, width: float = 1.0, dropout: float = 0.0
) -> Backbone:
    """Build a backbone with fresh weights drawn from torch's global generator.

    Its `forward` takes normalised float images (B, 3, S, S) and returns un-normalised embeddings (B, D). Under
    autocast the last linear layer and normalisation of the face networks stay in 32 bits.

    Args:
        name: a key of `BACKBONES`.
        embedding_size: D; for networks without an embedding layer what `fixed_embedding_size` says.
        image_size: S in pixels: for the face networks a multiple of 16 (112 as the field does, 64 to train on a CPU),
            for CIFAR's one of 4, for torchvision's from 32 on.
        width: multiplies the channels of every layer, rounded to multiples of 8; 1 for torchvision's networks.
        dropout: probability of dropping a value before the embedding layer, or of the embedding where there is none.

    Raises:
        ModelError: naming the argument that cannot be, and what would do.
    """
    check_backbone(name, embedding_size=embedding_size, image_size=image_size, width=width, dropout=dropout)
    return BACKBONES[name](embedding_size=embedding_size, image_size=image_size, width=width, dropout=dropout)


def check_backbone(name: str, *, embedding_size: int, image_size: int, width: float, dropout: float) -> None:
    """Check the arguments of `build_backbone` without building, for a configuration to fail early.

    Raises:
        ModelError: naming the configuration key to change.
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(str(name), BACKBONES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(f"backbone.name {name!r} is unknown: {hint}there are {', '.join(BACKBONES)}")
    if not (math.isfinite(width) and width > 0):
        raise ModelError(f"backbone.width must be a positive number, not {width}")
    if not 0 <= dropout < 1:
        raise ModelError(f"backbone.dropout must be in [0, 1), not {dropout}")
    _check_image_size(name, image_size)
    if name in TORCHVISION_EMBEDDING_SIZES and width != 1:
        raise ModelError(f"backbone.width = {width:g}: torchvision's {name} comes in one width, so leave it at 1")
    fixed = fixed_embedding_size(name, width)
    if fixed is not None and embedding_size != fixed:
        raise ModelError(
            f"backbone.embedding_size must be {fixed} for {name}{f' at width {width:g}' if width != 1 else ''}, not "
            f"{embedding_size}: its embedding is its last map, averaged, with no layer that could change the size"
        )
    if embedding_size < 1:
        raise ModelError(f"backbone.embedding_size must be at least 1, not {embedding_size}")


def fixed_embedding_size(name: str, width: float = 1.0) -> int | None:
    """D of a network without an embedding layer, which its architecture fixes; None for the face networks."""
    if name in CIFAR_RESNETS or name in WIDE_RESNETS:
        return cifar_embedding_size(name, width)
    return TORCHVISION_EMBEDDING_SIZES.get(name)


def _check_image_size(name: str, image_size: int) -> None:
    if name in TORCHVISION_EMBEDDING_SIZES:
        if image_size < SMALLEST_IMAGE:
            raise ModelError(
                f"backbone.image_size must be at least {SMALLEST_IMAGE} for {name}, not {image_size}: 224 is usual"
            )
    elif fixed_embedding_size(name) is not None:
        if image_size < 2 * CIFAR_STRIDE or image_size % CIFAR_STRIDE:
            raise ModelError(
                f"backbone.image_size must be a multiple of {CIFAR_STRIDE} from {2 * CIFAR_STRIDE} on for {name} (it "
                f"halves the image twice), not {image_size}: CIFAR's images have 32"
            )
    elif image_size < 2 * TOTAL_STRIDE or image_size % TOTAL_STRIDE:
        raise ModelError(
            f"backbone.image_size must be a multiple of {TOTAL_STRIDE} from {2 * TOTAL_STRIDE} on "
            f"(the network halves the image four times), not {image_size}: use 112, or 64 for a small model"
        )
