"""Loads backbones and whole models from checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facekd.backbones import Backbone, ProjectedBackbone, can_fold_projection, fold_projection
from facekd.backbones.backbone import NoRandomNumbers
from facekd.backbones.building import build_backbone, fixed_embedding_size, network_of
from facekd.backbones.given_module import GIVEN, GivenModule
from facekd.backbones.library_models import PREFIX, require_timm
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.errors import CheckpointError, ModelError
from facekd.images.preprocessing import Preprocessing
from facekd.plugins import require_plugins
from facekd.quality.head import QualityHead, ScoredBackbone
from facekd.utils.foreign import shown, some_of

LARGEST_EMBEDDING = 8192  # values; a projection to more would make a network far larger than its file
PREPROCESSING_KEYS = {"mean": None, "std": None, "color": None}.keys()
MOST_HIDDEN = 65_536  # values between the two layers of a quality head
MIN_WEIGHT_BYTES = 2  # bytes of a number; one of 8 bits means nothing without its scale


def load_backbone(
    path: str | os.PathLike[str], *, ema: bool | None = None, module: nn.Module | None = None, scored: bool = False
) -> tuple[nn.Module, Preprocessing]:
    """Builds the backbone of a checkpoint in evaluation mode, and returns it with its preprocessing.

    Args:
        path: a checkpoint, or the folder of a run.
        ema: True takes the moving average, False the weights as trained; None takes the average if there is one.
        module: for a run of `facekd.training.api` with a network of its own: such a network, which gets the weights.
        scored: return a `ScoredBackbone` if the checkpoint has a quality head.

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

    if str(architecture.get("name")).startswith(PREFIX):
        require_timm(f"{architecture['name']} of {file}")
    require_plugins(checkpoint.plugins, [f"backbone {architecture.get('name')}"], str(file))

    # The moving average if there is one, unless the weights as trained are asked for.
    weights, projection = checkpoint.backbone, checkpoint.projection
    if checkpoint.ema and ema is not False:
        weights, projection = checkpoint.ema, checkpoint.ema_projection
    backbone = _build(file, architecture, weights, module)
    load_weights(backbone, weights, f"{file}: backbone")
    module = backbone if projection is None else _with_projection(backbone, architecture, projection, file)
    if scored and checkpoint.quality_head is not None:
        size = backbone.embedding_size if projection is None else len(projection)
        module = ScoredBackbone(module, _build_quality_head(checkpoint.quality_head, size, file))
    if broken := find_not_finite(module.state_dict()):
        raise CheckpointError(
            f"{file}: {broken} holds NaN or infinity: take an earlier checkpoint, from before the training broke"
        )
    return module.eval(), _preprocessing(file, checkpoint, backbone.image_size)


def _build(
    file: Path, architecture: Mapping[str, Any], weights: Mapping[str, torch.Tensor], module: nn.Module | None
) -> Backbone:
    """Builds the backbone of a checkpoint, once its weights are known to fit it; or takes the module that is given."""
    if (architecture["name"] == GIVEN) != (module is not None):
        given = shown(architecture.get("class_name", ""))
        raise CheckpointError(
            f"{file}: its backbone is {architecture['name']}, which facekd builds: leave the module out"
            if module is not None
            else f"{file}: its backbone is a module that its training was given ({given}), which facekd cannot build. "
            "In Python give it again, to `facekd.checkpoints.models.load_backbone(path, module=...)`, or to "
            "`facekd.training.api.train` to resume; for the commands, make it a plug-in (docs/extending.md)"
        )
    if module is not None:
        return GivenModule(module, architecture.get("embedding_size", 512), architecture.get("image_size", 112))
    try:
        require_fit(plan_backbone(architecture).state_dict(), weights, f"{file}: backbone")
    except ModelError as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
    return build_backbone(**architecture)


def plan_backbone(architecture: Mapping[str, Any]) -> Backbone:
    """Builds a backbone without numbers, on the device meta, for `find_misfit`: it takes no memory, whatever its size.

    A plug-in's network is built as it is, because not every network can be built without numbers.

    Args:
        architecture: the arguments of `build_backbone`, which a stranger's file may state.

    Raises:
        ModelError: they are impossible.
    """
    network = network_of(architecture["name"])
    if not network.__module__.startswith("facekd."):
        return build_backbone(**architecture)
    try:
        with torch.device("meta"), NoRandomNumbers():
            return build_backbone(**architecture)
    except (RuntimeError, OverflowError, TypeError) as error:  # of torch, for sizes beyond 64 bits
        raise ModelError("the sizes of its backbone are far beyond any network") from error


