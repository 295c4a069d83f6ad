"""Loads backbones and whole models from checkpoints."""

from __future__ import annotations

import os

import torch
from torch import nn

from facekd.backbones import ProjectedBackbone, fold_projection
from facekd.backbones.building import build_backbone, fixed_embedding_size
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.errors import CheckpointError
from facekd.images.preprocessing import Preprocessing


def load_backbone(path: str | os.PathLike[str], *, ema: bool | None = None) -> tuple[nn.Module, Preprocessing]:
    """Build the backbone of a checkpoint, in `eval()` mode, with its preprocessing.

    Args:
        path: a checkpoint, or the folder of a run.
        ema: True asks for the moving average, False for the weights as trained; None takes the average if there is one.

    Raises:
        CheckpointError: see `load_checkpoint`; also when the weights do not fit the recorded architecture.
    """
    file = resolve_checkpoint(path)
    content = load_checkpoint(file)
    if "backbone" not in content:
        raise CheckpointError(f"{file}: holds no backbone; it was written by `facekd rebuild-head`, and is a head only")
    if ema and not content.get("ema"):
        raise CheckpointError(f"{file}: holds no moving average; train with --ema_half_life_images, or leave out --ema")
    if not isinstance(content.get("config"), dict) or "backbone" not in content["config"]:
        raise CheckpointError(f"{file}: damaged: it does not say which backbone its weights are of")
    is_average = bool(content.get("ema")) and ema is not False
    architecture = content["config"]["backbone"]
    backbone = build_backbone(**architecture)
    load_weights(backbone, content["ema" if is_average else "backbone"], f"{file}: backbone")
    projection = content.get("ema_projection" if is_average else "projection")
    if projection is not None and fixed_embedding_size(architecture["name"]) is not None:
        layer = nn.Linear(projection.shape[1], len(projection), bias=False)
        layer.load_state_dict({"weight": projection})
        backbone = ProjectedBackbone(backbone, layer)  # no last layer to fold it into
    elif projection is not None:
        folded = build_backbone(**{**architecture, "embedding_size": len(projection)})
        backbone = fold_projection(backbone, projection, folded)
    image_size = content["config"]["backbone"]["image_size"]
    recorded = content.get("preprocessing") or content["config"]["preprocessing"]
    return backbone.eval(), Preprocessing(**recorded, image_size=image_size)


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], what: str) -> None:
    """Load a state dict, exactly: every name and shape must match.

    Args:
        what: begins the message, `"run/checkpoints/000.pt: backbone"`.

    Raises:
        CheckpointError: naming the first tensors that do not fit.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [
        f"{len(found)} {label} ({'; '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for label, found in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{what} does not fit this architecture: tensors {', '.join(problems)}. "
            "The checkpoint was made with another backbone, width, embedding size or number of classes"
        )
    module.load_state_dict(weights)
