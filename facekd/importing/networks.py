"""Recognises the network that wrote a state dict by names and shapes, and knows its tensors by the names in the file.

Four families are known: InsightFace's IR-ResNets, MobileFaceNets and vision transformers, after which facekd names its
own tensors, and AdaFace's IR networks, which CVLface has as well.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facekd.utils.foreign import some_of

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

USUAL_IMAGE_SIZE = 112
ARCFACE_TORCH, ADAFACE = "insightface arcface_torch", "AdaFace"
# AdaFace's names of a unit's modules, by facekd's.
IN_UNIT = {
    "bn1": "res_layer.0",
    "conv1": "res_layer.1",
    "bn2": "res_layer.2",
    "prelu": "res_layer.3",
    "conv2": "res_layer.4",
    "bn3": "res_layer.5",
    "downsample.0": "shortcut_layer.0",
    "downsample.1": "shortcut_layer.1",
}
OUTSIDE_UNITS = {
    "conv1": "input_layer.0",
    "bn1": "input_layer.1",
    "prelu": "input_layer.2",
    "bn2": "output_layer.0",
    "fc": "output_layer.3",
    "features": "output_layer.4",
}
WITHOUT_TENSORS = ("features.weight", "features.bias")  # fixed at 1 and 0, and in no file of AdaFace


@dataclass(frozen=True)
class BackboneShape:
    """Describes the network that wrote a state dict, recognised by names and shapes.

    Attributes:
        name: key of `facekd.backbones.BACKBONES`, or None if facekd has no such network.
        description: for messages, `"iresnet50 (512-d, 112 pixels)"`.
        embedding_size: D.
        image_size: side of the input in pixels.
        width: channel multiplier.
        framework: the trainer whose names it has.
    """

    name: str | None
    description: str
    embedding_size: int
    image_size: int
    width: float
    framework: str = ARCFACE_TORCH


def recognize_backbone(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    """Recognises the network that wrote a state dict by its names and shapes; None if it belongs to no family."""
    if {"layer1.0.prelu.weight", "conv1.weight", "fc.weight", "features.weight"} <= state.keys():
        return _recognize_iresnet(state)
    if {"conv_sep.layers.0.weight", "layers.0.layers.0.weight", "features.layers.2.weight"} <= state.keys():
        return _recognize_mobilefacenet(state)
    if {"patch_embed.proj.weight", "pos_embed", "feature.2.weight"} <= state.keys():
        return _recognize_vit(state)
    if {"input_layer.0.weight", "body.0.res_layer.1.weight", "output_layer.3.weight"} <= state.keys():
        return _recognize_adaface(state)
    return None


def recognizable() -> list[str]:
    """Lists the networks that `recognize_backbone` knows, by facekd's names."""
    from facekd.backbones.iresnet import IRESNET_UNITS
    from facekd.backbones.mobilefacenet import VARIANTS
    from facekd.backbones.vit import VIT_CHANNELS

    return [*IRESNET_UNITS, *VARIANTS, *VIT_CHANNELS]


def appearance(found: BackboneShape | None, state: Mapping[str, torch.Tensor]) -> str:
    """Says which network the tensors look like, for messages."""
    return f"looks like {found.description}" if found else f"is of an unknown network (its names: {some_of(state)})"


def names_in_file(name: str, own: Iterable[str]) -> dict[str, str]:
    """Returns the names that the tensors of a backbone have in files of the trainer that it is from.

    Args:
        name: key of `BACKBONES`.
        own: names of its tensors in facekd. One that is missing in the result has a fixed value there, and none in the
            file.
    """
    from facekd.backbones.iresnet import IRESNET_UNITS, PLAIN_SHORTCUTS

    if name not in PLAIN_SHORTCUTS:
        return {tensor: tensor for tensor in own}
    first_of = dict(enumerate(itertools.accumulate(IRESNET_UNITS[name], initial=0), start=1))  # unit of each stage
    names = {}
    for tensor in own:
        module, _, part = tensor.rpartition(".")
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module)
        if match:
            names[tensor] = f"body.{first_of[int(match[1])] + int(match[2])}.{IN_UNIT[match[3]]}.{part}"
        elif tensor not in WITHOUT_TENSORS:
            names[tensor] = f"{OUTSIDE_UNITS[module]}.{part}"
    return names


