"""Loads backbones and whole models from checkpoints."""

from __future__ import annotations

import os

import torch
from torch import nn

from facekd.backbones import ProjectedBackbone, fold_projection
from facekd.backbones.building import build_backbone, fixed_embedding_size
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.errors import CheckpointError
from facekd.images.preprocessing import Preprocessing
from facekd.plugins import require_plugins


def load_backbone(path: str | os.PathLike[str], *, ema: bool | None = None) -> tuple[nn.Module, Preprocessing]:
    """Builds the backbone of a checkpoint in evaluation mode, and returns it with its preprocessing.

    Args:
        path: a checkpoint, or the folder of a run.
        ema: True takes the moving average, False the weights as trained; None takes the average if there is one.

    Raises:
        CheckpointError: see `read_checkpoint`; also if the weights do not fit the architecture, or `ema` asks for
            a moving average that is not there.
    """
    file = resolve_checkpoint(path)
    checkpoint = read_checkpoint(file)
    if checkpoint.backbone is None:
        raise CheckpointError(f"{file}: holds no backbone, only a head; it was written by `facekd rebuild-head`")
    if ema and not checkpoint.ema:
        raise CheckpointError(f"{file}: holds no moving average; train with --ema_half_life_images, or leave out --ema")
    architecture = checkpoint.architecture
    if architecture is None:
        raise CheckpointError(f"{file}: damaged: it does not say which backbone its weights belong to")

    require_plugins(checkpoint.plugins, [f"backbone {architecture.get('name')}"], str(file))

    # The moving average if there is one, unless the weights as trained are asked for.
    weights, projection = checkpoint.backbone, checkpoint.projection
    if checkpoint.ema and ema is not False:
        weights, projection = checkpoint.ema, checkpoint.ema_projection
    backbone = build_backbone(**architecture)
    load_weights(backbone, weights, f"{file}: backbone")

    # Fold a projection into the last layer, or put it behind a backbone that has none.
    if projection is not None and fixed_embedding_size(architecture["name"]) is not None:
        layer = nn.Linear(projection.shape[1], len(projection), bias=False)
        layer.load_state_dict({"weight": projection})
        backbone = ProjectedBackbone(backbone, layer)
    elif projection is not None:
        folded = build_backbone(**{**architecture, "embedding_size": len(projection)})
        backbone = fold_projection(backbone, projection, folded)
    return backbone.eval(), Preprocessing(**checkpoint.input_preprocessing, image_size=architecture["image_size"])


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], what: str) -> None:
    """Loads a state dict exactly: every name and shape must match.

    Args:
        module: takes the weights.
        weights: the state dict.
        what: beginning of the error message, `"run/checkpoints/000.pt: backbone"`.

    Raises:
        CheckpointError: the tensors do not fit; names the first of them.
    """
    # Compare names and shapes.
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]

    # The message lists up to five tensors of each kind.
    problems = [
        f"{len(found)} {label} ({'; '.join(found[:5])}{', ...' if len(found) > 5 else ''})"
        for label, found in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{what} does not fit this architecture: tensors {', '.join(problems)}. "
            "The checkpoint was made with another backbone, width, embedding size or number of classes"
        )
    module.load_state_dict(weights)
