"""Runs facekd commands as subprocesses in dependency order and records which have finished.

`facekd quickstart`, `facekd study` and `facekd pipeline` share this. Every step is a `facekd` command that a user could
type. A step is skipped if it was completed with the same command, its result still exists, and no step it depends on
has run again since. An interrupted command resumes by itself when it is started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

from facekd.checkpoints.run_folder import list_checkpoints
from facekd.commands.config_files import protect_path
from facekd.errors import TrainingError
from facekd.files.held_folders import check_held, make_folder
from facekd.files.reading import read_json
from facekd.files.temporaries import open_own_file
from facekd.files.writing import write_json
from facekd.plugins import refuse_plugins
from facekd.training.logbook import read_log
from facekd.utils.processes.children import START_MODULE, describe_end, start_tied
from facekd.utils.processes.current_folder import why_not_torch_here
from facekd.utils.processes.stopping import (
    STOP_SIGNALS,
    StopSignal,
    heeded_signals,
    interrupted_by_signals,
    stop_signal_of,
)
from facekd.utils.progress import format_duration
from facekd.utils.typed_values import Range, find_fault

SECONDS_BETWEEN_POLLS = 0.05
NUM_LOG_LINES = 15  # shown of a failed step
LAUNCH = (*START_MODULE, "facekd")
LAUNCH_MANY = (*START_MODULE, "torch.distributed.run", "--standalone", "--nproc_per_node")
# The launcher kills processes that have not saved by then. Its default, 30 seconds, is too short for a large head.
SECONDS_TO_SAVE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """Describes one facekd command.

    Args:
        title: what the step does, for people; it identifies the step in `steps.json`, so no two steps share one.
        words: words of the command, after `facekd`.
        makes: file or folder that exists once the step is done.
        after: titles of the steps that this one depends on.
        output: log file for what the command prints; None prints to the terminal.
        processes: number of processes that train together, one per GPU.

    Raises:
        ConfigError: a word would load a plug-in. Values of a file become words; plug-ins that the user names are handed
            on by the environment.
    """

    title: str
    words: tuple[str, ...]
    makes: Path
    after: tuple[str, ...] = ()
    output: Path | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        refuse_plugins(self.words, self.title)

    @property
    def command(self) -> list[str]:
        """Returns the command as a user would type it."""
        return ["facekd", *self.words]


def as_options(values: dict[str, Any]) -> list[str]:
    """Converts `{"data.workers": 1}` to `["--data.workers", "1"]`, writing values as YAML and JSON both read them."""
    return [word for key, value in values.items() for word in (f"--{key}", as_word(value))]


def as_config_options(values: dict[str, Any]) -> list[str]:
    """Does what `as_options` does for a verb with a config, which expands `$` and `~` in paths: a Path stays as it is.

    A string is as a user wrote it, and is expanded by the verb.
    """
    return as_options({key: protect_path(value) if isinstance(value, Path) else value for key, value in values.items()})


def as_word(value: Any) -> str:
    """Writes a value of a YAML file as one word of a command line."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)  # true, null and [1, 2] mean the same in YAML


class _Known(TypedDict, total=False):
    seconds: Annotated[float, Range(0, 1e12)]
    unfinished: bool
    made: str


class _Done(_Known):
    """Describes an entry of `steps.json`."""

    command: list[str]
    number: Annotated[int, Range(1, 1e9)]
    after: dict[str, int]


class CompletedSteps:
    """Records in `steps.json` of a folder which commands were completed there, and in which order.

    Args:
        folder: folder of the file.
        same_command_only: raise an error for a step that was done by another command, instead of running it again.
    """

    def __init__(self, folder: Path, same_command_only: bool = False) -> None:
        self.folder = folder
        self._file = folder / "steps.json"
        self._same_command_only = same_command_only
        self._done: dict[str, Any] = {}
        if self._file.exists():
            remedy = "delete it and run the same command again: each step is then checked anew"
            self._done = read_json(self._file, "a list of steps", remedy, ("steps",), TrainingError)["steps"]
            if fault := find_fault(self._done, dict[str, _Done]):
                raise TrainingError(f"{self._file}: damaged, not a list of steps: {fault}; {remedy}")

    def is_done(self, step: Step) -> bool:
        """Returns whether a step can be skipped.

        Raises:
            TrainingError: the step was done by another command, under `same_command_only`.
        """
        entry = self._done.get(step.title)
        if entry is None:
            return False
        if entry["command"] != step.command:
            if self._same_command_only:
                raise TrainingError(
                    f"{self._file.parent} holds results of another kind: {step.title!r} was "
                    f"`{shlex.join(entry['command'])}`, and would now be `{shlex.join(step.command)}`. "
                    "Choose another --output, or delete the folder"
                )
            return False
        if entry.get("unfinished"):
            return False
        # Numbers grow with every completed step, so a dependency that has run again since has another number.
        built_on = {title: self._done.get(title, {}).get("number") for title in step.after}
        return step.makes.exists() and entry["after"] == built_on and not self.has_changed(step)

    def has_changed(self, step: Step) -> bool:
        """Tells whether something else is in the place of what a step has made: what builds on it is of the other.

        What is gone altogether counts as it was: checkpoints are deleted where the results alone are kept.
        """
        made, now = self._done.get(step.title, {}).get("made"), _identity_of(step.makes)
        return bool(made and now) and made != now

    def withdraw(self, step: Step) -> None:
        """Records that a step done before is being done again, and says why if what it made was replaced.

        Until it ends, what it makes may be half old. Its number stays, so that the steps built on it are done again
        even if this one is stopped.
        """
        if self.has_changed(step):
            print(f"-- {step.title}: {step.makes} is not what it made; done again", flush=True)
        if step.title in self._done:
            self._done[step.title]["unfinished"] = True
            self._done[step.title].pop("made", None)  # of which the step goes on to make something else
            write_json(self._file, {"steps": self._done})

    def add(self, step: Step, seconds: float) -> None:
        """Records that a step is done."""
        self._done[step.title] = {
            "command": step.command,
            "number": 1 + max((entry["number"] for entry in self._done.values()), default=0),
            "after": {title: self._done[title]["number"] for title in step.after},
            "seconds": round(seconds, 1),
            "made": _identity_of(step.makes),
        }
        write_json(self._file, {"steps": self._done})