def _with_projection(
    backbone: Backbone, architecture: Mapping[str, Any], projection: torch.Tensor, file: Path
) -> nn.Module:
    """Folds a projection into the last layer of a backbone, or puts it behind one that has no such layer."""
    if not (projection.ndim == 2 and projection.is_floating_point() and 1 <= len(projection) <= LARGEST_EMBEDDING):
        raise CheckpointError(
            f"{file}: damaged: its projection is {_type_of(projection)} {tuple(projection.shape)}, expected numbers "
            f"of shape (E, {backbone.embedding_size}), with E up to {LARGEST_EMBEDDING:,}"
        )
    layer = nn.Linear(projection.shape[1], len(projection), bias=False)
    layer.load_state_dict({"weight": projection})
    try:
        is_built = backbone.name != GIVEN and fixed_embedding_size(backbone.name) is None
        if is_built and can_fold_projection(backbone):
            folded = build_backbone(**{**architecture, "embedding_size": len(projection)})
            return fold_projection(backbone, projection, folded)
        return ProjectedBackbone(backbone, layer)
    except ModelError as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def _build_quality_head(state: Mapping[str, torch.Tensor], embedding_size: int, file: Path) -> QualityHead:
    """Builds a quality head, once its weights are known to be those of one."""
    hidden = state.get("hidden.bias")
    count = len(hidden) if hidden is not None and hidden.ndim == 1 else 0
    what = f"{file}: quality_head"
    if not 1 <= count <= MOST_HIDDEN:
        raise CheckpointError(f"{what} is damaged: expected 1 to {MOST_HIDDEN:,} hidden values, found {count:,}")
    head = QualityHead(embedding_size, count)
    if misfit := find_misfit(head.state_dict(), state):
        raise CheckpointError(
            f"{what} does not fit the backbone: {misfit}. Make it again: `facekd train-quality RUN --data PACK "
            "--output OUT.pt`"
        )
    head.load_state_dict(state)
    return head


def _preprocessing(file: Path, checkpoint: Checkpoint, image_size: int) -> Preprocessing:
    found = checkpoint.input_preprocessing
    if found.keys() != PREPROCESSING_KEYS:
        raise CheckpointError(
            f"{file}: damaged: its preprocessing has {some_of(found)}, expected {', '.join(PREPROCESSING_KEYS)}"
        )
    try:
        return Preprocessing(**found, image_size=image_size)
    except ModelError as error:
        raise CheckpointError(f"{file}: damaged: its preprocessing: {error}") from error


def find_not_finite(weights: Mapping[str, torch.Tensor]) -> str:
    """Returns the name of the first tensor with a value that is NaN or infinite; empty if there is none."""
    return next((shown(name) for name, value in weights.items() if not bool(torch.isfinite(value).all())), "")


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Loads a state dict exactly: every name and shape must match, see `find_misfit`.

    Args:
        module: takes the weights.
        weights: the state dict.
        what: beginning of the error message, `"run/checkpoints/000.pt: backbone"`.

    Raises:
        CheckpointError: the tensors do not fit; names the first of them.
    """
    own = module.state_dict()
    require_fit(own, weights, what)
    module.load_state_dict({**{name: value for name, value in own.items() if _is_counter(name)}, **weights})


def require_fit(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuses weights that do not fit a network's state dict; see `load_weights`."""
    if misfit := find_misfit(own, weights):
        raise CheckpointError(
            f"{what} does not fit this architecture: {misfit}. "
            "The checkpoint was made with another backbone, width, embedding size or number of classes"
        )


def find_misfit(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> str:
    """Compares the names, shapes and types of weights with those of a network, which may be on the device meta.

    Floating-point weights may have another precision, but whole numbers, booleans and complex numbers are no weights.
    Old files lack the counters of batch normalisations, which are only used when their momentum is None.

    Returns:
        Up to five tensors of each kind that do not fit, as `tensors 1 missing (conv1.weight)`; empty if all fit.
    """
    both = [(name, value, weights[name]) for name, value in own.items() if name in weights]
    problems = {
        "missing": [name for name in own if name not in weights and not _is_counter(name)],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} is {tuple(found.shape)}, expected {tuple(expected.shape)}"
            for name, expected, found in both
            if found.shape != expected.shape
        ],
        "of another type": [
            f"{name} is {_type_of(found)}, expected {_type_of(expected)}"
            for name, expected, found in both
            if _is_of_another_type(found, expected)
        ],
    }
    listed = [f"{len(names)} {kind} ({some_of(names, 5)})" for kind, names in problems.items() if names]
    return f"tensors {', '.join(listed)}" if listed else ""


def _is_of_another_type(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if expected.is_floating_point():
        return not found.is_floating_point() or found.dtype.itemsize < MIN_WEIGHT_BYTES
    return found.dtype != expected.dtype


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _type_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