def _recognize_iresnet(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.iresnet import IRESNET_UNITS, STAGE_CHANNELS

    units = tuple(_count_children(state, f"layer{stage}") for stage in (1, 2, 3, 4))
    name = next((name for name, known in IRESNET_UNITS.items() if known == units), None)
    shapes = _shapes(state, {f"layer4.{units[3] - 1}.conv2.weight": 4, "fc.weight": 2, "conv1.weight": 4})
    if shapes is None:
        return None
    (last_channels, *_), (embedding_size, map_values), (first_channels, *_) = shapes
    return _shape(
        name,
        f"an IR-ResNet with {units} units",
        embedding_size,
        map_side=math.isqrt(map_values // last_channels),
        width=first_channels / STAGE_CHANNELS[0],
    )


def _recognize_mobilefacenet(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.mobilefacenet import STEM_CHANNELS, STEM_INNER_CHANNELS, UNITS, VARIANTS

    # The stem shows the trunk's scale: its second convolution has that many channels per group, and where residual
    # units take its place, they are that many times wider than the paper's trunk.
    has_stem_units = "layers.1.layers.0.layers.0.layers.0.weight" in state
    second = "layers.1.layers.0.layers.0.layers.0.weight" if has_stem_units else "layers.1.layers.0.weight"
    shapes = _shapes(state, {second: 4, "features.layers.0.layers.0.weight": 4, "features.layers.2.weight": 2})
    if shapes is None:
        return None
    (rows, columns, *_), kernel, (embedding_size, _) = shapes
    channels = columns if has_stem_units else rows
    trunk_scale = STEM_INNER_CHANNELS * channels / (STEM_CHANNELS * rows) if has_stem_units else columns

    # Its residual units say the rest.
    units = tuple(_count_children(state, f"layers.{2 + i}.layers") for i, unit in enumerate(UNITS) if unit[-1])
    name = None
    for known, variant in VARIANTS.items():
        expected = tuple(unit[2] * variant.unit_factor for unit in UNITS if unit[-1])
        if (variant.trunk_scale, variant.has_stem_units, expected) == (trunk_scale, has_stem_units, units):
            name = known
    return _shape(
        name,
        f"a MobileFaceNet with {units} units and {channels} channels in its stem",
        embedding_size,
        map_side=kernel[-1],
        width=channels / trunk_scale / STEM_CHANNELS,
    )


def _recognize_vit(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.vit import NUM_BLOCKS, PATCH_SIZE, VIT_CHANNELS

    shapes = _shapes(state, {"pos_embed": 3, "patch_embed.proj.weight": 4, "feature.2.weight": 2})
    if shapes is None:
        return None
    (_, tokens, channels), kernel, (embedding_size, _) = shapes
    blocks = _count_children(state, "blocks")

    # Several sizes of images have as many patches, because pixels at the edge fill none: only the usual one is known.
    is_usual = tokens == (USUAL_IMAGE_SIZE // PATCH_SIZE) ** 2
    name = next((name for name, known in VIT_CHANNELS.items() if known == channels), next(iter(VIT_CHANNELS)))
    is_known = is_usual and blocks == NUM_BLOCKS and kernel[-1] == PATCH_SIZE
    otherwise = f"a vision transformer with {blocks} blocks of {channels} channels and {tokens} patches of {kernel[-1]}"
    return _shape(
        name if is_known else None,
        otherwise,
        embedding_size,
        map_side=USUAL_IMAGE_SIZE // 16,
        width=channels / VIT_CHANNELS[name],
    )


def _recognize_adaface(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.iresnet import IRESNET_UNITS, PLAIN_SHORTCUTS, STAGE_CHANNELS

    # Units of as many channels make a stage.
    count = _count_children(state, "body")
    shapes = _shapes(state, {f"body.{number}.res_layer.4.weight": 4 for number in range(count)})
    outer = _shapes(state, {"input_layer.0.weight": 4, "output_layer.3.weight": 2})
    if shapes is None or outer is None:
        return None
    units = tuple(len(list(stage)) for _, stage in itertools.groupby(shape[0] for shape in shapes))
    kinds = {
        "an IR-SE network (with squeeze and excitation)": "body.0.res_layer.se_block.fc1.weight",
        "an IR network of bottleneck units": "body.0.res_layer.7.weight",
    }
    other = next((kind for kind, tensor in kinds.items() if tensor in state), "an IR network")
    is_known = other == "an IR network"
    name = next((name for name in PLAIN_SHORTCUTS if is_known and IRESNET_UNITS[name] == units), None)
    (first_channels, *_), (embedding_size, map_values) = outer
    return _shape(
        name,
        f"{other} of AdaFace with {units} units",
        embedding_size,
        map_side=math.isqrt(map_values // shapes[-1][0]),
        width=first_channels / STAGE_CHANNELS[0],
        framework=ADAFACE,
    )


def _shapes(state: Mapping[str, torch.Tensor], dimensions: dict[str, int]) -> list[tuple[int, ...]] | None:
    """Returns the shapes of some tensors; None if one is missing, empty or of another number of dimensions."""
    found = [state.get(name) for name in dimensions]
    shapes = [tuple(value.shape) for value in found if value is not None]
    wanted = list(dimensions.values())
    return shapes if list(map(len, shapes)) == wanted and not any(0 in shape for shape in shapes) else None


def _shape(
    name: str | None,
    otherwise: str,
    embedding_size: int,
    map_side: int,
    width: float,
    framework: str = ARCFACE_TORCH,
) -> BackboneShape:
    image_size = 16 * map_side  # all families halve the image four times
    scaled = "" if width == 1 else f", width {width:g}"
    description = f"{name or otherwise} ({embedding_size}-d, {image_size} pixels{scaled})"
    return BackboneShape(name, description, embedding_size, image_size, width, framework)


def _count_children(state: Mapping[str, torch.Tensor], module: str) -> int:
    pattern = re.compile(re.escape(module) + r"\.(\d+)\.")
    return len({match[1] for name in state if (match := pattern.match(name))})
