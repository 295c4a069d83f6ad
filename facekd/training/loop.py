"""Runs a training from its config to the last image.

From the outside in: `run_training` joins the processes, `train` builds or resumes a run, `fit` is the loop of fetch,
step, log, validate and save. Below them are the checks made before a run starts and the messages around it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from facekd.backbones import count_parameters
from facekd.backbones.given_module import GivenModule
from facekd.checkpoints.run_folder import keep_last
from facekd.commands.command_line import command_text
from facekd.commands.plain_configs import to_plain, to_yaml
from facekd.data.config import open_training_data
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.class_counts import describe_contents
from facekd.data.loading.loader import BatchLoader, make_loader
from facekd.data.loading.sampler import PositionSampler, shares
from facekd.distributed import World, join_world
from facekd.errors import TrainingError
from facekd.files.output_lock import folder_lock
from facekd.files.writing import write_text
from facekd.training.agreement import require_same_sources, require_same_start
from facekd.training.class_centres import measure_class_centres
from facekd.training.config import TrainConfig
from facekd.training.config.idle_settings import idle_settings
from facekd.training.logbook import (
    Logbook,
    Stopwatch,
    Timer,
    kinds_logged_at,
    require_trackers,
    train_line,
    write_page_of_long_run,
)
from facekd.training.recognizer import Recognizer, build_recognizer
from facekd.training.resume import CONFIG, check_run_folder, delete_leftovers, restore_latest, save_state
from facekd.training.schedule import learning_rate
from facekd.training.starting_weights import describe_start
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step
from facekd.training.validation import HeadValidator, Validator, forget_best_of_other_sets, validate
from facekd.utils.foreign import shown
from facekd.utils.processes.children import launcher_number, usable_cores
from facekd.utils.processes.stopping import STOP_SIGNALS, stop_on_signal
from facekd.utils.progress import SECONDS_BETWEEN_LINES
from facekd.utils.wording import counted

MakeValidators = Callable[[Any], Sequence[Validator | HeadValidator]]
MakeRecognizer = Callable[[Any, World, FaceDataset], Recognizer]
AtEnd = Callable[[TrainingState, Logbook], None]


def run_training(
    config: TrainConfig,
    prog: str,
    make_recognizer: MakeRecognizer,
    make_validators: MakeValidators | None,
    at_end: AtEnd | None = None,
    run: Callable[..., int] | None = None,
) -> int:
    """Runs a config: builds its validators, joins the other processes, trains.

    Args:
        config: the config of the run.
        prog: the command as the user types it, "facekd train"; for messages.
        make_recognizer: builds the module that is trained.
        make_validators: builds the validators that the config asks for.
        at_end: called with the state when the last image has been trained on.
        run: what to do instead of `train`, with the same arguments.

    Returns:
        The exit status, see `train`.
    """
    if launcher_number("RANK", 0) == 0:  # the only process that writes a log
        require_trackers(config.trackers)
    is_wanted = bool(config.validation.packs) or config.validation.classification != "none"
    if is_wanted and make_validators is None:
        raise TrainingError(f"the validation section needs the evaluation harness: start by `{prog}`")
    validators = () if make_validators is None else make_validators(config)
    with join_world(config.device) as world, deterministic_kernels(config.deterministic):
        try:
            return (run or train)(config, world, validators, make_recognizer, at_end)
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
    """Trains to the last image or to a signal; resumes where the checkpoints in `config.output` end.

    Returns:
        0 when the run is complete; 128 + the signal's number when a signal stopped it (after a checkpoint).
    """
    check_run_folder(config)
    _check_machine(config, world)
    with (
        folder_lock(Path(config.output), "process is training", world.is_main),
        flush_denormals(),
        stop_on_signal() as stop_signal,
    ):
        # Build the run, or bring it back from its newest checkpoint.
        started = time.monotonic()
        state = build_run(config, world, make_recognizer)
        total_images, resumed_from = state.total_images, restore_latest(state)
        forget_best_of_other_sets(state)

        # Only now write to the folder: everything that could be refused has been checked.
        if world.is_main:
            delete_leftovers(state.folder)
            keep_last(state.folder, config.checkpoint.keep)  # a run may be stopped before it deletes the oldest
            write_text(state.folder / CONFIG, to_yaml(config))
        with Logbook(
            state.folder,
            total_images=total_images,
            images_seen=state.images_seen,
            trackers=config.trackers,
            config=to_plain(config),
            active=world.is_main,
        ) as logbook:
            logbook.say(summary_lines(state))
            if resumed_from:
                logbook.say(
                    f"resuming from {resumed_from} at {state.images_seen:,} of {counted(total_images, 'image')}"
                )

            # Train. What follows the last image is done again where a run was killed there, and left where it is done.
            stopped_by = 0
            if state.images_seen < total_images:
                stopped_by = fit(state, logbook, validators, stop_signal)
            _say_bad_records(state, logbook)
            if state.images_seen >= total_images:
                measure_class_centres(state, logbook)
                if at_end is not None:
                    at_end(state, logbook)

            if state.images_seen < total_images:
                logbook.say(f"stopped by a signal at {counted(state.images_seen, 'image')}; the same command resumes")
                return 128 + stopped_by
            _say_done(state, logbook, time.monotonic() - started)
            return 0


def build_run(config: TrainConfig, world: World, make_recognizer: MakeRecognizer) -> TrainingState:
    """Opens the data and builds a fresh run, after everything that could be refused without a checkpoint.

    Raises:
        FacekdError: it is refused.
    """
    _check_machine(config, world)
    dataset = open_training_data(config.data)
    dataset.warnings += idle_settings(config)
    total_images = round_up(config.images or round(config.epochs * len(dataset)), config.global_batch_size)
    config.check_length(total_images)
    # Before processes exchange anything that would have another shape on one of them.
    require_same_start(config, world, dataset)
    recognizer = make_recognizer(config, world, dataset)
    require_same_sources(config, world, recognizer)
    return build_state(config, world, dataset, total_images, recognizer)


def _say_done(state: TrainingState, logbook: Logbook, seconds: float) -> None:
    if logbook.active:
        write_page_of_long_run(state.folder, seconds, logbook.say)
    is_given = isinstance(state.recognizer.backbone, GivenModule)  # which no command can build
    report = command_text("report", [str(state.folder)])
    export = command_text("export", [str(state.folder), "--output", "model.onnx"])
    then = "" if is_given else f"; curves: `{report}`; export with `{export}`"
    logbook.say(f"done: {counted(state.images_seen, 'image')}{then}")


def fit(
    state: TrainingState,
    logbook: Logbook,
    validators: Sequence[Validator | HeadValidator],
    stop_signal: Sequence[int] = (),
) -> int:
    """Repeats fetch, step, maybe log, validate and save, until `total_images` or until `stop_signal` holds a signal.

    Returns:
        The number of the signal that any process has received; 0 if the run is complete.
    """
    config, total_images = state.config, state.total_images
    stopwatch = Stopwatch()
    save_timer, say_timer = Timer(60 * config.checkpoint.every_minutes), Timer(SECONDS_BETWEEN_LINES)
    images_timed_from = state.images_seen
    batches = iter(make_run_loader(state))
    requests = partial(_stop_and_save_requests, stop_signal, save_timer)
    while state.images_seen < total_images:
        # Fetch a batch, and count how long the loop waits for it: a faster loader would save that time.
        with stopwatch.waiting():
            batch = next(batches)
        state.bad_records += batch.bad_records

        # Update the weights. All ranks agree there on whether to stop and whether to save.
        images_before = state.images_seen
        lr = learning_rate(config.schedule, images_before, total_images)
        losses, gradient_norms, (*is_stopped_by, is_save_due) = train_step(state, batch, lr, requests)
        state.losses_since_log.append(losses)
        is_last = state.images_seen >= total_images

        # Log the mean losses every `log_every_images`; in between, only the console hears something now and then.
        logbook.advance(state.images_seen)
        images_timed, images_left = state.images_seen - images_timed_from, total_images - state.images_seen
        if is_last or _crossed(config.log_every_images, images_before, state.images_seen):
            speed = stopwatch.read(images_timed, images_left)
            values = {**_mean_losses(state), "lr": lr, **gradient_norms, **speed}
            logbook.record("train", state.images_seen, values)
            logbook.say(train_line(state.images_seen, total_images, values))
            state.losses_since_log.clear()
            images_timed_from = state.images_seen
            say_timer.restart()
        elif say_timer.is_due:
            values = {"loss": losses[0], "lr": lr, **stopwatch.peek(images_timed, images_left)}
            logbook.say(train_line(state.images_seen, total_images, values))
            say_timer.restart()

        # Validate and keep the best checkpoint; the time this takes does not count as training.
        if validators and (is_last or _crossed(config.validation.every_images, images_before, state.images_seen)):
            with stopwatch.paused():
                validate(state, validators, logbook)

        # Save a checkpoint at the end, when stopping, and when the clock or the number of images asks for one.
        is_due = is_save_due or _crossed(config.checkpoint.every_images, images_before, state.images_seen)
        if is_last or any(is_stopped_by) or is_due:
            with stopwatch.paused():
                save_state(state)
            save_timer.restart()
        if any(is_stopped_by):
            return STOP_SIGNALS[is_stopped_by.index(True)]
    return 0


def make_run_loader(state: TrainingState) -> BatchLoader:
    """Builds the loader of this rank's batches, from `state.images_seen` to the end of the run."""
    config, world = state.config, state.world
    sampler = PositionSampler(
        config.data.make_order(state.dataset, config.seed),
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
        device=world.device,
    )


