"""Keeps parts of a backbone as they are: for the whole run (`freeze`), or at its beginning (`head_warmup_images`).

A part that is kept has no gradient and is in evaluation mode, so that the statistics of its normalisations stay, too,
and nothing is dropped in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import nn

from facekd.backbones import Backbone
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.training.recognizer import Recognizer
    from facekd.training.state import TrainingState


def freeze(backbone: nn.Module, names: Sequence[str]) -> None:
    """Takes the gradient from parts of a backbone.

    Args:
        backbone: changed in place.
        names: `backbone` for all of it, `norms` for its batch normalisations, and keys of its `parts`.
    """
    for module in _modules(backbone, names):
        module.requires_grad_(False)


def require_more_than_backbone(recognizer: Recognizer) -> None:
    """Checks that the head's warm-up has something to train.

    Raises:
        ConfigError: all but the backbone is frozen.
    """
    inside = {id(parameter) for parameter in recognizer.backbone.parameters()}
    if not any(p.requires_grad for p in recognizer.parameters() if id(p) not in inside):
        raise ConfigError(
            "head_warmup_images trains what is beside the backbone, and in this run all of that is frozen (a shared "
            "classifier): remove head_warmup_images"
        )


def set_training_mode(state: TrainingState) -> None:
    """Puts the backbone into training mode, and what is kept as it is in this step into evaluation mode."""
    config, backbone = state.config, state.recognizer.backbone
    if not (config.freeze or config.head_warmup_images):
        return
    backbone.train(not is_head_warmup(state))
    for module in _modules(backbone, config.freeze):
        if isinstance(module, nn.Module):
            module.eval()


def is_head_warmup(state: TrainingState) -> bool:
    """Tells whether only the classifier learns in the step that comes next."""
    return state.images_seen < state.config.head_warmup_images


def with_whole_backbone(state: TrainingState, loss: torch.Tensor) -> torch.Tensor:
    """Adds all parameters of the backbone to a loss in the head's warm-up, times 0.

    What has no part in evaluation mode, such as the token that stands for those left out, would get no gradient, for
    which processes that exchange gradients would wait in vain.
    """
    if not is_head_warmup(state):
        return loss
    return loss + 0 * sum(p.sum() for p in state.recognizer.backbone.parameters() if p.requires_grad)


def drop_kept_gradients(state: TrainingState) -> None:
    """Drops the gradients of the backbone in the head's warm-up, so that no optimiser moves or decays it.

    They are computed all the same: processes that exchange gradients expect those of the same parameters in every step.
    """
    if is_head_warmup(state):
        for parameter in state.recognizer.backbone.parameters():
            parameter.grad = None


def _modules(backbone: nn.Module, names: Sequence[str]) -> Iterator[nn.Module | nn.Parameter]:
    for name in names:
        if name == "backbone":
            yield backbone
        elif name == "norms":
            yield from (module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._NormBase))
        else:
            assert isinstance(backbone, Backbone)
            yield from (attrgetter(path)(backbone) for path in backbone.parts[name])