def _identity_of(made: Path) -> str:
    """Returns name and size of a file, of a run those of its newest checkpoint; an empty text if there is none."""
    found = list_checkpoints(made)[-1:] if made.is_dir() else [made]
    return next((f"{path.name}, {path.stat().st_size} bytes" for path in found if path.is_file()), "")


@dataclass
class Outcome:
    """Lists the titles of the steps that were done, failed, or not started."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # because they depend on a failed step


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    started: float

    def close(self) -> None:
        """Closes the pipe that ties the process to this one (`start_tied`), once the process has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()


def run_steps(
    steps: Sequence[Step],
    completed: CompletedSteps,
    *,
    jobs: int = 1,
    threads: int | None = None,
    keep_going: bool = False,
    on_poll: Callable[[Sequence[Step], Sequence[Step]], None] | None = None,
    done: Sequence[str] = (),
) -> Outcome:
    """Runs the steps that are not done, in the given order, but never a step before those it depends on.

    On a stop signal, the running steps are told to save and stop; then KeyboardInterrupt (for another signal than
    Ctrl-C, its subclass StopSignal) is raised. If this process is killed, they save and stop as well.

    Args:
        steps: steps in any order; every title in `after` must be among them or in `done`.
        completed: record of the folder.
        jobs: number of steps that run at once.
        threads: computing threads of each step; None leaves that to the libraries.
        keep_going: after a failure, run the steps that do not depend on it instead of raising.
        on_poll: called several times a second with the steps now running and those still waiting.
        done: titles of steps that an earlier call has completed.

    Raises:
        TrainingError: a step failed, without `keep_going`.
    """
    _check_launcher(steps)
    environment = _environment(threads)
    outcome, waiting = Outcome(done=list(done)), list(steps)
    running: list[_Running] = []
    with interrupted_by_signals():
        try:
            while waiting or running:
                # Take note of the processes that have ended.
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    _settle(one, completed, outcome, keep_going, quiet_before=jobs > 1)
                # Fill the free places with steps whose dependencies are done.
                while len(running) < jobs and (step := _next_ready(waiting, outcome)) is not None:
                    waiting.remove(step)
                    if completed.is_done(step):
                        if step.output is None:
                            print(f"-- {step.title}: done before", flush=True)
                        outcome.done.append(step.title)
                        continue
                    completed.withdraw(step)
                    running.append(_start(step, environment))
                # Nothing runs and nothing can start: the steps that are left depend on a failed one.
                if not running:
                    outcome.left_out += [step.title for step in waiting]
                    break
                check_held(completed.folder)
                if on_poll is not None:
                    on_poll([one.step for one in running], waiting)
                time.sleep(SECONDS_BETWEEN_POLLS)
        except BaseException:
            _stop(running)
            raise
    return outcome


def _check_launcher(steps: Sequence[Step]) -> None:
    """Refuses steps of several processes where torch's launcher, which does not ask, would run a library found here."""
    if any(step.processes > 1 for step in steps) and (why := why_not_torch_here()) is not None:
        raise TrainingError(why)


