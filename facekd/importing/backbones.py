"""Builds the backbone that a file of another trainer was written from, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.yaml_files import read_yaml
from facekd.errors import ModelError
from facekd.importing.networks import (
    ADAFACE,
    BackboneShape,
    appearance,
    names_in_file,
    recognizable,
    recognize_backbone,
)
from facekd.importing.weight_files import read_weights

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

    from facekd.backbones import Backbone

COLORS = ("rgb", "bgr")
UNKNOWN = "unknown"  # trainer of a file that only --name fits


@dataclass(frozen=True)
class ImportedBackbone:
    """Holds a backbone with the weights of a file.

    Attributes:
        backbone: in float32 and evaluation mode; takes RGB.
        framework: the trainer that wrote the file.
        color: the order of channels that the file's network takes.
        color_by: how that is known: "--color", the name of a file, or "" for the custom of the trainer.
        others: names of what else the file has.
    """

    backbone: Backbone
    framework: str
    color: str
    color_by: str
    others: list[str]


def import_backbone(path: Path, name: str | None = None, color: str | None = None) -> ImportedBackbone:
    """Builds the backbone that a file was written from and loads its weights.

    A network that takes BGR is turned into one that gives the same embeddings for RGB, because facekd trains on that:
    the input channels of its first convolution change places.

    Args:
        path: weights or a checkpoint of arcface_torch, AdaFace or CVLface.
        name: expected backbone, a key of `facekd.backbones.BACKBONES`; None recognises it from the file.
            Embedding size, image size and width come from a file that is recognised, and are the usual ones otherwise.
        color: the order of channels that the network takes; None goes by the trainer.

    Raises:
        ModelError: `name` is unknown, or the file is unreadable, of another architecture, or has values that are not
            finite.
    """
    from facekd.backbones.building import check_backbone, fixed_embedding_size

    # Which network the file is from: the one asked for, or the one its shapes show.
    if name is not None:
        size = fixed_embedding_size(name) or 512
        check_backbone(name, embedding_size=size, image_size=112, width=1.0, dropout=0.0)
    file = read_weights(path)
    found = recognize_backbone(file.state)
    wanted = name or (found.name if found else None)
    if wanted is None:
        raise ModelError(
            f"{path}: {appearance(found, file.state)}, which facekd does not recognise; it knows "
            f"{', '.join(recognizable())}. --name tries another network of facekd, at its usual size"
        )

    backbone = _load(path, wanted, found, file.state)
    framework = "CVLface" if file.is_of_cvlface else found.framework if found else UNKNOWN
    color, color_by = (color, "--color") if color else _color_of(path, framework)
    if color == "bgr":
        _take_rgb(backbone)
    return ImportedBackbone(backbone.eval(), framework, color, color_by, file.others)


def _load(path: Path, name: str, found: BackboneShape | None, state: Mapping[str, torch.Tensor]) -> Backbone:
    """Builds a network around the tensors of a file."""
    from facekd.backbones.building import build_backbone, fixed_embedding_size
    from facekd.checkpoints.models import find_misfit, find_not_finite, load_weights, plan_backbone

    # Compare by the names of the file, in which messages name the tensors.
    sizes: dict[str, Any] = {"embedding_size": fixed_embedding_size(name) or 512}
    if found:
        sizes = {"embedding_size": found.embedding_size, "image_size": found.image_size, "width": found.width}
    try:
        plan = plan_backbone({"name": name, **sizes}).state_dict()
    except ModelError as error:
        raise ModelError(f"{path}: its shapes ask for an impossible backbone: {error}") from error
    names = names_in_file(name, plan)
    if misfit := find_misfit({names[tensor]: value for tensor, value in plan.items() if tensor in names}, state):
        hint = f"; try --name {found.name}" if found and found.name not in (None, name) else ""
        raise ModelError(f"{path}: does not fit {name}, it {appearance(found, state)}{hint}: {misfit}")
    if broken := find_not_finite(state):
        raise ModelError(f"{path}: {broken} holds NaN or infinity, so that training failed; use another file")

    # What the file has no tensor for keeps the value that it has there.
    backbone = build_backbone(name, **sizes)
    fixed = {tensor: value for tensor, value in backbone.state_dict().items() if tensor not in names}
    given = {tensor: state[other] for tensor, other in names.items() if other in state}
    load_weights(backbone, {**fixed, **given}, str(path))
    return backbone


def _color_of(path: Path, framework: str) -> tuple[str, str]:
    """Returns the order of channels that a trainer's networks take, and the file that says so, if one does.

    CVLface writes `color_space` into a .yaml beside the weights.
    """
    beside = path.with_suffix(".yaml")
    if framework == "CVLface" and beside.is_file():
        content = read_yaml(beside)
        stated = content.get("color_space") if isinstance(content, Mapping) else None
        if isinstance(stated, str) and stated.lower() in COLORS:
            return stated.lower(), beside.name
    return ("bgr" if framework == ADAFACE else "rgb"), ""


def _take_rgb(backbone: Backbone) -> None:
    """Reverses the input channels of the first convolution: the network then computes from RGB what it did from BGR."""
    import torch

    first = next(module for module in backbone.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))
