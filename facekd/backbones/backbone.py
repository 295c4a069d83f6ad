"""Defines the base class of the backbones: (B, 3, S, S) images in, (B, D) embeddings out.

To add a backbone, derive a class from `Backbone` in a file of its own and name it in `BACKBONES` (building.py). What it
can be built with (image sizes, width, embedding size) is stated by the class itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from facekd.errors import ModelError


@dataclass(frozen=True)
class ImageSizes:
    """The sides, in pixels, of the square images that a network takes.

    Args:
        smallest: the smallest side.
        multiple_of: the side must be a multiple of this; for a network that flattens its last map, its total stride.
        reason: the cause, for the message: "it halves the image four times".
        advice: a usual size, for the message.
    """

    smallest: int
    multiple_of: int
    reason: str
    advice: str

    def check(self, name: str, image_size: int) -> None:
        """Checks the side that the network `name` is to be built with.

        Raises:
            ModelError: it does not suit the network; the message says what does.
        """
        if image_size >= self.smallest and image_size % self.multiple_of == 0:
            return
        any_above = self.multiple_of == 1
        wanted = (
            f"at least {self.smallest}" if any_above else f"a multiple of {self.multiple_of} from {self.smallest} on"
        )
        raise ModelError(
            f"backbone.image_size must be {wanted} for {name} ({self.reason}), not {image_size}: {self.advice}"
        )


class Backbone(nn.Module):
    """Remembers how a backbone was built and checks its input.

    Every subclass is built as `cls(name, embedding_size=D, image_size=S, width=w, dropout=p)`, with what it names in
    `options` besides.

    Attributes:
        image_sizes: the images it takes; here those of a network that halves the image four times.
        takes_width: whether `width` may differ from 1.
        takes_gradient_checkpointing: whether it computes its units by `in_turn`.
        options: which other arguments of `build_backbone` it takes: `drop_path`, `mask_ratio`.
        parts: names of its modules (and of parameters of its own) by part, `stem`, `stage1` and so on, in the order of
            the forward pass; empty where a network is not divided.
        selectable: where evenly spaced channels of it make a smaller network of its family
            (`facekd.backbones.weight_selection`), the names of linear layers that read a flattened map, each with that
            of a normalisation of the map's channels; None where they do not.
        undecayed: names of parameters of its own, no bias and of no normalisation, that its authors do not decay, such
            as position embeddings; any module may have this attribute.
        gradient_checkpointing: keeps only what goes into each unit for the backward pass and computes the rest again,
            for less memory; False unless set.
        name: its key in `BACKBONES`, `"iresnet50"`.
        embedding_size: D, the width of the embedding.
        image_size: S, the side of the square input in pixels.
        width: the channel multiplier that it was built with.
    """

    image_sizes: ClassVar[ImageSizes] = ImageSizes(
        32, 16, "it halves the image four times", "use 112, or 64 for a small model"
    )
    takes_width: ClassVar[bool] = True
    takes_gradient_checkpointing: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    selectable: ClassVar[Mapping[str, str] | None] = None
    undecayed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.name = name
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.width = width

    @classmethod
    def check(cls, name: str, image_size: int) -> None:
        """Checks the network's name and images, beyond what the tables say; here the images' side.

        Raises:
            ModelError: they do not suit.
        """
        cls.image_sizes.check(name, image_size)

    @classmethod
    def fixed_embedding_size(cls, name: str, width: float) -> int | None:
        """Returns D where the architecture fixes it; None for networks with an embedding layer, as here."""
        return None

    def check_images(self, images: torch.Tensor) -> None:
        """Refuses images of another shape or type here, where the message can say what to do.

        Raises:
            ModelError: unless `images` is a float tensor of shape (B, 3, S, S).
        """
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ModelError(
                f"{self.name} takes images of shape (B, 3, {size}, {size}), but got {tuple(images.shape)}: "
                "resize the images, or build the backbone with another image_size"
            )
        if not images.is_floating_point():
            raise ModelError(
                f"{self.name} takes normalised float images, but got {images.dtype}: "
                "subtract the mean and divide by the standard deviation first (facekd.images.model_input)"
            )

    def in_turn(self, units: Iterable[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
        """Applies units one after another; with `gradient_checkpointing` each is computed again in the backward pass.

        The second time, dropout draws what it drew at first, and no running statistics move (Chen et al. 2016,
        arXiv:1604.06174). Gradients are the same.

        Args:
            units: modules, or methods of this backbone that apply some of its modules.
            x: input of the first unit.
        """
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            for unit in units:
                x = unit(x)
            return x
        for unit in units:
            owner = unit if isinstance(unit, nn.Module) else self
            x = checkpoint(unit, x, use_reentrant=False, context_fn=partial(_contexts, owner))
        return x


def _contexts(module: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """Returns the contexts of the first and of the second computation of a module."""
    return contextlib.nullcontext(), _keeping_statistics(module)


@contextlib.contextmanager
def _keeping_statistics(module: nn.Module) -> Iterator[None]:
    """Lets batch normalisations in training mode normalise as usual, but leaves their running statistics alone.

    They are given a momentum of 0 and no counter. With `track_running_stats` off, autograd would miss tensors that it
    kept in the first computation.
    """
    norms = [
        (child, child.momentum, child.num_batches_tracked)
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.training
    ]
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in norms:
            norm.momentum, norm.num_batches_tracked = momentum, counter


def full_precision(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Turns autocast off inside a block, if it is on for the device of `tensor`.

    The embedding layer and its batch normalisation keep 32 bits: with a margin of 0.5 radians at scale 64, the 8 bits
    of a bfloat16 mantissa are too few. The context is entered only if autocast is on, so exported ONNX graphs contain
    no autocast nodes.
    """
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def initialize_convolutions(network: nn.Module) -> None:
    """Draws the weights of all convolutions from N(0, 2 / fan_out) (He et al. 2015, equation 14).

    ArcFace's first release (MXNet) did the same. The N(0, 0.1^2) of its PyTorch release trains as well, because a
    normalisation follows every convolution. But in evaluation mode a deep network that is hardly trained overflows with
    it: its running variances are still near 1, far from the true ones. The fan-out of a grouped convolution is that of
    one group; `nn.init.kaiming_normal_` would take that of all groups together.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            fan_out = height * width * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def drop_path(branch: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Leaves the residual branch out for some images of a batch (stochastic depth, Huang et al. 2016).

    Args:
        branch: (B, ...), to be added to the trunk. What stays is divided by 1 - rate, so that the mean is kept.
        rate: probability of leaving an image's branch out, below 1.
        training: False returns the branch as it is.
    """
    if not training or rate == 0:
        return branch
    kept = branch.new_empty((len(branch),) + (1,) * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * (kept / (1 - rate))


def scale_channels(channels: int, width: float) -> int:
    """Multiplies a channel count by `width`; rounds to a multiple of 8, which suits vector units, and to 8 at least."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


class NoRandomNumbers(TorchFunctionMode):
    """Leaves out the drawing of weights: on the device meta, torch imports half of its compiler (2 s, 150 MB)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, module = getattr(func, "__name__", ""), getattr(func, "__module__", "")
        if module == "torch.nn.init" or name in ("normal_", "uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
