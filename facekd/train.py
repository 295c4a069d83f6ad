"""Verb: fit a backbone with a margin classifier.

    facekd train configs/debug.yaml
    facekd train configs/train/ms1mv3_mobilefacenet_arcface.yaml --data.train /data/ms1mv3 --output runs/mbf
    python -m torch.distributed.run --nproc_per_node 8 -m facekd train CONFIG.yaml

To resume, run the same command again. Progress is counted in images; the learning rate, the order of the images,
their augmentation and dropout are functions of the seed and of `images_seen`.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from facekd.backbones import count_parameters
from facekd.checkpoint import delete_leftovers
from facekd.config import TrainConfig, ValidationConfig, parse_config, to_yaml
from facekd.data.datasets import FaceDataset, open_dataset
from facekd.data.loader import Batch, BatchLoader, make_loader, usable_cores
from facekd.data.sampler import PositionSampler
from facekd.data.transforms import to_model_input
from facekd.distributed import (
    World,
    broadcast_from_main,
    join_world,
    mean_over_world,
    without_gradient_exchange,
)
from facekd.errors import run_verb
from facekd.files import write_text
from facekd.logbook import Logbook, Stopwatch, train_line
from facekd.optim import ema_decay, ema_update, learning_rate, set_learning_rate
from facekd.run_control import TrainingError, flush_denormals, sole_owner_of, stop_on_signal
from facekd.training_state import (
    AMP_DTYPES,
    Recognizer,
    TrainingState,
    build_recognizer,
    build_state,
    restore_latest,
    save_state,
)
from facekd.validation import Validator, validate

MakeRecognizer = Callable[[Any, World, FaceDataset], Recognizer]
AtEnd = Callable[[TrainingState, Logbook], None]


def main(
    argv: list[str] | None = None,
    make_validators: Callable[[ValidationConfig], Sequence[Validator]] | None = None,
) -> int:
    """Parse, build, train. `make_validators` turns the validation section into validators: the caller's to give."""
    description = "Train a backbone with a margin classifier. Run the same command again to resume."
    return run_training(TrainConfig, argv, "facekd train", description, build_recognizer, make_validators)


def run_training(
    config_class: type[TrainConfig],
    argv: list[str] | None,
    prog: str,
    description: str,
    make_recognizer: MakeRecognizer,
    make_validators: Callable[[ValidationConfig], Sequence[Validator]] | None,
    at_end: AtEnd | None = None,
) -> int:
    """From a command line to the end of a run: what every verb that trains does.

    Args:
        config_class: of the configuration.
        argv: words after the verb; None takes the process's own.
        prog: how the user calls it.
        description: for `--help`.
        make_recognizer: what is trained.
        make_validators: turns the validation section into validators.
        at_end: what is done with the state of a completed run.
    """
    config = parse_config(config_class, sys.argv[1:] if argv is None else argv, prog, description)
    validators: Sequence[Validator] = ()
    if config.validation.packs:
        if make_validators is None:
            raise TrainingError(f"validation.packs needs the evaluation harness: start by `{prog}`")
        validators = make_validators(config.validation)
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
    validators: Sequence[Validator] = (),
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
    with sole_owner_of(Path(config.output), world), flush_denormals(), stop_on_signal() as stop_signal:
        data = config.data
        dataset = open_dataset(data.train, data.image_size, data.on_bad_record, data.resize)
        total_images = round_up(config.images or round(config.epochs * len(dataset)), config.global_batch_size)
        config.schedule.check(total_images)
        state = build_state(config, world, dataset, total_images, make_recognizer(config, world, dataset))
        resumed_from = restore_latest(state)
        _require_same_start(state)
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
    state: TrainingState, logbook: Logbook, validators: Sequence[Validator], stop_signal: Sequence[int] = ()
) -> None:
    """The loop: fetch, step, maybe log, maybe validate, maybe save, until `total_images` or a signal."""
    config, total_images = state.config, state.total_images
    stopwatch = Stopwatch()
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
        losses, gradient_norm, is_stopping = train_step(state, batch, lr, stop_requested=bool(stop_signal))
        state.losses_since_log.append(losses)
        is_last = state.images_seen >= total_images

        # Maybe log.
        logbook.advance(state.images_seen)
        if is_last or _crossed(config.log_every_images, images_before, state.images_seen):
            values = {
                **_mean_losses(state),
                "lr": lr,
                "gradient_norm": gradient_norm,
                **stopwatch.read(state.images_seen - images_timed_from, total_images - state.images_seen),
            }
            logbook.record("train", state.images_seen, values)
            logbook.say(train_line(state.images_seen, total_images, values))
            state.losses_since_log.clear()
            images_timed_from = state.images_seen

        # Maybe validate, and keep the best. Its time is its own, not the training's.
        if validators and (is_last or _crossed(config.validation.every_images, images_before, state.images_seen)):
            paused = time.perf_counter()
            validate(state, validators, logbook)
            stopwatch.exclude(time.perf_counter() - paused)

        # Maybe save.
        if is_last or is_stopping or _crossed(config.checkpoint.every_images, images_before, state.images_seen):
            paused = time.perf_counter()
            save_state(state)
            stopwatch.exclude(time.perf_counter() - paused)
        if is_stopping:
            return


