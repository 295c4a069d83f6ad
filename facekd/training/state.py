"""Holds everything a training run carries from one step to the next.

Randomness is not part of the state: the order of the images, their augmentation and dropout are functions of the seed
and `images_seen`. What remains is the weights, the optimiser's buffers, the loss scaler and a few counters.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import stored_images_sha256
from facekd.distributed import World, make_scaler, replicate
from facekd.errors import ConfigError
from facekd.training.config import TrainConfig
from facekd.training.freezing import freeze, require_more_than_backbone
from facekd.training.optim import build_optimizer, parameter_groups
from facekd.training.recognizer import Recognizer, build_recognizer
from facekd.utils.environment import why_not_compile_in


@dataclass
class TrainingState:
    """Holds a training run between two steps.

    Attributes:
        recognizer: the backbone and head that are trained; distillation puts a `Distiller` here.
        replica: the recognizer, replicated over the world; the training step calls this one.
        ema: moving average of `recognizer.deployed`, or None.
        losses_since_log: losses of each step since the last log line. Checkpoints keep them, so the log of a resumed
            run equals that of an uninterrupted one.
        bad_records: this rank's skipped records since the last checkpoint; on the main process, all ranks' before it.
    """

    config: TrainConfig
    world: World
    dataset: FaceDataset
    total_images: int
    recognizer: Recognizer
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None
    images_seen: int = 0
    best_accuracy: float = -1.0
    losses_since_log: list[list[float]] = field(default_factory=list)
    bad_records: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Returns the folder of the run."""
        return Path(self.config.output)

    @cached_property
    def images_sha256(self) -> str | None:
        """Returns the fingerprint of the images trained on; None where they are generated."""
        return stored_images_sha256(self.dataset)

    @property
    def evaluated(self) -> nn.Module:
        """Returns the model that is validated and exported: the moving average, if there is one."""
        return self.ema if self.ema is not None else self.recognizer.deployed


def build_state(
    config: TrainConfig, world: World, dataset: FaceDataset, total_images: int, recognizer: Recognizer | None = None
) -> TrainingState:
    """Builds a fresh run, the same on every rank; distillation passes its own recognizer.

    Raises:
        ConfigError: nothing would be trained, in the run or in its warm-up, or code cannot be compiled in safety.
    """
    recognizer = recognizer or build_recognizer(config, world, dataset)

    freeze(recognizer.backbone, config.freeze)
    if config.head_warmup_images:
        require_more_than_backbone(recognizer)

    # Move the module to the device before the optimiser and the average are built on its parameters.
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    recognizer = recognizer.to(world.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    groups = parameter_groups(
        dict(recognizer.named_children()),
        config.optimizer.weight_decay,
        decay_norm_and_bias=config.optimizer.decay_norm_and_bias,
        lr_scales={"backbone": config.optimizer.backbone_lr_factor},
    )
    average = copy.deepcopy(recognizer.deployed).requires_grad_(False).eval() if config.ema_half_life_images else None
    if config.compile:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # takes a second, and few compile

        if (why := why_not_compile_in(Path(default_cache_dir()))) is not None:
            raise ConfigError(f"compile: {why}")
        # In place, so the weights keep their names. The head is not compiled: computed in chunks, it gains nothing.
        recognizer.backbone.compile()

    # Each process trains its own shards of the classes: they must not be averaged over the world.
    own = {id(head.weight) for head in recognizer.sharded_heads}
    own_names = tuple(name for name, parameter in recognizer.named_parameters() if id(parameter) in own)
    return TrainingState(
        config=config,
        world=world,
        dataset=dataset,
        total_images=total_images,
        recognizer=recognizer,
        replica=replicate(recognizer, world, recognizer.rank_invariant_buffers, own_names),
        optimizer=build_optimizer(config.optimizer, groups),
        scaler=make_scaler(world, enabled=config.precision == "fp16"),
        ema=average,
    )
