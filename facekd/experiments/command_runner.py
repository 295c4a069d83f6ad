"""Commands in order, each in a process of its own, and the memory of which are done.

What `facekd quickstart`, `facekd study` and `facekd pipeline` have in common: every step is a `facekd` command that a
user could type. A step is skipped where it was completed with the same command, what it makes is still there, and
nothing it builds on was made anew since; the verbs themselves go on where they were interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facekd.errors import TrainingError
from facekd.utils.files import write_json
from facekd.utils.processes import start_tied
from facekd.utils.progress import format_duration

SECONDS_BETWEEN_LOOKS = 0.05
LAST_LINES = 15
LAUNCH = (sys.executable, "-m", "facekd")
LAUNCH_MANY = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
# A launcher kills what has not saved by then; 30 seconds, its own default, are short for a step and a large head.
SECONDS_TO_SAVE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        title: what it does, for people; also its name in the memory, so no two steps share one.
        words: of the command, after `facekd`.
        makes: a file or folder that is there once it is done.
        after: titles of the steps it builds on.
        output: a file that takes what it prints; None lets it print where we do.
        processes: that train together, one a GPU.
    """

    title: str
    words: tuple[str, ...]
    makes: Path
    after: tuple[str, ...] = ()
    output: Path | None = None
    processes: int = 1

    @property
    def command(self) -> list[str]:
        """As the user would type it."""
        return ["facekd", *self.words]


def as_options(values: dict[str, Any]) -> list[str]:
    """`{"data.workers": 1}` -> `["--data.workers", "1"]`, with values as YAML and JSON both read them."""
    return [word for key, value in values.items() for word in (f"--{key}", as_word(value))]


def as_word(value: Any) -> str:
    """A value of a YAML file as one word of a command line."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)  # true, null, [1, 2]: as YAML has them too


class Memory:
    """`steps.json` of a folder: which commands were completed there, and in which order.

    Args:
        folder: of the file.
        same_command_only: refuse a step that was done by another command, instead of doing it again.
    """

    def __init__(self, folder: Path, same_command_only: bool = False) -> None:
        self._file = folder / "steps.json"
        self._same_command_only = same_command_only
        self._done: dict[str, Any] = {}
        if self._file.exists():
            try:
                self._done = json.loads(self._file.read_text())["steps"]
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingError(
                    f"{self._file}: not a list of steps ({error}). Delete it: each step is looked at again"
                ) from error

    def holds(self, step: Step) -> bool:
        """Whether a step need not be run.

        Raises:
            TrainingError: it was done by another command, and that is refused.
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
        built_on = {title: self._done.get(title, {}).get("number") for title in step.after}
        return step.makes.exists() and entry["after"] == built_on

    def add(self, step: Step, seconds: float) -> None:
        """Note that a step is done."""
        self._done[step.title] = {
            "command": step.command,
            "number": 1 + max((entry["number"] for entry in self._done.values()), default=0),
            "after": {title: self._done[title]["number"] for title in step.after},
            "seconds": round(seconds, 1),
        }
        write_json(self._file, {"steps": self._done})


@dataclass
class Outcome:
    """What came of the steps, by title."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # for they build on a failed one


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    started: float

    def close(self) -> None:
        """Let go of what ties an ended process to this one."""
        if self.process.stdin is not None:
            self.process.stdin.close()


def run_steps(
    steps: Sequence[Step],
    memory: Memory,
    *,
    jobs: int = 1,
    threads: int | None = None,
    keep_going: bool = False,
    look: Callable[[Sequence[Step], Sequence[Step]], None] | None = None,
    done: Sequence[str] = (),
) -> Outcome:
    """Run what is not done, in the order given, except that nothing runs before what it builds on.

    A stop signal is passed on to the running steps, which save and stop; then KeyboardInterrupt is raised. They do the
    same where this process is killed.

    Args:
        steps: any order in which all of `after` can be met.
        memory: of the folder.
        jobs: steps that run at once.
        threads: computing threads of each; None leaves that to the libraries.
        keep_going: after a failure run what does not build on it, instead of raising.
        look: called again and again with the steps now running and those still to run.
        done: titles of steps that an earlier call has seen to.

    Raises:
        TrainingError: a step failed, without `keep_going`.
    """
    environment = SECONDS_TO_SAVE | os.environ
    if threads is not None:
        environment |= {name: str(threads) for name in THREAD_VARIABLES}
    outcome = Outcome(done=list(done))
    waiting = list(steps)
    running: list[_Running] = []
    with _stopping_on_signals():
        try:
            while waiting or running:
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    _settle(one, memory, outcome, keep_going, quiet_before=jobs > 1)
                while len(running) < jobs and (step := _next_ready(waiting, outcome)) is not None:
                    waiting.remove(step)
                    if memory.holds(step):
                        if step.output is None:
                            print(f"-- {step.title}: done before", flush=True)
                        outcome.done.append(step.title)
                        continue
                    running.append(_start(step, environment))
                if not running:
                    _leave_out(waiting, outcome)
                    continue
                if look is not None:
                    look([one.step for one in running], waiting)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            _stop(running)
            raise
    return outcome


def _next_ready(waiting: list[Step], outcome: Outcome) -> Step | None:
    return next((step for step in waiting if set(step.after) <= set(outcome.done)), None)


def _leave_out(waiting: list[Step], outcome: Outcome) -> None:
    """Nothing runs and nothing can: what is left builds on what failed."""
    outcome.left_out += [step.title for step in waiting]
    waiting.clear()


def _start(step: Step, environment: dict[str, str]) -> _Running:
    shown = shlex.join(step.command)
    if step.output is None:
        print(f"\n== {step.title}\n   {shown}", flush=True)
    else:
        print(f"== {step.title}", flush=True)
    launch = LAUNCH if step.processes == 1 else (*LAUNCH_MANY, str(step.processes), "-m", "facekd")
    command = [*launch, *step.words]
    with contextlib.ExitStack() as stack:
        sink = None
        if step.output is not None:
            step.output.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(step.output.open("ab"))
            sink.write(f"\n$ {shown}\n".encode())
            sink.flush()
        process = start_tied(command, environment, sink)
    return _Running(step, process, time.monotonic())


def _settle(one: _Running, memory: Memory, outcome: Outcome, keep_going: bool, quiet_before: bool) -> None:
    step, status, seconds = one.step, one.process.returncode, time.monotonic() - one.started
    one.close()
    if status == 0:
        memory.add(step, seconds)
        outcome.done.append(step.title)
        title = f"{step.title}: " if step.output is not None or quiet_before else ""
        print(f"   {title}{format_duration(seconds)}", flush=True)
        return
    if status in (130, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt  # someone stopped it: that is no failure, and nothing else should start
    outcome.failed.append(step.title)
    message = f"the step {step.title!r} failed (status {status})"
    if step.output is None:
        message += "; what it said is above"
    else:
        lines = step.output.read_text(errors="replace").splitlines()[-LAST_LINES:]
        message += f"; the end of {step.output}:\n" + "\n".join(f"    {line}" for line in lines)
    if not keep_going:
        raise TrainingError(f"{message}. Once that is mended, the same command goes on from there")
    print(message, file=sys.stderr, flush=True)


def _stop(running: list[_Running]) -> None:
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
    for one in running:
        one.process.wait()
        one.close()


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """SIGTERM interrupts like Ctrl-C, so that the running steps are told to save."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
