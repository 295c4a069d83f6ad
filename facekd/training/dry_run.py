"""Tries a run for a few steps: what it would train, how fast, in how much memory, and how long it would take.

The trial builds the run as training does and steps on the first batches of the data, then throws all of it away.
Nothing is written to the output folder; beside a pack, reading it may leave the cache that every command keeps there.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from facekd.backbones import count_macs, count_parameters
from facekd.backbones.given_module import GIVEN
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.commands.plain_configs import to_yaml
from facekd.distributed import World
from facekd.training.config import TrainConfig
from facekd.training.logbook import Stopwatch
from facekd.training.loop import AtEnd, MakeRecognizer, build_run, flush_denormals, make_run_loader, summary_lines
from facekd.training.recognizer import build_recognizer, make_backbone
from facekd.training.schedule import learning_rate
from facekd.training.state import TrainingState
from facekd.training.train_step import train_step
from facekd.training.validation import HeadValidator, Validator
from facekd.utils.progress import format_duration
from facekd.utils.wording import counted

MOST_STEPS = 20
SECONDS = 10.0


@dataclass(frozen=True)
class Trial:
    """Describes a run as a trial found it.

    Attributes:
        summary: data, backbone, head and length, in lines.
        num_parameters: of the backbone.
        macs: multiply-adds of the backbone for one image; None for a module that was given.
        peak_memory: bytes that this process took, of the GPU or, without one, of the machine.
        num_steps: steps that were timed.
        images_per_second: over all processes.
        data_wait: share of the time that training waited for images.
        total_images: length of the run.
        images_done: what checkpoints in the output folder have seen already.
    """

    summary: str
    num_parameters: int
    macs: int | None
    peak_memory: int
    num_steps: int
    images_per_second: float
    data_wait: float
    total_images: int
    images_done: int

    @property
    def seconds(self) -> float:
        """Returns the time that training would take from here on, without validation and checkpoints."""
        return (self.total_images - self.images_done) / self.images_per_second


def dry_run(
    config: TrainConfig,
    world: World,
    validators: Sequence[Validator | HeadValidator] = (),
    make_recognizer: MakeRecognizer = build_recognizer,
    at_end: AtEnd | None = None,
) -> int:
    """Prints the configuration as resolved and what a trial found; takes what `train` takes, in its place."""
    trial = try_run(config, world, make_recognizer)
    if world.is_main:
        print(f"{to_yaml(config)}\n{describe(trial, config, world)}")
    return 0


def try_run(config: TrainConfig, world: World, make_recognizer: MakeRecognizer) -> Trial:
    """Builds a run and times a few of its steps.

    Raises:
        FacekdError: whatever would stop the run at its start.
    """
    with flush_denormals():
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        state = build_run(config, world, make_recognizer)
        summary, num_parameters = summary_lines(state), count_parameters(state.recognizer.backbone)
        num_steps, speed = _time_steps(state)
    is_given = config.backbone.name == GIVEN
    return Trial(
        summary=summary,
        num_parameters=num_parameters,
        macs=None if is_given else count_macs(make_backbone(config, None), config.data.image_size),
        peak_memory=_peak_memory(world),
        num_steps=num_steps,
        images_per_second=speed["images_per_second"],
        data_wait=speed["data_wait"],
        total_images=state.total_images,
        images_done=images_done(state.folder, state.total_images),
    )


def images_done(run_folder: Path, total_images: int) -> int:
    """Returns how many of the images of a run its newest checkpoint has seen: 0 without one, at most all."""
    found = list_checkpoints(run_folder)
    return min(int(found[-1].stem), total_images) if found else 0


def describe(trial: Trial, config: TrainConfig, world: World) -> str:
    """Describes a trial for people."""
    macs = "" if trial.macs is None else f", {trial.macs / 1e6:,.1f} M multiply-adds an image"
    place = f"of {world.device}" if world.device.type == "cuda" else "of this process, its loaders not counted"
    done = f", of which {counted(trial.images_done, 'is', 'are')} done" if trial.images_done else ""
    warm_up = (
        f"; the first {counted(config.head_warmup_images, 'is', 'are')} faster" if config.head_warmup_images else ""
    )
    return (
        f"{trial.summary}\n"
        f"network    {counted(trial.num_parameters, 'parameter')} in the backbone{macs}\n"
        f"memory     {trial.peak_memory / 1e9:,.2f} GB at the peak, {place}\n"
        f"speed      {trial.images_per_second:,.1f} images/s in a trial of {counted(trial.num_steps, 'step')}, "
        f"{trial.data_wait:.0%} of the time waiting for data{warm_up}\n"
        f"time       {format_duration(trial.seconds)} for {counted(trial.total_images, 'image')}{done}; validation and "
        "checkpoints come on top\n"
        f"nothing was written to {Path(config.output)}; without --dry-run the run goes there"
    )


def _time_steps(state: TrainingState) -> tuple[int, dict[str, float]]:
    """Takes a few steps, of which the first is not timed unless it is the only one; returns their number and speed."""
    config = state.config
    available = -(-state.total_images // config.global_batch_size)
    stopwatch, started, steps = Stopwatch(), time.monotonic(), 0
    batches = iter(make_run_loader(state))
    is_enough = False
    while not is_enough and steps < min(MOST_STEPS + 1, available):
        with stopwatch.waiting():
            batch = next(batches)
        lr = learning_rate(config.schedule, state.images_seen, state.total_images)
        # The processes agree on when to stop, as they do on when to save.
        is_late = time.monotonic() - started > SECONDS and steps > 0
        _, _, (is_enough,) = train_step(state, batch, lr, lambda is_late=is_late: [is_late])
        steps += 1
        if steps == 1 and available > 1:
            stopwatch.restart()
    timed = max(1, steps - 1)
    images = timed * config.global_batch_size
    return timed, stopwatch.read(images, state.total_images - images)


def _peak_memory(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_reserved(world.device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes
