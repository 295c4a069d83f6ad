"""Cuts the weights of a smaller network out of a larger one of its family, to start its training from.

Weight selection: Xu et al., "Initializing Models with Larger Ones" (ICLR 2024, arXiv:2311.18823). Of each layer evenly
spaced channels are taken, the same ones wherever layers follow each other or are added, and of each stage the first
units. docs/method.md has what students gain from it under their teacher's classifier.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    check_is_part(network, larger)
    own, weights = network.state_dict(), larger.state_dict()
    block = _channels_of_a_group(network)
    selected = {}
    for name, wanted in own.items():
        found = weights[name]
        # Columns that read a flattened map go by channel: all places of a channel are taken, or none.
        if norm := (network.selectable or {}).get(name):
            by_channel = found.reshape(len(found), len(weights[norm]), -1)
            selected[name] = _evenly_spaced(by_channel, (len(wanted), len(own[norm])), block).flatten(1)
        else:
            selected[name] = _evenly_spaced(found, tuple(wanted.shape[:2]), block)
    return selected


def check_is_part(network: Backbone, larger: nn.Module) -> None:
    """Checks that a network is a part of a larger one, by names and shapes alone.

    Args:
        network: the network, on any device.
        larger: the other one, on any device.

    Raises:
        ModelError: the network is no part of the other one.
    """
    if network.selectable is None or not isinstance(larger, Backbone) or type(network) is not type(larger):
        raise ModelError(
            f"{network.name} is no part of it: weights are selected within MobileFaceNet, within IR-ResNet, and within "
            "the ResNets of CIFAR"
        )
    what = f"{network.name} of width {network.width:g} is no part of {larger.name} of width {larger.width:g}"
    if network.image_size != larger.image_size:
        raise ModelError(f"{what}: they take images of {network.image_size} and of {larger.image_size} pixels")
    if misfit := _find_misfit(network, network.state_dict(), larger.state_dict()):
        raise ModelError(f"{what}, {misfit}")


def _find_misfit(network: Backbone, own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> str:
    """Returns why a network is no part of a larger one with these weights, as a clause; empty if it is one."""
    # Layers that only one of them has: whole units at the end of a stage may be left out, and nothing else.
    for name in own:
        if name not in weights:
            return f"which has no {name}"
    modules = dict(network.named_modules())
    for name in weights:
        if name not in own:
            parts = name.split(".")
            depth = next(depth for depth in range(len(parts)) if ".".join(parts[: depth + 1]) not in modules)
            if not isinstance(modules.get(".".join(parts[:depth])), nn.Sequential):
                return f"whose {name} it lacks"

    # Sizes: as many channels at least, and groups of convolutions that fall on the channels that are taken.
    for name, wanted in own.items():
        found = weights[name]
        if any(have < want for have, want in zip(found.shape[:2], wanted.shape[:2], strict=True)):
            return f"whose {name} is smaller: {tuple(found.shape)}, expected {tuple(wanted.shape)}"
        conv = modules.get(name.rpartition(".")[0])
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and wanted.ndim == 4 and found.shape[1] != wanted.shape[1]:
            share = len(found) // len(wanted)
            if wanted.shape[1] > 1 or len(found) % len(wanted) or share % found.shape[1]:
                return f"whose {name} has other groups of channels"
    return ""


def _channels_of_a_group(network: nn.Module) -> int:
    """Returns how many neighbouring channels the groups of the network's convolutions mix; they are taken together."""
    grouped = (one for one in network.modules() if isinstance(one, nn.Conv2d) and one.groups > 1)
    return max((conv.in_channels // conv.groups for conv in grouped), default=1)


def _evenly_spaced(values: torch.Tensor, sizes: tuple[int, ...], block: int) -> torch.Tensor:
    """Takes evenly spaced entries of the first dimensions, outputs and inputs of a layer, until they have the sizes.

    Args:
        values: the weights of a layer.
        sizes: how many entries to take of each dimension.
        block: number of neighbours that are taken together, where both sizes are multiples of it.
    """
    for dim, size in enumerate(sizes):
        total = values.shape[dim]
        if size < total:
            step = block if size % block == 0 and total % block == 0 else 1
            chosen = torch.arange(size // step, device=values.device) * (total // step) // (size // step)
            places = (chosen[:, None] * step + torch.arange(step, device=values.device)).flatten()
            values = values.index_select(dim, places)
    return values
