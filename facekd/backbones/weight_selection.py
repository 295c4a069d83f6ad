"""Cuts the weights of a smaller network out of a larger one of its family, to start its training from.

Weight selection: Xu et al., "Initializing Models with Larger Ones" (ICLR 2024, arXiv:2311.18823). Of each layer evenly
spaced channels are taken, the same ones wherever layers follow each other or are added, and of each stage the first
units. Facekd's students under a teacher's classifier gain far more from it than from any loss; docs/method.md has the
table.
"""

from __future__ import annotations

import torch
from torch import nn

from facekd.backbones.backbone import Backbone
from facekd.errors import ModelError


def select_weights(network: Backbone, larger: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the state dict of a network as a part of that of a larger one, which may also be its equal.

    Args:
        network: the network to start, on any device; only its names and shapes matter.
        larger: a network of the same family and the same image size, at least as wide and as deep.

    Raises:
        ModelError: the network is no part of the other one.
    """
    if network.selectable is None or not isinstance(larger, Backbone) or type(network) is not type(larger):
        raise ModelError(
            f"{network.name} is no part of it: weights are selected within MobileFaceNet, within IR-ResNet, and within "
            "the ResNets of CIFAR"
        )
    what = f"{network.name} of width {network.width:g} is no part of {larger.name} of width {larger.width:g}"
    weights = larger.state_dict()
    own, selected = network.state_dict(), {}
    for name, wanted in own.items():
        found = weights.get(name)
        if found is None:
            raise ModelError(f"{what}, which has no {name}")
        if any(have < want for have, want in zip(found.shape[:2], wanted.shape[:2], strict=True)):
            raise ModelError(f"{what}, whose {name} is smaller: {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        # Columns that read a flattened map go by channel: all places of a channel are taken, or none.
        if norm := network.selectable.get(name):
            by_channel = found.reshape(len(found), len(weights[norm]), -1)
            selected[name] = _evenly_spaced(by_channel, (len(wanted), len(own[norm]))).flatten(1)
        else:
            selected[name] = _evenly_spaced(found, tuple(wanted.shape[:2]))
        if selected[name].shape != wanted.shape:
            raise ModelError(f"{what}: {name} is {tuple(found.shape)}, and images of another size need another shape")
    return selected


def _evenly_spaced(values: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Takes evenly spaced entries of the first dimensions, outputs and inputs of a layer, until they have the sizes."""
    for dim, size in enumerate(sizes):
        values = values.index_select(dim, torch.arange(size, device=values.device) * values.shape[dim] // size)
    return values
