"""Defines what a training or a distillation is configured by. Nothing here needs torch."""

from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.train_config import TrainConfig

__all__ = ["DistillConfig", "TrainConfig"]
