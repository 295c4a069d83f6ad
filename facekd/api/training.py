"""Trains and distils from Python, by a configuration in a file or an object, with the validators that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from torch import nn

from facekd.api.validators import make_validators
from facekd.commands.config_files import parse_config
from facekd.errors import ModelError
from facekd.experiments.command_runner import as_config_options
from facekd.export.export_onnx import ExportReport, export_checkpoint
from facekd.export.options import ExportOptions, JudgingOptions
from facekd.training import api
from facekd.training.api import TrainedRun
from facekd.training.config import DistillConfig, TrainConfig
from facekd.training.logbook import read_log
from facekd.training.logbook.log_file import is_number

Config = TypeVar("Config", TrainConfig, DistillConfig)
Overrides: TypeAlias = Mapping[str, Any]


class Run(TrainedRun):
    """Describes a run after a call, reads its log and exports its network.

    Attributes:
        folder: the folder of the run.
        checkpoint: its newest checkpoint; None if it was stopped before there was one.
        is_complete: whether it has seen all images; if not, a signal stopped it, and the same call goes on.
        backbone: torch module, float (B, 3, S, S) -> (B, D), in evaluation mode: what would be exported.
        head: torch module, the classifier.
        preprocessing: what the backbone expects of its images.
    """

    def log(self, kind: str = "train") -> dict[str, np.ndarray]:
        """Reads what the run has logged, oldest first.

        Args:
            kind: "train" for losses, rate and speed; "validation" for what the validators measured.

        Returns:
            For each number of the log float64 (N,), NaN where an entry has none; `images_seen` is among them.
        """
        entries = read_log(self.folder, kind)
        keys = {key: None for entry in entries for key, value in entry.items() if is_number(value)}
        return {key: np.array([_number(entry.get(key)) for entry in entries]) for key in keys}

    def export(
        self,
        output: str | os.PathLike[str],
        options: ExportOptions | None = None,
        judging: JudgingOptions | None = None,
    ) -> ExportReport:
        """Writes the newest checkpoint as one ONNX file, checked against torch, and its card; see `facekd export`.

        Args:
            output: the `.onnx` file.
            options: how to write it, `facekd.export.options.ExportOptions`.
            judging: the faces that int8 is calibrated on, the packs to judge on, and what a file in fewer bits may
                lose, `facekd.export.options.JudgingOptions`.

        Raises:
            ModelError: there is no checkpoint, the file would not agree with torch, or it loses more than allowed.
            DataError: the faces or the packs cannot be used.
        """
        if self.checkpoint is None:
            raise ModelError(f"{self.folder}: the run was stopped before it had a checkpoint; the same call goes on")
        return export_checkpoint(
            self.checkpoint, output, options or ExportOptions(), judging=judging or JudgingOptions()
        )


def train(
    config: TrainConfig | str | os.PathLike[str],
    overrides: Overrides | None = None,
    *,
    backbone: nn.Module | None = None,
) -> Run:
    """Trains a backbone with a classifier, or goes on with a run, as `facekd train` does.

    Ctrl-C saves a checkpoint and returns; the same call goes on. Under `torchrun` its processes train together.

    Args:
        config: a YAML file, one that facekd ships, such as `configs/debug.yaml` (`facekd configs` lists them), or a
            `TrainConfig`.
        overrides: values for keys of the file, such as `{"data.train": "faces", "schedule.lr": 0.05}`.
        backbone: a module of your own, float (B, 3, S, S) -> (B, D), with `backbone.name` "module" in the
            configuration; it is trained in place. None builds the network that the configuration names.

    Raises:
        FacekdError: what the command would print.
    """
    chosen = _read(TrainConfig, config, overrides, "facekd train")
    return Run(**vars(api.train(chosen, backbone=backbone, validators=make_validators(chosen))))


def distill(
    config: DistillConfig | str | os.PathLike[str],
    overrides: Overrides | None = None,
    *,
    backbone: nn.Module | None = None,
) -> Run:
    """Distils a student from a teacher, or goes on with a run, as `facekd distill` does.

    Args:
        config: a YAML file, one that facekd ships (`facekd configs`), or a `DistillConfig`.
        overrides: see `train`.
        backbone: the student's, see `train`.

    Raises:
        FacekdError: what the command would print.
    """
    chosen = _read(DistillConfig, config, overrides, "facekd distill")
    return Run(**vars(api.distill(chosen, backbone=backbone, validators=make_validators(chosen))))


def _read(config_class: type[Config], config: Any, overrides: Overrides | None, prog: str) -> Config:
    """Returns a configuration, read from a file with other values for some keys, or made of those alone."""
    if isinstance(config, config_class):
        if overrides:
            raise TypeError("overrides are for a file; change the configuration itself by dataclasses.replace")
        return config
    return parse_config(config_class, [os.fspath(config), *as_config_options(dict(overrides or {}))], prog, "")


def _number(value: Any) -> float:
    return float(value) if is_number(value) else np.nan
