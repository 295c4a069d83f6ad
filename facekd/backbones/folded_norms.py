"""Folds batch normalisations into the convolutions before them, as ONNX runtimes do: the same function, but faster."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Returns a copy of a backbone, in evaluation mode, without the normalisations that directly follow a convolution.

    In evaluation mode a normalisation scales and shifts each channel by constants; the convolution's weights and a bias
    can do that as well. Embeddings differ by rounding. The copy holds the statistics of this moment, so use it at once.

    Args:
        module: a backbone, with or without a projection; not changed.
    """
    folded = copy.deepcopy(module).eval()
    for parent in folded.modules():
        for convolution, norm in _followers(parent):
            _fold(parent, convolution, norm)
    return folded


def _followers(parent: nn.Module) -> list[tuple[str, str]]:
    """Returns the names of a module's convolutions, each with the name of the normalisation that takes its output.

    In a `Sequential` that is the next child. Other modules name it in `norm_after`; a module without is left alone.
    """
    named = getattr(parent, "norm_after", None)
    if named is None and type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        named = dict(itertools.pairwise(names))
    if named is None:
        return []
    children = parent._modules
    return [
        (one, other)
        for one, other in named.items()
        if isinstance(children[one], nn.Conv2d) and isinstance(children[other], nn.BatchNorm2d)
    ]


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
