"""Writes a run's state to its folder and brings it back exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from facekd.backbones import ProjectedBackbone
from facekd.backbones.given_module import GivenModule
from facekd.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from facekd.checkpoints.contents import HEAD_SUFFIX, SUFFIX, Checkpoint, OptimizerState, Progress, ScalerState
from facekd.checkpoints.head_shards import attach_rows, detach_rows, write_rows
from facekd.checkpoints.models import find_misfit, load_weights
from facekd.checkpoints.run_folder import (
    checkpoint_path,
    forget_other_heads,
    heads_of,
    keep_last,
    list_checkpoints,
    not_written,
)
from facekd.commands.places import check_apart, paths_of_data, require_own
from facekd.commands.plain_configs import differences, to_plain, with_defaults
from facekd.commands.yaml_files import read_yaml
from facekd.data.datasets.identity_map import is_same_identity_map, people_fields
from facekd.distributed import failing_together, gather_rows
from facekd.errors import CheckpointError, DataError, FacekdError
from facekd.head.classifier import MarginClassifier
from facekd.plugins import plugins_of, require_plugins
from facekd.training.config import TrainConfig
from facekd.training.logbook.centre_maps import FILE as CENTRES
from facekd.training.logbook.page import DIAGNOSTICS, PAGE
from facekd.training.optim import load_optimizer
from facekd.training.recognizer import Recognizer, backbone_arguments, names_in_tables
from facekd.training.schedule import ScheduleConfig, first_change, learning_rate
from facekd.training.state import TrainingState
from facekd.utils.foreign import shown, some_of
from facekd.utils.wording import counted

CONFIG = "config.yaml"
# Keys that a resumed run may change, because they do not alter what is learnt: where the run computes, what it measures
# and what it keeps. Another batch_size_per_rank or number of processes alters the batches of batch normalisation alone.
RESUMABLE_KEYS = (
    # A run that met no bad record does not depend on `on_bad_record`; one that met one, with `fail`, stopped there.
    *(
        "output",
        "data.train",
        "teacher.model",
        "teacher.head",
        "teacher.cache",
        # Where the first weights came from; the checkpoint has those of now.
        "backbone.weights",
        "backbone.select_weights",
        "backbone.gradient_checkpointing",
        "head.weights",
        "diagnostics",
        "data.workers",
        "data.on_bad_record",
        "data.accept_changed",
    ),
    *("batch_size_per_rank", "device", "compile", "deterministic", "channels_last", "head.sharded"),
    *("validation", "checkpoint", "log_every_images", "logging", "tensorboard"),
)
# Keys that it may change as long as the learning rates of its past steps stay what they were: its length and schedule.
LENGTH_KEYS = ("images", "epochs", "schedule")


def save_state(state: TrainingState, name: str | None = None) -> Path:
    """Writes a checkpoint of the run; returns when every rank may go on.

    Args:
        state: the run.
        name: `"best"` writes `checkpoints/best.pt`; by default the file is named by images seen, and old ones are
            deleted.

    Raises:
        CheckpointError: a rank could not write it; raised on every rank.
    """
    path = checkpoint_path(state.folder, state.images_seen)
    path = path if name is None else path.with_stem(name)

    # Bring together what the ranks hold apart: their bad records, and their shards of the classes.
    lines = gather_rows(np.array(state.bad_records, dtype=object), state.world).tolist()
    state.bad_records = lines if state.world.is_main else []
    head = state.recognizer.head
    checkpoint = _contents(state) if state.world.is_main or state.recognizer.sharded_heads else Checkpoint()
    if isinstance(head, MarginClassifier) and head.shards is not None:
        rows = detach_rows(checkpoint, head, state.optimizer)
        checkpoint.head_shards = write_rows(path, rows, head.shards, state.images_seen)

    # The main process writes the file; then it deletes what the new checkpoint replaces.
    try:
        with failing_together(state.world):
            if state.world.is_main:
                write_checkpoint(path, checkpoint)
                forget_other_heads(path, checkpoint.head_folder)
                if name is None:
                    keep_last(state.folder, state.config.checkpoint.keep)
    except OSError as error:
        raise not_written(path, error) from error
    return path


def _contents(state: TrainingState) -> Checkpoint:
    """Returns what a checkpoint of the run holds."""
    data = state.config.data
    return Checkpoint(
        config={**to_plain(state.config), "backbone": _architecture(state)},
        preprocessing={"mean": list(data.mean), "std": list(data.std), "color": "rgb"},
        **_deployable(state),
        head=state.recognizer.head.state_dict(),
        sub_centers=_sub_centers(state.recognizer.head),
        num_classes=state.dataset.num_classes,
        **people_fields(state.dataset),
        images_sha256=state.images_sha256,
        teacher_fingerprint=state.recognizer.teacher_fingerprint,
        started_from=state.recognizer.started_from or None,
        plugins=plugins_of(names_in_tables(state.config, state.recognizer)) or None,
        training=Progress(
            images_seen=state.images_seen,
            total_images=state.total_images,
            optimizer=cast("OptimizerState", state.optimizer.state_dict()),
            scaler=cast("ScalerState", state.scaler.state_dict()),
            ema=state.ema.state_dict() if state.ema is not None else None,
            best_accuracy=state.best_accuracy,
            extras=_extras(state.recognizer),
            losses_since_log=list(state.losses_since_log),
            bad_records=list(state.bad_records),
        ),
    )


def _architecture(state: TrainingState) -> dict[str, Any]:
    """Returns the arguments that build the backbone; of a module that was given, the name of its class as well."""
    backbone = state.recognizer.backbone
    given = {"class_name": backbone.class_name} if isinstance(backbone, GivenModule) else {}
    return {**backbone_arguments(state.config), **given}


def _sub_centers(head: torch.nn.Module) -> int | None:
    """Returns how many centres each class has; None for one, as for a linear classifier."""
    count = head.config.sub_centers if isinstance(head, MarginClassifier) else 1
    return count if count > 1 else None


def _deployable(state: TrainingState) -> dict[str, Any]:
    """Returns the fields that make the checkpoint a model: backbone and projection, and the moving average of each."""
    found: dict[str, Any] = {}
    fields = ((state.recognizer.deployed, "backbone", "projection"), (state.ema, "ema", "ema_projection"))
    for module, backbone, projection in fields:
        if isinstance(module, ProjectedBackbone):
            found[projection] = module.projection.weight.detach()
            module = module.backbone
        if module is not None:
            found[backbone] = module.state_dict()
    return found


def _extras(recognizer: Recognizer) -> dict[str, torch.Tensor]:
    """Returns what is learnt outside backbone and head, and AdaFace's statistics on a frozen teacher head."""
    kept = {name for name, _ in recognizer.named_buffers()}
    kept |= {name for name, value in recognizer.named_parameters() if value.requires_grad}
    own = ("backbone.", "head.")
    return {name: value for name, value in recognizer.state_dict().items() if name in kept and not name.startswith(own)}