def _stop_and_save_requests(stop_signal: Sequence[int], save_timer: Timer) -> list[bool]:
    """Returns for each signal whether this process has received it, and whether the clock asks for a checkpoint."""
    return [*(number in stop_signal for number in STOP_SIGNALS), save_timer.is_due]


def _mean_losses(state: TrainingState) -> dict[str, float]:
    """Returns the mean of each loss since the last log line, by name."""
    columns = zip(state.recognizer.loss_names, zip(*state.losses_since_log, strict=True), strict=True)
    return {name: math.fsum(values) / len(values) for name, values in columns}


def _crossed(every: int, before: int, after: int) -> bool:
    """Tells whether a multiple of `every` lies in (before, after]; never if `every` is 0."""
    return every > 0 and after // every > before // every


def _check_machine(config: TrainConfig, world: World) -> None:
    if config.precision == "fp16" and world.device.type != "cuda":
        raise TrainingError("precision fp16 needs a GPU (its gradients are scaled there); use --precision bf16 or fp32")
    _check_batch_size(config, world)


def _check_batch_size(config: TrainConfig, world: World) -> None:
    """Checks that the global batch gives every process forward passes of two images or more.

    Then all make as many passes: shares differ by one image at most, which alone would be a pass of a single image.

    Raises:
        TrainingError: it does not; the message says what does.
    """
    # Every process needs two images. A resumed run cannot change the global batch, only the number of processes.
    given = shares(config.global_batch_size, world.size)
    over = f"global_batch_size = {config.global_batch_size} over {world.size} process{'es' if world.size > 1 else ''}"
    most = config.global_batch_size // 2
    if given[-1] < 2:
        remedy = f"start at most {most}" if most else "raise global_batch_size"
        raise TrainingError(
            f"{over} leaves {'no image' if given[-1] == 0 else 'a single image'} for some, from which batch "
            f"normalisation cannot take statistics: {remedy}"
        )

    # And its share must divide into passes of two images or more.
    size = config.batch_size_per_rank or given[0]
    if size > given[0]:
        raise TrainingError(
            f"batch_size_per_rank = {size} is more than a process's share of global_batch_size = "
            f"{config.global_batch_size}, which is {given[0]}: lower it, or leave it at 0 for the whole share"
        )

    def has_single(size: int) -> bool:
        return any(share % size == 1 for share in given) or size == 1

    if has_single(size):
        fitting = next((smaller for smaller in range(size - 1, 1, -1) if not has_single(smaller)), 0)
        raise TrainingError(
            f"{over}, with batch_size_per_rank = {config.batch_size_per_rank}, makes a forward pass of a single image, "
            f"from which batch normalisation cannot take statistics: set batch_size_per_rank to "
            f"{f'{fitting}, or to ' if fitting else ''}0 for the whole share"
        )