def _environment(threads: int | None) -> dict[str, str]:
    """Returns the environment of the steps, each of which has that many computing threads."""
    variables = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    if len(heeded_signals()) < len(STOP_SIGNALS):  # under `nohup`, of which torch's launcher takes no notice
        variables |= {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGQUIT"}
    return SECONDS_TO_SAVE | os.environ | variables


def _next_ready(waiting: list[Step], outcome: Outcome) -> Step | None:
    return next((step for step in waiting if set(step.after) <= set(outcome.done)), None)


def _start(step: Step, environment: dict[str, str]) -> _Running:
    """Starts a step, after printing its title, and its command to the terminal or its log."""
    shown = shlex.join(step.command)
    if step.output is None:
        print(f"\n== {step.title}\n   {shown}", flush=True)
    else:
        print(f"== {step.title}", flush=True)
    launch = LAUNCH if step.processes == 1 else (*LAUNCH_MANY, str(step.processes), *LAUNCH[1:])
    command = [*launch, *step.words]
    with contextlib.ExitStack() as stack:
        sink = None
        if step.output is not None:
            make_folder(step.output.parent)
            sink = stack.enter_context(open_own_file(step.output))
            sink.write(f"\n$ {shown}\n".encode("utf-8", "backslashreplace"))
            sink.flush()
        process = start_tied(command, environment, sink)
    return _Running(step, process, time.monotonic())


def _settle(one: _Running, completed: CompletedSteps, outcome: Outcome, keep_going: bool, quiet_before: bool) -> None:
    """Records how an ended step went; raises if it was stopped, or if it failed without `keep_going`."""
    step, status, seconds = one.step, one.process.returncode, time.monotonic() - one.started
    one.close()
    if status == 0:
        completed.add(step, seconds)
        outcome.done.append(step.title)
        title = f"{step.title}: " if step.output is not None or quiet_before else ""
        print(f"   {title}{format_duration(seconds)}", flush=True)
        return
    if (number := stop_signal_of(status)) is not None:
        raise StopSignal(number)  # the user stopped the step: not a failure, but no other step should start
    outcome.failed.append(step.title)
    message, log = f"the step {step.title!r} failed: its process {describe_end(status)}", []
    if step.output is None:
        message += "; its output is above"
    else:
        log = [f"    {line}" for line in step.output.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:]]
        message += f"; the end of {step.output}:"
    # The log stands in lines of its own, none of which can be taken for one of ours.
    error = TrainingError(message, *log, "Once that is fixed, run the same command again to go on from there")
    if not keep_going:
        raise error
    print("\n".join(error.lines[:-1]), file=sys.stderr, flush=True)


def _stop(running: list[_Running]) -> None:
    """Tells all running steps to save and stop, and waits for them."""
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
    for one in running:
        one.process.wait()
        one.close()


class TrainingWatch:
    """Prints now and then how far the running trainings are, and how much time is left for all of them.

    Args:
        trainings: the steps that train and are not done.
        seconds: the time between two lines.
    """

    def __init__(self, trainings: Iterable[Step], seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._images = _images_of(trainings)
        self._started = self._last = time.monotonic()
        self._first: float | None = None

    def on_poll(self, running: Sequence[Step], waiting: Sequence[Step]) -> None:
        """Prints a line, if the last one is long enough ago; called by `run_steps` several times a second."""
        now = time.monotonic()
        if self._first is not None and now - self._last < self._seconds:
            return
        # How far each running training is, as a share of its images.
        seen, words = {}, []
        for step in (step for step in running if step.title in self._images):
            share, speed = _progress(step.makes)
            seen[step.title] = share
            words.append(f"{step.title}: {share:.0%}{f', {speed:,.0f} images/s' if speed else ''}")
        shares_left = {
            step.title: 1 - seen.get(step.title, 0.0) for step in (*running, *waiting) if step.title in self._images
        }
        images_left = sum(share * self._images[title] for title, share in shares_left.items())
        if self._first is None:
            self._first = images_left
            return
        # The images a second so far give the time that is left.
        self._last = now
        done, to_do = self._first - images_left, sum(shares_left.values())
        left = f"; {format_duration((now - self._started) / done * images_left)} left" if done > 0 else ""
        to_go = f"; {to_do:.1f} trainings to go{left}" if to_do > 0 else ""
        print(f"   {'; '.join(words or [step.title for step in running])}{to_go}", flush=True)


def _images_of(trainings: Iterable[Step]) -> dict[str, float]:
    """Returns how many images each training sees, by title; if its command does not say, the mean of all."""
    said = {
        step.title: float(step.words[step.words.index("--images") + 1]) if "--images" in step.words[:-1] else None
        for step in trainings
    }
    known = [images for images in said.values() if images]
    usual = sum(known) / len(known) if known else 1.0
    return {title: images or usual for title, images in said.items()}


def _progress(folder: Path) -> tuple[float, float | None]:
    """Returns the share of its images that a training has seen, and its images per second, from its log."""
    entries = read_log(folder, "train", ("seconds_left", "images_per_second"))
    if not entries:
        return 0.0, None
    last = entries[-1]
    left = last["seconds_left"] * last["images_per_second"]
    return last["images_seen"] / max(last["images_seen"] + left, 1), last["images_per_second"]
