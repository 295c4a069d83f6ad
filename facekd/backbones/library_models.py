"""Turns networks of torchvision and timm into backbones.

A network of torchvision keeps its features as the embedding; one of timm, `timm:NAME`, has the embedding layer of the
face networks behind them. Both have fresh weights; nothing is downloaded. timm is an optional package, `pip install
'facekd[timm]'`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from facekd.backbones.backbone import Backbone, ImageSizes, NoRandomNumbers, full_precision
from facekd.commands.suggestions import nearest
from facekd.errors import ModelError
from facekd.utils.foreign import shown

PREFIX = "timm:"
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

    image_sizes: ClassVar[ImageSizes] = ImageSizes(32, 1, "it halves the image five times", "224 is usual")
    takes_width: ClassVar[bool] = False

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


def require_timm(name: str) -> ModuleType:
    """Imports timm.

    Args:
        name: the backbone that needs it, for the message.

    Raises:
        ModelError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        reason = "" if error.name == "timm" else f", which cannot be imported ({shown(error)})"
        raise ModelError(f"backbone {shown(name)} needs timm{reason}: pip install 'facekd[timm]'") from error


class TimmBackbone(Backbone):
    """Computes embeddings by a network of timm: its pooled features, a linear layer, a batch normalisation.

    Args:
        name: "timm:" and the name of an architecture, such as "timm:mobilenetv4_conv_small".
        embedding_size: D.
        image_size: S in pixels, from 32 on; networks that are built for one size are built for this one.
        width: 1; timm's networks come in the widths of their names.
        dropout: probability of dropping a value before the embedding layer.
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(
        32, 1, "timm's networks make an image up to 32 times smaller", "112 is usual"
    )
    takes_width: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"embedding": ("fc", "features")}

    def __init__(
        self, name: str, embedding_size: int = 512, image_size: int = 112, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        num_features = _num_features(name, image_size)
        self.network = _create(name, image_size)
        _name_undecayed(self.network)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, embedding_size, bias=False)
        self.features = nn.BatchNorm1d(embedding_size)

    @classmethod
    def check(cls, name: str, image_size: int) -> None:
        """Checks that timm is there, knows the network, and that images of this side go through it.

        Raises:
            ModelError: one of them is not so.
        """
        super().check(name, image_size)
        _num_features(name, image_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds normalised images (B, 3, S, S); returns un-normalised embeddings (B, D)."""
        self.check_images(images)
        x = self.network(images)
        with full_precision(x):
            return self.features(self.fc(self.dropout(x.to(self.fc.weight.dtype))))


@cache
def _num_features(name: str, image_size: int) -> int:
    """Returns how many features a network gives for an image, found out on the device meta, without memory."""
    _check_name(name)
    wrong = f"{name} cannot take images of {image_size} pixels"
    try:
        with torch.device("meta"), NoRandomNumbers(), torch.no_grad():
            shape = _create(name, image_size).eval()(torch.empty(1, 3, image_size, image_size)).shape
    except Exception as error:  # whatever a network does with a size that is not its own
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(f"{wrong}: {type(error).__name__}: {shown(lines[0])}") from error
    if len(shape) != 2:
        raise ModelError(f"{wrong}: it gives {tuple(shape)} instead of a vector of features")
    return shape[1]


def _check_name(name: str) -> None:
    own_name = name.removeprefix(PREFIX)
    known = require_timm(name).list_models()
    if own_name in known:
        return
    architecture, _, tag = own_name.partition(".")
    if tag and architecture in known:
        raise ModelError(
            f"backbone.name {shown(name)!r} names trained weights of timm, and facekd starts from fresh ones: leave "
            f"{shown('.' + tag)!r} off"
        )
    close = nearest(own_name, known)
    hint = f"did you mean {PREFIX + close!r}? " if close else ""
    raise ModelError(
        f"backbone.name {shown(name)!r} is unknown to timm: {hint}`python -c 'import timm; print(timm.list_models())'` "
        "lists the names"
    )


def _create(name: str, image_size: int) -> nn.Module:
    """Builds a network of timm without its classifier, for images of one size if it has to know that."""
    timm = require_timm(name)
    own_name = name.removeprefix(PREFIX)
    config = timm.get_pretrained_cfg(own_name)
    size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    return timm.create_model(own_name, pretrained=False, num_classes=0, **size)


def _name_undecayed(network: nn.Module) -> None:
    """Gives modules the names of their parameters that timm does not decay either, see `Backbone.undecayed`."""
    names: set[str] = getattr(network, "no_weight_decay", set)()
    for name in sorted(set(names) & dict(network.named_parameters()).keys()):
        path, _, own_name = name.rpartition(".")
        owner: Any = network.get_submodule(path)
        owner.undecayed = (*getattr(owner, "undecayed", ()), own_name)
