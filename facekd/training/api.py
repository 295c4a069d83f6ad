"""Trains and distils from Python, with a network of facekd or a torch module of your own.

    from facekd.data.config import DataConfig
    from facekd.backbones.config import BackboneConfig
    from facekd.training.api import train
    from facekd.training.config import TrainConfig

    network = MyNetwork()  # float (B, 3, S, S) -> (B, 256)
    config = TrainConfig(
        output="runs/mine",
        data=DataConfig(train="ms1mv3", image_size=112),
        backbone=BackboneConfig(name="module", embedding_size=256),
    )
    run = train(config, backbone=network)
    run.backbone, run.head, run.checkpoint

The same call resumes a run, as the same command does. Under `torchrun` its processes train together. Paths are taken as
they are: `~` is not expanded. Errors are those of facekd/errors.py; Ctrl-C saves a checkpoint and returns.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from facekd.checkpoints.run_folder import list_checkpoints
from facekd.images.preprocessing import Preprocessing
from facekd.training.config import DistillConfig, TrainConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.distilling.diagnostics import diagnose
from facekd.training.loop import AtEnd, run_training
from facekd.training.recognizer import Recognizer, build_recognizer
from facekd.training.state import TrainingState
from facekd.training.validation import HeadValidator, Validator

Validators = Sequence[Validator | HeadValidator]


@dataclass(frozen=True)
class TrainedRun:
    """Describes a run after a call.

    Attributes:
        folder: the folder of the run.
        checkpoint: its newest checkpoint; None if it was stopped before there was one.
        is_complete: whether it has seen all images; if not, a signal stopped it, and the same call goes on.
        backbone: float (B, 3, S, S) -> (B, D), in evaluation mode, on the run's device: what would be exported, so the
            moving average if there is one, and with a projection that the student's embeddings are compared by. The
            module that was given holds the weights as trained; of a run that was stopped, so does this.
        head: the classifier.
        preprocessing: what the backbone expects of its images.
    """

    folder: Path
    checkpoint: Path | None
    is_complete: bool
    backbone: nn.Module
    head: nn.Module
    preprocessing: Preprocessing


def train(config: TrainConfig, *, backbone: nn.Module | None = None, validators: Validators = ()) -> TrainedRun:
    """Trains a backbone with a classifier, or goes on with a run, as `facekd train` does.

    Args:
        config: the configuration.
        backbone: a module of your own, float (B, 3, S, S) -> (B, D), with `backbone.name` "module" in the config; it is
            trained in place, from the weights that it has, and put into training mode first if it is in evaluation mode
            as a whole. None builds the network that the config names.
        validators: measure during training, such as `evaluation.validators.PairSetValidator`; given here, because
            training knows no benchmark.

    Raises:
        FacekdError: what the command would print.
    """
    return _run(config, build_recognizer, backbone, validators)


def distill(config: DistillConfig, *, backbone: nn.Module | None = None, validators: Validators = ()) -> TrainedRun:
    """Distils a student from a teacher, or goes on with a run, as `facekd distill` does.

    Args:
        config: the configuration.
        backbone: the student's, see `train`.
        validators: see `train`.

    Raises:
        FacekdError: what the command would print.
    """
    return _run(config, build_distiller, backbone, validators, diagnose)


def _run(
    config: Any,
    build: Callable[..., Recognizer],
    backbone: nn.Module | None,
    validators: Validators,
    at_end: AtEnd | None = None,
) -> TrainedRun:
    """Runs a config and keeps hold of what it trains."""
    config = _with_text_paths(config)
    # The recognizer is at hand from the start, the state, with the moving average, once the run is complete.
    recognizers: list[Recognizer] = []
    states: list[TrainingState] = []

    def make(*arguments: Any) -> Recognizer:
        recognizers.append(build(*arguments, module=backbone))
        return recognizers[0]

    def keep(state: TrainingState, logbook: Any) -> None:
        states.append(state)
        if at_end is not None:
            at_end(state, logbook)

    prog = "train(config, validators=[evaluation.validators.PairSetValidator(PACK)])"
    # What `freeze` keeps, it keeps in this run: the next one may train all of the module.
    learns = [(part, part.requires_grad) for part in backbone.parameters()] if isinstance(backbone, nn.Module) else []
    try:
        status = run_training(config, prog, make, partial(_given, validators) if validators else None, keep)
    finally:
        for part, is_learning in learns:
            part.requires_grad_(is_learning)

    # What it has become.
    folder, data = Path(config.output), config.data
    found = list_checkpoints(folder)
    return TrainedRun(
        folder=folder,
        checkpoint=found[-1] if found else None,
        is_complete=status == 0,
        backbone=(states[0].evaluated if states else recognizers[0].deployed).eval(),
        head=recognizers[0].head.eval(),
        preprocessing=Preprocessing(tuple(data.mean), tuple(data.std), "rgb", data.image_size),
    )


def _with_text_paths(config: Any) -> Any:
    """Returns a config whose paths are texts, as checkpoints and YAML hold them, where Python code gave `Path`."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            changed[item.name] = _with_text_paths(value)
        elif "entries" in item.metadata:
            changed[item.name] = tuple(map(_with_text_paths, value))
        elif item.metadata.get("path"):
            is_one = isinstance(value, str | os.PathLike)
            changed[item.name] = os.fspath(value) if is_one else tuple(map(os.fspath, value))
    return dataclasses.replace(config, **changed)


def _given(validators: Validators, _config: Any) -> Validators:
    return validators
