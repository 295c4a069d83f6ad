"""Trains from a config to the last image: the while loop of fetch, step, log, validate, save, and what surrounds it.

`run_training` is what every verb that trains calls; `train` runs one config; `fit` is the loop itself.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from facekd.backbones import count_parameters
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.data.config import open_training_data
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import BatchLoader, make_loader, usable_cores
from facekd.data.loading.sampler import PositionSampler
from facekd.distributed import (
    World,
    broadcast_from_main,
    join_world,
)
from facekd.errors import TrainingError
from facekd.training.config import TrainConfig
from facekd.training.logbook import Logbook, Stopwatch, Timer, train_line
from facekd.training.recognizer import Recognizer, build_recognizer
from facekd.training.resume import delete_leftovers, restore_latest, save_state
from facekd.training.schedule import learning_rate
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step
from facekd.training.validation import HeadValidator, Validator, validate
from facekd.utils.config_files import to_yaml
from facekd.utils.files import write_text
from facekd.utils.locks import folder_lock
from facekd.utils.processes import stop_on_signal
from facekd.utils.progress import SECONDS_BETWEEN_LINES

MakeValidators = Callable[[Any], Sequence[Validator | HeadValidator]]
MakeRecognizer = Callable[[Any, World, FaceDataset], Recognizer]
AtEnd = Callable[[TrainingState, Logbook], None]


def run_training(
    config: TrainConfig,
    prog: str,
    make_recognizer: MakeRecognizer,
    make_validators: MakeValidators | None,
    at_end: AtEnd | None = None,
) -> int:
    """Runs a config from its validators and processes to the end: what every verb that trains does once it has parsed.

    Args:
        config: the run's config.
        prog: the command as the user types it, for messages.
        make_recognizer: what is trained.
        make_validators: turns the configuration into validators.
        at_end: what is done with the state of a completed run.
    """
    validators: Sequence[Validator | HeadValidator] = ()
    if config.validation.packs or config.validation.classification != "none":
        if make_validators is None:
            raise TrainingError(f"the validation section needs the evaluation harness: start by `{prog}`")
        validators = make_validators(config)
    with join_world(config.device) as world:
        try:
            return train(config, world, validators, make_recognizer, at_end)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{world.device} is out of memory; a smaller batch_size_per_rank (now {config.batch_size_per_rank}, "
                "where 0 is the whole share) makes each step in more passes, and a run may be resumed with another "
                f"({str(error).splitlines()[0]})"
            ) from error


def train(
    config: TrainConfig,
    world: World,
    validators: Sequence[Validator | HeadValidator] = (),
    make_recognizer: MakeRecognizer = build_recognizer,
    at_end: AtEnd | None = None,
) -> int:
    """Train to the end, or to a signal; resumes what `config.output` holds.

    Returns:
        0 when the run is complete; 128 + the signal's number when one asked it to stop (after a checkpoint).
    """
    if config.precision == "fp16" and world.device.type != "cuda":
        raise TrainingError("precision fp16 needs a GPU (its gradients are scaled there); use --precision bf16 or fp32")
    _check_batch_size(config, world)
    with (
        folder_lock(Path(config.output), "process is training", world.is_main),
        flush_denormals(),
        stop_on_signal() as stop_signal,
    ):
        dataset = open_training_data(config.data)
        total_images = round_up(config.images or round(config.epochs * len(dataset)), config.global_batch_size)
        config.schedule.check(total_images)
        _require_same_start(config, world, dataset)
        state = build_state(config, world, dataset, total_images, make_recognizer(config, world, dataset))
        resumed_from = restore_latest(state)
        if world.is_main:
            delete_leftovers(state.folder)
            write_text(state.folder / "config.yaml", to_yaml(config))
        with Logbook(
            state.folder,
            total_images=total_images,
            images_seen=state.images_seen,
            tensorboard=config.tensorboard,
            active=world.is_main,
        ) as logbook:
            logbook.say(_introduction(state))
            if resumed_from:
                logbook.say(f"resuming from {resumed_from} at {state.images_seen:,} of {total_images:,} images")
            if state.images_seen < total_images:
                fit(state, logbook, validators, stop_signal)
                _say_bad_records(state, logbook)
                if at_end is not None and state.images_seen >= total_images:
                    at_end(state, logbook)
            if state.images_seen < total_images:
                logbook.say(f"stopped by a signal at {state.images_seen:,} images; the same command resumes")
                return 128 + (stop_signal[0] if stop_signal else signal.SIGTERM)
            logbook.say(f"done: {state.images_seen:,} images; export with `facekd export {state.folder}`")
            return 0


def fit(
    state: TrainingState,
    logbook: Logbook,
    validators: Sequence[Validator | HeadValidator],
    stop_signal: Sequence[int] = (),
) -> None:
    """The loop: fetch, step, maybe log, maybe validate, maybe save, until `total_images` or a signal."""
    config, total_images = state.config, state.total_images
    stopwatch = Stopwatch()
    save_timer, say_timer = Timer(60 * config.checkpoint.every_minutes), Timer(SECONDS_BETWEEN_LINES)
    images_timed_from = state.images_seen
    batches = iter(_make_loader(state))
    while state.images_seen < total_images:
        # Fetch; the wait is what a faster loader would save.
        fetch_start = time.perf_counter()
        batch = next(batches)
        stopwatch.waited(time.perf_counter() - fetch_start)
        state.bad_records += batch.bad_records

        # Step.
        images_before = state.images_seen
        lr = learning_rate(config.schedule, images_before, total_images)
        wishes = lambda: (bool(stop_signal), save_timer.is_due)  # noqa: E731
        losses, gradient_norms, (is_stopping, is_save_due) = train_step(state, batch, lr, wishes)
        state.losses_since_log.append(losses)
        is_last = state.images_seen >= total_images

        # Maybe log; on the console also now and then in between, for a step may take minutes.
        logbook.advance(state.images_seen)
        if is_last or _crossed(config.log_every_images, images_before, state.images_seen):
            values = {
                **_mean_losses(state),
                "lr": lr,
                **gradient_norms,
                **stopwatch.read(state.images_seen - images_timed_from, total_images - state.images_seen),
            }
            logbook.record("train", state.images_seen, values)
            logbook.say(train_line(state.images_seen, total_images, values))
            state.losses_since_log.clear()
            images_timed_from = state.images_seen
            say_timer.restart()
        elif say_timer.is_due:
            reading = stopwatch.peek(state.images_seen - images_timed_from, total_images - state.images_seen)
            logbook.say(train_line(state.images_seen, total_images, {"loss": losses[0], "lr": lr, **reading}))
            say_timer.restart()

        # Maybe validate, and keep the best. Its time is its own, not the training's.
        if validators and (is_last or _crossed(config.validation.every_images, images_before, state.images_seen)):
            paused = time.perf_counter()
            validate(state, validators, logbook)
            stopwatch.exclude(time.perf_counter() - paused)

        # Maybe save.
        is_due = is_save_due or _crossed(config.checkpoint.every_images, images_before, state.images_seen)
        if is_last or is_stopping or is_due:
            paused = time.perf_counter()
            save_state(state)
            save_timer.restart()
            stopwatch.exclude(time.perf_counter() - paused)
        if is_stopping:
            return


def _mean_losses(state: TrainingState) -> dict[str, float]:
    columns = zip(state.recognizer.loss_names, zip(*state.losses_since_log, strict=True), strict=True)
    return {name: math.fsum(values) / len(values) for name, values in columns}


def round_up(images: int, batch_size: int) -> int:
    """The number of images in the fewest whole batches that hold `images`."""
    return -(-images // batch_size) * batch_size


def _crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never for 0."""
    return every > 0 and after // every > before // every


