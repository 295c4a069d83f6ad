"""Folds what follows a layer by constants into the layer: a projection behind a backbone, normalisations inside it."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facekd.backbones.backbone import Backbone, full_precision
from facekd.backbones.given_module import GivenModule
from facekd.errors import ModelError


class ProjectedBackbone(nn.Module):
    """Computes embeddings of another size: a backbone with a learned linear projection behind it, as in training.

    Attributes:
        backbone: images to (B, D).
        projection: (B, D) to (B, E), no bias.
        embedding_size: E.
    """

    def __init__(self, backbone: Backbone, projection: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.embedding_size = projection.out_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns projected embeddings (B, E), in 32 bits, of float images (B, 3, S, S)."""
        embedding_BD = self.backbone(images)
        with full_precision(embedding_BD):
            return self.projection(embedding_BD.float())


@torch.no_grad()
def fold_projection(backbone: Backbone, projection_ED: torch.Tensor, folded: Backbone) -> Backbone:
    """Gives `folded` the weights with which it computes `projection_ED @ backbone(images)` in evaluation mode.

    Face networks end in a linear layer W and a batch normalisation, z = s (W h + b - mean) + beta with s = gamma /
    sqrt(variance + eps). So P z = (P s W) h + P (s (b - mean) + beta): a linear layer, and a normalisation that only
    adds. The product is computed in float64 and rounded once.

    Args:
        backbone: embeds to D; not changed.
        projection_ED: (E, D).
        folded: a backbone of the same architecture that embeds to E; changed in place and returned.

    Raises:
        ModelError: the sizes do not fit, or the backbone does not end in a linear layer and a normalisation.
    """
    linear, norm = _last_layers(backbone)
    new_linear, new_norm = _last_layers(folded)
    if projection_ED.shape != (folded.embedding_size, backbone.embedding_size):
        raise ModelError(
            f"a projection of shape {tuple(projection_ED.shape)} does not lead from embeddings of "
            f"{backbone.embedding_size} to {folded.embedding_size}"
        )
    # Copy every layer but the last two.
    untouched = {f"{linear}.weight", f"{linear}.bias", *(f"{norm}.{name}" for name in _NORM_NAMES)}
    weights = {name: value for name, value in backbone.state_dict().items() if name not in untouched}
    folded.load_state_dict(weights, strict=False)

    # Multiply the projection into the linear layer, and what it adds into a constant.
    old_linear, old_norm = backbone.get_submodule(linear), backbone.get_submodule(norm)
    assert isinstance(old_linear, nn.Linear) and isinstance(old_norm, nn.BatchNorm1d)
    assert old_norm.running_mean is not None and old_norm.running_var is not None
    projection = projection_ED.double()
    scale = old_norm.weight.double() / (old_norm.running_var.double() + old_norm.eps).sqrt()
    bias = 0 if old_linear.bias is None else old_linear.bias.double()
    constant = projection @ (scale * (bias - old_norm.running_mean.double()) + old_norm.bias.double())

    # The new normalisation neither centres nor scales: it adds the constant.
    target, shift = folded.get_submodule(new_linear), folded.get_submodule(new_norm)
    assert isinstance(target, nn.Linear) and isinstance(shift, nn.BatchNorm1d)
    assert shift.running_mean is not None and shift.running_var is not None
    target.weight.copy_(projection @ (scale[:, None] * old_linear.weight.double()))
    if target.bias is not None:
        target.bias.zero_()
    shift.running_mean.zero_()
    shift.running_var.fill_(1 - shift.eps)
    shift.weight.fill_(1)
    shift.bias.copy_(constant)
    return folded


_NORM_NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def can_fold_projection(backbone: Backbone) -> bool:
    """Tells whether `fold_projection` takes this network: one that ends in a linear layer and a normalisation.

    What others wrote may have the two last and yet go on behind them, or take them in another order.
    """
    return not _is_of_others(backbone) and bool(_find_last_layers(backbone))


def _last_layers(backbone: Backbone) -> tuple[str, str]:
    """Returns the names of the linear layer and the batch normalisation that a face network ends in."""
    if found := _find_last_layers(backbone):
        return found
    raise ModelError(f"{backbone.name} does not end in a linear layer and a batch normalisation")


def _find_last_layers(backbone: Backbone) -> tuple[str, str] | tuple[()]:
    """Returns the names of the last two layers if they are those that can be folded into."""
    # Layers are the modules with tensors of their own: a normalisation may have statistics alone.
    layers = [(name, module) for name, module in backbone.named_modules() if module._parameters or module._buffers]
    match layers[-2:]:
        case [(first, nn.Linear() as linear), (second, nn.BatchNorm1d(affine=True) as norm)]:
            if linear.out_features == norm.num_features == backbone.embedding_size:
                return first, second
    return ()


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Returns a copy of a backbone, in evaluation mode, without the normalisations that directly follow a convolution.

    In evaluation mode a normalisation scales and shifts each channel by constants; the convolution's weights and a bias
    can do that as well. Embeddings differ by rounding. The copy holds the statistics of this moment, so use it at once.

    Args:
        module: a backbone, with or without a projection; not changed.
    """
    folded = copy.deepcopy(module).eval()
    # Others may take what stands between two parts of a `Sequential`, which would be something else afterwards.
    of_others = {part for backbone in folded.modules() if _is_of_others(backbone) for part in backbone.modules()}
    for parent in folded.modules():
        for convolution, norm in _followers(parent, parent in of_others):
            _fold(parent, convolution, norm)
    return folded


def _is_of_others(module: nn.Module) -> bool:
    """Tells whether a module is a backbone that others wrote: one that a caller gave, or a plug-in's."""
    is_own = type(module).__module__.startswith("facekd.")
    return isinstance(module, GivenModule) or (isinstance(module, Backbone) and not is_own)


def _followers(parent: nn.Module, is_of_others: bool) -> list[tuple[str, str]]:
    """Returns the names of a module's convolutions, each with the name of the normalisation that takes its output.

    In a `Sequential` that is the next child, unless others wrote it. Other modules name it in `norm_after`; a module
    without is left alone.
    """
    named = getattr(parent, "norm_after", None)
    if named is None and not is_of_others and type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        named = dict(itertools.pairwise(names))
    if named is None:
        return []
    children = parent._modules
    return [
        (one, other)
        for one, other in named.items()
        if isinstance(children[one], nn.Conv2d) and _is_plain_norm(children[other])
    ]


def _is_plain_norm(module: nn.Module | None) -> bool:
    """Tells a batch normalisation from a subclass that does more, such as timm's with an activation in it."""
    return isinstance(module, nn.BatchNorm2d) and type(module).forward is nn.BatchNorm2d.forward


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    old, follower = parent.get_submodule(convolution), parent.get_submodule(norm)
    assert isinstance(old, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d)
    # Keep the memory format of the weights: fusing leaves them contiguous, and convolutions in channels_last are faster
    # with weights in channels_last.
    in_channels_last = old.weight.is_contiguous(memory_format=torch.channels_last) and not old.weight.is_contiguous()
    new = fuse_conv_bn_eval(old, follower)
    if in_channels_last:
        new = new.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    setattr(parent, convolution, new)
    setattr(parent, norm, nn.Identity())
