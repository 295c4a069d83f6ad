"""Tries the trainings of a study for a few steps each: how long the study would take, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from facekd.checkpoints.run_folder import list_checkpoints
from facekd.distributed import join_world
from facekd.errors import FacekdError
from facekd.experiments.command_runner import CompletedSteps
from facekd.experiments.studies.config import FILES_MADE, VERBS, Method, Study
from facekd.pages.tables import Table
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.dry_run import Trial, images_done, try_run
from facekd.training.loop import deterministic_kernels
from facekd.training.recognizer import build_recognizer
from facekd.utils.progress import format_duration
from facekd.utils.wording import counted

COLUMNS = ("method", "runs to do", "parameters", "M multiply-adds", "memory GB", "images/s", "images", "time a run")


def try_study(study: Study, configs: dict[str, Any], jobs: int, threads: int) -> tuple[Table, list[str]]:
    """Tries a run of each method that can be tried; writes nothing.

    A method that learns from a run that is not there yet cannot be tried, nor one whose data `prepare` has yet to make.

    Args:
        study: the study.
        configs: the config of each method's first run, by the method's name.
        jobs: runs at once.
        threads: computing threads of each.

    Returns:
        The methods as a table, and lines on what could not be tried and on the time that all takes.
    """
    completed = CompletedSteps(study.output)
    left = [step for step in study.steps(threads) if not completed.is_done(step)]
    titles = {step.title for step in left if step.words[0] in VERBS}
    rows, lines, seconds = [], [], 0.0
    for name, config in configs.items():
        method = study.methods[name]
        runs = [run for run in study.runs if run.method is method and f"{method.verb} {run.title}" in titles]
        try:
            trial = _try(study, method, config, threads) if runs else None
        except (FacekdError, torch.OutOfMemoryError) as error:
            lines.append(f"{name}: not tried: {str(error).splitlines()[0]}")
            trial = None
        if trial is not None:
            done = sum(images_done(run.folder, trial.total_images) for run in runs)
            seconds += (len(runs) * trial.total_images - done) / trial.images_per_second
        rows.append([name, str(len(runs)), *_cells(trial)])
    # What all of it takes.
    what = "besides those, training takes" if lines else "training takes"
    takes = f"; {what} about {format_duration(seconds / jobs)} with {jobs} at once" if seconds else ""
    trainings = sum(step.words[0] in VERBS for step in left)
    lines.append(
        f"{counted(len(left), 'step is', 'steps are')} to be done, of which "
        f"{counted(trainings, 'trains', 'train')}{takes}; the others come on top"
    )
    return Table("", COLUMNS, rows), lines


def _try(study: Study, method: Method, config: Any, threads: int) -> Trial:
    """Tries the first run of a method.

    Raises:
        FacekdError: it cannot be tried yet, or its training would not start.
    """
    for run in study.needed_by(method, method.seeds[0]):
        if run.method.verb in FILES_MADE and not Path(study.model_of(run)).exists():
            raise FacekdError(f"it needs what {run.method.verb} makes of {run.title}, which is not there yet")
        if run.method.verb in VERBS and not list_checkpoints(run.folder):
            raise FacekdError(f"it learns from {run.title}, which is not trained yet")
    make = build_distiller if method.verb == "distill" else build_recognizer
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with join_world(config.device) as world, deterministic_kernels(config.deterministic):
            return try_run(config, world, make)
    finally:
        torch.set_num_threads(before)


def _cells(trial: Trial | None) -> list[str]:
    if trial is None:
        return ["-"] * 6
    macs = "-" if trial.macs is None else f"{trial.macs / 1e6:,.1f}"
    memory, speed = f"{trial.peak_memory / 1e9:.2f}", f"{trial.images_per_second:,.1f}"
    time = format_duration(trial.total_images / trial.images_per_second)
    return [f"{trial.num_parameters:,}", macs, memory, speed, f"{trial.total_images:,}", time]