def round_up(images: int, batch_size: int) -> int:
    """Rounds a number of images up to whole batches."""
    return -(-images // batch_size) * batch_size


def summary_lines(state: TrainingState) -> str:
    """Describes data, backbone, head and length of the run, for the head of the log."""
    config, world, dataset = state.config, state.world, state.dataset
    given = shares(config.global_batch_size, world.size)
    passes = -(-given[0] // (config.batch_size_per_rank or given[0]))
    uneven = f" with {given[0]} or {given[-1]}" if given[0] != given[-1] else ""
    epochs = state.total_images / len(dataset)
    warnings = "".join(f"warning    {warning}\n" for warning in dataset.warnings)
    backbone = state.recognizer.backbone
    given = f" ({backbone.class_name})" if isinstance(backbone, GivenModule) else ""
    return (
        f"data       {dataset.name}: {describe_contents(dataset)}\n"
        f"{warnings}"
        f"backbone   {config.backbone.name}{given}: {count_parameters(backbone) / 1e6:.2f} M parameters, "
        f"{config.data.image_size} pixels -> {config.backbone.embedding_size}\n"
        f"head       {config.head}, {config.precision} on {world.device}"
        f"{', deterministic kernels' if config.deterministic else ''}\n"
        f"run        {counted(state.total_images, 'image')} ({epochs:.2f} epochs), {config.global_batch_size:,} a step "
        f"({counted(world.size, 'process')}{uneven} x {counted(passes, 'pass')}), into {state.folder}"
        f"{state.recognizer.summary_lines}"
        f"{describe_start(state.recognizer.started_from, is_resumed=state.images_seen > 0)}"
    )


def _say_bad_records(state: TrainingState, logbook: Logbook) -> None:
    """Says and logs which bad records were skipped."""
    lines = state.bad_records  # saving gathered those of every rank on the main process
    if not lines or "bad_records" in kinds_logged_at(state.folder, state.images_seen):
        return
    distinct = sorted(set(lines))
    logbook.record("bad_records", state.images_seen, {"count": len(lines), "records": distinct})
    listed = "".join(f"\n  {shown(line, 1000)}" for line in distinct[:10])
    more = f"\n  and {len(distinct) - 10} more, in log.jsonl" if len(distinct) > 10 else ""
    logbook.say(
        f"{counted(len(lines), 'bad record was', 'bad records were')} skipped, "
        f"{counted(len(distinct), 'different one')}:{listed}{more}"
    )


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Treats denormal numbers as 0 inside a block; many CPUs compute a hundred times slower with them."""
    smallest = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    was_flushing = (smallest / 2).item() == 0  # torch can set the mode but not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Keeps torch, inside a block, to kernels that give the same bits in every run on the same hardware and software.

    Enter it before the first product on a GPU: cuBLAS reads its setting there. docs/scale.md says what remains.

    Raises:
        TrainingError: an operator was called that has no deterministic kernel.
    """
    if not wanted:
        yield
        return
    # With workspaces of its own choice, cuBLAS may add up in another order each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()
    # The search for the fastest kernel goes by time, so that another may win in the next run.
    cudnn.benchmark, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"with --deterministic true, torch refuses a kernel: {str(error).splitlines()[0].split('. ')[0]}. Take "
            "another backbone or loss, or leave --deterministic out: two runs on a GPU then differ by rounding"
        ) from error
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        torch.use_deterministic_algorithms(before[2] > 0, warn_only=before[2] == 1)  # torch.compile's setting as well