def restore_latest(state: TrainingState) -> Path | None:
    """Restores a fresh state from the newest checkpoint in its folder; returns its path, or None if there is none.

    Raises:
        CheckpointError: the run was started with another config or other data (the message says what differs), or the
            newest checkpoint is damaged.
    """
    found = list_checkpoints(state.folder)
    if not found:
        return None

    # Read the newest checkpoint, and make sure that it belongs to this run.
    path = found[-1]
    with _saying_what_to_do(found), failing_together(state.world):
        checkpoint = read_checkpoint(path)
    training = checkpoint.training
    if training is None or checkpoint.backbone is None or checkpoint.head is None:
        raise CheckpointError(f"{path}: holds weights only, not a run to resume; choose another --output")
    _check_same_run(path, checkpoint, state)
    require_plugins(checkpoint.plugins, names_in_tables(state.config, state.recognizer), str(path))
    _check_given_module(path, checkpoint.backbone, state.recognizer.backbone)

    # Load the weights, the optimiser, the loss scaler and the counters.
    with _saying_what_to_do(found):
        _load_weights(path, checkpoint, state)
        _load_training(path, training, state)
    state.recognizer.started_from = checkpoint.started_from or {}
    return path


def _check_given_module(path: Path, weights: Mapping[str, torch.Tensor], backbone: torch.nn.Module) -> None:
    """Refuses a module of the caller's own that is not the one that the run began with."""
    if isinstance(backbone, GivenModule) and (misfit := find_misfit(backbone.state_dict(), weights)):
        raise CheckpointError(
            f"{path}: the module that was given ({backbone.class_name}) is not that of the run: {misfit}. Give the "
            "same, or another output to start anew"
        )


