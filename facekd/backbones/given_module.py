"""Makes a backbone of a torch module that the caller of `facekd.training.api` gives."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from facekd.backbones.backbone import Backbone, ImageSizes
from facekd.errors import ConfigError, ModelError
from facekd.utils.wording import counted

GIVEN = "module"  # as `backbone.name`: the network is a module that the caller gives


class GivenModule(Backbone):
    """Computes embeddings by a module that was built elsewhere, and checks what comes out of it.

    Attributes:
        module: float (B, 3, S, S) -> embedding (B, D); trained as it is, not copied.
        class_name: the name of its class, which checkpoints record.
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(1, 1, "it is a module of your own", "give the size that it takes")
    takes_width: ClassVar[bool] = False

    def __init__(self, module: nn.Module, embedding_size: int, image_size: int) -> None:
        super().__init__(GIVEN, embedding_size, image_size, 1.0)
        if not isinstance(module, nn.Module):
            raise ConfigError(f"backbone is a {type(module).__name__}: give an instance of torch.nn.Module")
        if not any(True for _ in module.parameters()):
            raise ConfigError(f"backbone ({type(module).__name__}) has no parameters, so there is nothing to train")
        self.module = module
        self.class_name = type(module).__qualname__

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings (B, D) of float images (B, 3, S, S).

        Raises:
            ModelError: the module returns something else.
        """
        self.check_images(images)
        embedding_BD = self.module(images)
        wanted = (len(images), self.embedding_size)
        if not isinstance(embedding_BD, torch.Tensor) or not embedding_BD.is_floating_point():
            raise ModelError(
                f"the backbone ({self.class_name}) returns {_kind_of(embedding_BD)}, expected a floating tensor of "
                f"shape {wanted}"
            )
        if tuple(embedding_BD.shape) != wanted:
            raise ModelError(
                f"the backbone ({self.class_name}) returns the shape {tuple(embedding_BD.shape)} for "
                f"{counted(len(images), 'image')}, expected {wanted}: set backbone.embedding_size to what it gives"
            )
        return embedding_BD


def _kind_of(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
