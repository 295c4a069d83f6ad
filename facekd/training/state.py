"""Everything a training run holds between two steps, and how it is saved and restored exactly.

Randomness is not part of it: the order of images, their augmentation and dropout are functions of the seed and
`images_seen`, so the state is the weights, the optimiser's buffers, the AMP scaler and a few counters.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from facekd.data.datasets import FaceDataset
from facekd.distributed import World, make_scaler, replicate
from facekd.training.config import TrainConfig
from facekd.training.optim import build_optimizer, parameter_groups
from facekd.training.recognizer import Recognizer, build_recognizer


@dataclass
class TrainingState:
    """A run between two steps."""

    config: TrainConfig
    world: World
    dataset: FaceDataset
    total_images: int
    recognizer: Recognizer  # or what distillation puts in its place, with the same two parts and more
    replica: nn.Module  # what is called in training: the recognizer, replicated over the world
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None  # moving average of `recognizer.deployed`
    images_seen: int = 0
    best_accuracy: float = -1.0
    # Losses since the last log line; kept in checkpoints so that the log of a resumed run is the uninterrupted one's.
    losses_since_log: list[list[float]] = field(default_factory=list)
    # This rank's since the last checkpoint; on the main process also everyone's up to it.
    bad_records: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.output)

    @property
    def evaluated(self) -> nn.Module:
        """What validation judges and export takes, images to embeddings: the moving average where there is one."""
        return self.ema if self.ema is not None else self.recognizer.deployed


def build_state(
    config: TrainConfig, world: World, dataset: FaceDataset, total_images: int, recognizer: Recognizer | None = None
) -> TrainingState:
    """A fresh run, the same on every rank; with a recognizer of its own where it is not plain training."""
    recognizer = recognizer or build_recognizer(config, world, dataset)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    recognizer = recognizer.to(world.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    groups = parameter_groups(
        dict(recognizer.named_children()),
        config.optimizer.weight_decay,
        decay_norm_and_bias=config.optimizer.decay_norm_and_bias,
    )
    average = copy.deepcopy(recognizer.deployed).requires_grad_(False).eval() if config.ema_half_life_images else None
    if config.compile:
        recognizer.backbone.compile()  # in place, its weights keep their names; a head in chunks gains nothing
    own = {id(head.weight) for head in recognizer.sharded_heads}
    own_names = tuple(name for name, parameter in recognizer.named_parameters() if id(parameter) in own)
    return TrainingState(
        config=config,
        world=world,
        dataset=dataset,
        total_images=total_images,
        recognizer=recognizer,
        replica=replicate(recognizer, world, recognizer.same_everywhere, own_names),
        optimizer=build_optimizer(config.optimizer, groups),
        scaler=make_scaler(world, enabled=config.precision == "fp16"),
        ema=average,
    )