def _load_weights(path: Path, checkpoint: Checkpoint, state: TrainingState) -> None:
    """Loads all that is learnt; the rows of a sharded head lie in files of their own."""
    training, head = checkpoint.training, state.recognizer.head
    assert training is not None and checkpoint.backbone is not None and checkpoint.head is not None
    load_weights(state.recognizer.backbone, checkpoint.backbone, f"{path}: backbone")
    if isinstance(head, MarginClassifier):
        attach_rows(path, checkpoint, head, state.optimizer)
    load_weights(head, checkpoint.head, f"{path}: head")
    if state.ema is not None:
        load_weights(state.ema, training.ema or {}, f"{path}: moving average")

    # An older file may lack some of what is beside the two.
    own = _extras(state.recognizer)
    extras = {name: value for name, value in training.extras.items() if name in own}
    if misfit := find_misfit({name: own[name] for name in extras}, extras):
        raise CheckpointError(f"{path}: what was learnt beside backbone and head does not fit the run: {misfit}")
    state.recognizer.load_state_dict(extras, strict=False)


def _load_training(path: Path, training: Progress, state: TrainingState) -> None:
    """Loads the optimiser, the loss scaler and the counters."""
    fault = load_optimizer(state.optimizer, training.optimizer)
    if not fault and state.scaler.is_enabled() and training.scaler.keys() != state.scaler.state_dict().keys():
        fault = f"its scaler has {some_of(training.scaler)}, expected {', '.join(state.scaler.state_dict())}"
    if not fault and {len(losses) for losses in training.losses_since_log} - {len(state.recognizer.loss_names)}:
        fault = (
            f"its 'training.losses_since_log' has not {counted(len(state.recognizer.loss_names), 'loss')} for each step"
        )
    if fault:
        raise CheckpointError(f"{path}: damaged, or of another run: {fault}")
    state.scaler.load_state_dict(dict(training.scaler))
    state.images_seen = training.images_seen
    state.best_accuracy = training.best_accuracy
    state.losses_since_log = training.losses_since_log
    state.bad_records = training.bad_records if state.world.is_main else []


@contextlib.contextmanager
def _saying_what_to_do(found: list[Path]) -> Iterator[None]:
    """Adds to an error about the newest checkpoint how to continue without it."""
    try:
        yield
    except CheckpointError as error:
        then = f"resumes from {found[-2].name}" if len(found) > 1 else "starts anew"
        raise CheckpointError(f"{error}. Delete {found[-1].name} and the same command {then}") from error


def _check_same_run(path: Path, checkpoint: Checkpoint, state: TrainingState) -> None:
    """Checks that config, teacher and data are those of the run that wrote the checkpoint."""
    new = {**to_plain(state.config), "backbone": {**_architecture(state), **to_plain(state.config.backbone)}}
    old = with_defaults(checkpoint.config, type(state.config))
    changed = {
        key: f"{shown(key)} was {shown(before)}, now {shown(after)}"
        for key, (before, after) in differences(old, new).items()
        if not _is_among(re.sub(r"^teachers\.\d+\.", "teacher.", key), RESUMABLE_KEYS)
    }
    of_length = [what for key, what in changed.items() if _is_among(key, LENGTH_KEYS)]
    others = [what for key, what in changed.items() if not _is_among(key, LENGTH_KEYS)]
    # Another length or schedule is fine as long as it would not have changed the past.
    reason = ""
    if of_length and not others and checkpoint.training is not None:
        reason = _conflict_of_lengths(checkpoint.training, old["schedule"], state)
    if others or reason:
        raise CheckpointError(
            f"{state.folder} holds a run with another configuration: {'; '.join(others + of_length)}{reason}. "
            "Give the old values to resume it, or another --output to start anew"
        )
    fingerprint = checkpoint.teacher_fingerprint or ""
    if fingerprint != state.recognizer.teacher_fingerprint:
        raise CheckpointError(
            f"{path}: the run in this folder learnt from another teacher (fingerprint "
            f"{fingerprint[:12]}, now {state.recognizer.teacher_fingerprint[:12]}). Give the same, "
            "or another --output to start anew"
        )
    if not is_same_identity_map(checkpoint.identity_map, state.dataset):
        raise CheckpointError(
            f"{path}: the run in this folder was trained on other data "
            f"({counted(checkpoint.num_classes, 'identity')}, now {state.dataset.num_classes} in "
            f"{state.dataset.name}; labels or names differ). Give the same data, or another --output to start anew"
        )
    _check_images(path, checkpoint, state)