def train_step(
    state: TrainingState, batch: Batch, lr: float, stop_requested: bool = False
) -> tuple[list[float], float, bool]:
    """One update by one global batch.

    Returns:
        Losses over the global batch (the first is what is minimised, `Recognizer.loss_names` has the rest), norm of
        the gradient before clipping, and whether any rank was asked to stop.

    Raises:
        TrainingError: the loss or the gradient is not finite; raised before the weights are touched.
    """
    config, optimizer, scaler = state.config, state.optimizer, state.scaler
    _seed_step(state)
    set_learning_rate(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    losses = _accumulate_gradients(state, batch)
    stop = losses.new_tensor([float(stop_requested)])
    *values, stop = mean_over_world(torch.cat([losses, stop]), state.world).tolist()
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(state.recognizer.parameters(), config.clip_norm or math.inf).item()
    _require_finite(state, values[0], norm, lr)
    scaler.step(optimizer)
    scaler.update()
    if state.ema is not None:
        decay = ema_decay(config.global_batch_size, config.ema_half_life_images, state.images_seen)
        ema_update(state.ema, state.recognizer.deployed, decay)
    state.images_seen += config.global_batch_size
    return values, norm, stop > 0


def _accumulate_gradients(state: TrainingState, batch: Batch) -> torch.Tensor:
    """Gradients of the mean loss over this rank's batch, by as many passes as its micro-batches; returns the losses."""
    config, device = state.config, state.world.device
    size = config.batch_size_per_rank or len(batch.labels)
    starts = range(0, len(batch.labels), size)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = AMP_DTYPES[config.precision]
    targets = state.recognizer.targets(batch)
    total = torch.zeros(len(state.recognizer.loss_names), device=device)
    for start in starts:
        part = slice(start, start + size)
        images = to_model_input(
            batch.images[part].to(device, non_blocking=True),
            batch.flip[part].to(device, non_blocking=True),
            config.data.mean,
            config.data.std,
            memory_format=memory_format,
        )
        labels = batch.labels[part].to(device, non_blocking=True)
        share = len(labels) / len(batch.labels)  # the last micro-batch may be smaller
        exchange = contextlib.nullcontext() if start == starts[-1] else without_gradient_exchange(state.replica)
        with exchange:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                losses = state.replica(images, labels, *(target[part] for target in targets)) * share
            state.scaler.scale(losses[0]).backward()
        total += losses.detach()
    return total


def _mean_losses(state: TrainingState) -> dict[str, float]:
    columns = zip(state.recognizer.loss_names, zip(*state.losses_since_log, strict=True), strict=True)
    return {name: math.fsum(values) / len(values) for name, values in columns}


def _seed_step(state: TrainingState) -> None:
    # Dropout's draws follow from where the run is, so that a resumed run draws what the uninterrupted one would.
    seeds = np.random.SeedSequence([state.config.seed, state.images_seen, state.world.rank])
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def _require_finite(state: TrainingState, loss: float, norm: float, lr: float) -> None:
    # With loss scaling an infinite gradient is ordinary: the scaler skips that update and lowers the scale. One that is
    # infinite without any scale is not, and the scaler would skip updates for ever.
    is_norm_fine = math.isfinite(norm) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1)
    if math.isfinite(loss) and is_norm_fine:
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    step = state.images_seen // state.config.global_batch_size
    raise TrainingError(
        f"{what} at step {step} (images_seen {state.images_seen:,}, learning rate {lr:.3g}); the weights were not "
        f"updated and the checkpoints in {state.folder / 'checkpoints'} are from before. Usual causes: schedule.lr too "
        "high, no schedule.warmup_images, precision fp16 where bf16 would do"
    )


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
    )
    return make_loader(
        state.dataset,
        sampler,
        config.augmentation,
        config.seed,
        workers=min(config.data.workers, usable_cores()),
        pin_memory=world.device.type == "cuda",
    )


def _introduction(state: TrainingState) -> str:
    config, world, dataset = state.config, state.world, state.dataset
    per_rank = config.global_batch_size // world.size
    passes = -(-per_rank // (config.batch_size_per_rank or per_rank))
    epochs = state.total_images / len(dataset)
    notes = "".join(f"odd        {note}\n" for note in dataset.notes)
    return (
        f"data       {dataset.name}: {len(dataset):,} images of {dataset.num_classes:,} identities\n"
        f"{notes}"
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
    if 1 in (min(size, per_rank), per_rank % size):
        raise TrainingError(
            f"global_batch_size = {config.global_batch_size} over {world.size} processes, with batch_size_per_rank = "
            f"{config.batch_size_per_rank}, makes a forward pass of a single image, from which batch normalisation "
            "cannot take statistics; change one of the two"
        )


def _require_same_start(state: TrainingState) -> None:
    mine = (state.images_seen, len(state.dataset))
    main = broadcast_from_main(mine, state.world)
    if mine != main:
        raise TrainingError(
            f"rank {state.world.rank} is at image {mine[0]:,} of a run over {mine[1]:,} records, the main process at "
            f"image {main[0]:,} over {main[1]:,}; output ({state.folder}) and data.train must be the same on every "
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


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
