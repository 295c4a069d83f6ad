"""Batch normalisations folded into the convolutions before them, as an ONNX runtime does: the same function, faster."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy of a backbone, in evaluation mode, without the normalisations that directly follow a convolution.

    In evaluation mode a normalisation multiplies and shifts each channel by numbers that do not change: so do the
    convolution's weights and a bias. Embeddings differ by rounding. What the copy remembers of the statistics is of
    now: it is for use at once.

    Args:
        module: a backbone, or one with a projection; not changed.
    """
    folded = copy.deepcopy(module).eval()
    for parent in folded.modules():
        for convolution, norm in _followers(parent):
            _fold(parent, convolution, norm)
    return folded


def _followers(parent: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions among a module's children, each with the normalisation that its output goes to.

    In a `Sequential` that is the next child; other modules say so by `norm_after`, and what says nothing is left alone.
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
    # Weights keep their place in memory's order: fusing leaves them in rows, and convolutions in channels_last are
    # faster with weights that are too.
    in_channels_last = old.weight.is_contiguous(memory_format=torch.channels_last) and not old.weight.is_contiguous()
    new = fuse_conv_bn_eval(old, follower)
    if in_channels_last:
        new = new.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    setattr(parent, convolution, new)
    setattr(parent, norm, nn.Identity())