def _check_images(path: Path, checkpoint: Checkpoint, state: TrainingState) -> None:
    """Checks that the images are those of the run that wrote the checkpoint; files of an older facekd do not say.

    With `data.accept_changed`, a warning takes the place of the error.
    """
    if checkpoint.images_sha256 in (None, state.images_sha256):
        return
    what = f"the images of {state.dataset.name} are not those that the run was trained on so far, under the same labels"
    if state.config.data.accept_changed:
        state.dataset.warnings.append(f"{what}; it goes on because of data.accept_changed")
        return
    raise CheckpointError(
        f"{path}: {what}: they, or their order, were replaced, some were damaged, or they were "
        "encoded or cropped anew. Give the same images, or go on with these by "
        "--data.accept_changed true, or start anew in another --output"
    )


def _is_among(key: str, allowed: tuple[str, ...]) -> bool:
    """Tells whether a dotted key is one of those allowed, or lies in one of the sections allowed."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def _conflict_of_lengths(training: Progress, old_schedule: dict[str, Any], state: TrainingState) -> str:
    """Says why a run cannot get the length and schedule of the new config; empty if it can."""
    # It cannot end before where it is.
    if training.images_seen > state.total_images:
        return f"; it has seen {counted(training.images_seen, 'image')}, and cannot end at {state.total_images:,}"

    # It must have had the learning rates that a run begun with the new config would have had.
    known = {item.name for item in dataclasses.fields(ScheduleConfig)}
    try:
        before = ScheduleConfig(**{name: value for name, value in old_schedule.items() if name in known})
    except (FacekdError, TypeError, ValueError) as error:
        raise CheckpointError(f"{state.folder}: its checkpoint is damaged: its config.schedule: {error}") from error
    after = state.config.schedule
    steps = range(0, training.images_seen, state.config.global_batch_size)
    image = first_change(before, training.total_images, after, state.total_images, steps)
    if image is None:
        return ""
    rates = learning_rate(before, image, training.total_images), learning_rate(after, image, state.total_images)
    return (
        f"; its learning rate so far would have been another, {rates[1]:.4g} at image {image:,} where it was "
        f"{rates[0]:.4g}. Only with schedule.name constant, or step with milestones in images, can a run be made "
        "longer at any time; linear, cosine and polynomial fall over the whole length"
    )


def check_run_folder(config: TrainConfig) -> None:
    """Refuses a folder for a new run that lies in the training images, or has files of others where a run has its own.

    A folder that has a run already is left to `restore_latest`, wherever it lies.

    Raises:
        DataError: it is refused.
    """
    folder = Path(config.output)
    if (folder / "log.jsonl").exists() or (folder / "checkpoints").exists():
        return
    check_apart(folder, *paths_of_data(config.data.train), *map(Path, config.validation.packs), names=())
    # A run that was stopped at once has left no more than its configuration, which the next one writes anew.
    file = folder / CONFIG
    if file.exists() and not _is_of_a_run(file, config):
        raise DataError(
            f"{file}: is there already, and the configuration of the run would replace it; choose another --output, or "
            "another name for this file"
        )
    for name in (PAGE, DIAGNOSTICS, CENTRES):
        require_own(folder / name, "facekd train", ())


def _is_of_a_run(file: Path, config: TrainConfig) -> bool:
    """Tells whether a file is a configuration as runs write it: with every section, where people write a few."""
    try:
        found = read_yaml(file)
    except (OSError, FacekdError):
        return False
    return isinstance(found, dict) and found.keys() >= to_plain(config).keys()


def delete_leftovers(run_folder: Path) -> None:
    """Deletes half-written files that a process killed while saving left behind; only the owner of the folder may."""
    folder = run_folder / "checkpoints"
    for path in folder.glob(f".*.tmp{SUFFIX}"):
        path.unlink(missing_ok=True)
    for path in folder.glob(f".*.tmp{HEAD_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)
    for stem in {path.name.removesuffix(HEAD_SUFFIX).split("-")[0] for path in folder.glob(f"[!.]*{HEAD_SUFFIX}")}:
        path = folder / f"{stem}{SUFFIX}"
        if not path.exists():
            forget_other_heads(path, None)
        elif len(heads_of(path)) > 1:
            with contextlib.suppress(CheckpointError):  # an unreadable checkpoint names no folder: keep all
                forget_other_heads(path, read_checkpoint(path).head_folder)