def _make_loader(state: TrainingState) -> BatchLoader:
    config, world = state.config, state.world
    sampler = PositionSampler(
        len(state.dataset),
        config.seed,
        config.global_batch_size,
        world.rank,
        world.size,
        images_seen=state.images_seen,
        total_images=state.total_images,
        block_shuffle=config.data.block_shuffle,
    )
    return make_loader(
        state.dataset,
        sampler,
        config.augmentation,
        config.seed,
        workers=min(config.data.workers, usable_cores()),
        device=world.device,
    )


def _introduction(state: TrainingState) -> str:
    config, world, dataset = state.config, state.world, state.dataset
    per_rank = config.global_batch_size // world.size
    passes = -(-per_rank // (config.batch_size_per_rank or per_rank))
    epochs = state.total_images / len(dataset)
    who = "identities" if config.head.kind == "margin" else "classes"
    warnings = "".join(f"warning    {warning}\n" for warning in dataset.warnings)
    return (
        f"data       {dataset.name}: {len(dataset):,} images of {dataset.num_classes:,} {who}\n"
        f"{warnings}"
        f"backbone   {config.backbone.name}: {count_parameters(state.recognizer.backbone) / 1e6:.2f} M parameters, "
        f"{config.data.image_size} pixels -> {config.backbone.embedding_size}\n"
        f"head       {config.head}, {config.precision} on {world.device}\n"
        f"run        {state.total_images:,} images ({epochs:.2f} epochs), {config.global_batch_size:,} a step "
        f"({world.size} processes x {passes} passes), into {state.folder}"
        f"{state.recognizer.introduction}"
    )


def _check_batch_size(config: TrainConfig, world: World) -> None:
    per_rank, rest = divmod(config.global_batch_size, world.size)
    if rest:
        raise TrainingError(
            f"global_batch_size = {config.global_batch_size} does not divide among {world.size} processes; "
            f"change it to {max(per_rank, 1) * world.size}, or the number of processes"
        )
    size = config.batch_size_per_rank or per_rank
    if size > per_rank:
        raise TrainingError(
            f"batch_size_per_rank = {size} is more than a process's share of global_batch_size = "
            f"{config.global_batch_size}, which is {per_rank}: lower it, or leave it at 0 for the whole share"
        )
    if 1 in (min(size, per_rank), per_rank % size):
        raise TrainingError(
            f"global_batch_size = {config.global_batch_size} over {world.size} processes, with batch_size_per_rank = "
            f"{config.batch_size_per_rank}, makes a forward pass of a single image, from which batch normalisation "
            "cannot take statistics; change one of the two"
        )


def _require_same_start(config: TrainConfig, world: World, dataset: FaceDataset) -> None:
    # Before anything is restored: heads that are shared out are read together, by processes that agree on which.
    found = list_checkpoints(Path(config.output))
    mine = (int(found[-1].stem) if found else 0, len(dataset))
    main = broadcast_from_main(mine, world)
    if mine != main:
        raise TrainingError(
            f"rank {world.rank} is at image {mine[0]:,} of a run over {mine[1]:,} records, the main process at "
            f"image {main[0]:,} over {main[1]:,}; output ({config.output}) and data.train must be the same on every "
            "machine: put them on a shared file system"
        )


def _say_bad_records(state: TrainingState, logbook: Logbook) -> None:
    lines = state.bad_records  # the main process's hold those of every rank since the checkpoint just saved
    if not lines:
        return
    distinct = sorted(set(lines))
    logbook.record("bad_records", state.images_seen, {"count": len(lines), "records": distinct})
    shown = "".join(f"\n  {line}" for line in distinct[:10])
    more = f"\n  and {len(distinct) - 10} more, in log.jsonl" if len(distinct) > 10 else ""
    logbook.say(f"{len(lines)} bad records were skipped, {len(distinct)} different ones:{shown}{more}")


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Take denormal numbers as 0 for a block: many CPUs are a hundred times slower with them."""
    smallest = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    was_flushing = (smallest / 2).item() == 0  # torch can set the mode but not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)
