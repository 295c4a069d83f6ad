"""Stops or kills the processes of a running command, and checks that it goes on or ends in one sentence.

A process that is stopped for a while changes nothing. After a kill, or a stop without end, the command goes on without
it, or ends within a stated time with a sentence that names the process. No process is left behind, and the same command
again gives the results of an undisturbed run.

    python -m tests.faults.stopped --work /tmp/x [NAME ...]
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, environment
from tests.faults.contents import differences
from tests.faults.inputs import prepare_inputs, work_and_names
from tests.faults.two_runs import LONGEST, Ended, results_of, start, undisturbed, wait

SECONDS_OF_A_STOP = 3.0
SECONDS_UNTIL_GIVEN_UP = 20
MARK = "FACEKD_FAULTS_MARK"  # in the environment of all processes of an attempt
TRAINED = {"--images 72": "--images 720", "--checkpoint.every_images 24": "--checkpoint.every_images 48"}


def varied(name: str, changes: dict[str, str] | None = None) -> Command:
    """Returns a command of the table with other words, which takes long enough to be met at work."""
    command = COMMANDS[name]
    words = command.words
    for old, new in {**TRAINED, **(changes or {})}.items():
        words = words.replace(old, new)
    return dataclasses.replace(command, words=words)


@dataclass(frozen=True)
class Scenario:
    """Describes whom a signal meets.

    Attributes:
        command: the command.
        whom: `"main"`, `"worker"` (a process that it started), or `"rank 1"`.
        signal: SIGKILL or SIGSTOP.
        goes_on: whether SIGCONT follows after a while.
    """

    command: Command
    whom: str
    signal: signal.Signals
    goes_on: bool = False


LOADING = varied("train", {"--data.workers 0": "--data.workers 1"})
POOL = varied("synthesize", {"--identities 8": "--identities 800", "--workers 0": "--workers 2"})
RANKS = varied("train-sharded")
SCENARIOS = {
    "train: main stopped for a while": Scenario(LOADING, "main", signal.SIGSTOP, True),
    "train: worker stopped for a while": Scenario(LOADING, "worker", signal.SIGSTOP, True),
    "train: worker stopped": Scenario(LOADING, "worker", signal.SIGSTOP),
    "train: worker killed": Scenario(LOADING, "worker", signal.SIGKILL),
    "synthesize: worker killed": Scenario(POOL, "worker", signal.SIGKILL),
    "synthesize: worker stopped": Scenario(POOL, "worker", signal.SIGSTOP),
    "train-sharded: rank stopped for a while": Scenario(RANKS, "rank 1", signal.SIGSTOP, True),
    "train-sharded: rank stopped": Scenario(RANKS, "rank 1", signal.SIGSTOP),
    "train-sharded: rank killed": Scenario(RANKS, "rank 1", signal.SIGKILL),
}


def processes_of(mark: str) -> dict[int, tuple[int, bytes, bytes]]:
    """Returns the processes of an attempt: their parent, command line and environment by process id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes()
            if f"{MARK}={mark}".encode() in variables:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(entry.name)] = (parent, (entry / "cmdline").read_bytes(), variables)
        except OSError:
            continue
    return found


def find(whom: str, main: int, mark: str) -> int | None:
    """Returns the process that a signal should meet, or None if it is not there yet."""
    if whom == "main":
        return main
    found = processes_of(mark)
    for pid, (parent, words, variables) in found.items():
        # Forked, it has the words of the main process; spawned, those of multiprocessing. Others are helpers.
        is_worker = parent == main and (b"spawn_main" in words or words == found.get(main, (0, b""))[1])
        if whom == "worker" and is_worker:
            return pid
        if whom == "rank 1" and b"\0RANK=1\0" in b"\0" + variables + b"\0":
            return pid
    return None


def run(scenario: Scenario, attempt: Path, inputs: Path) -> tuple[Ended, float | None, list[int]]:
    """Runs a command and sends the signal.

    Returns:
        Its end, the seconds from the signal to it, or None if it ended before the signal, and who is left.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, *scenario.command.argv(inputs)],
        cwd=attempt,
        env=environment(attempt, FACEKD_SECONDS_UNTIL_GIVEN_UP=str(SECONDS_UNTIL_GIVEN_UP), **{MARK: mark}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # A training is met after its first checkpoint, so that the same command has something to go on from.
    deadline, met = time.monotonic() + LONGEST, None
    while time.monotonic() < deadline and process.poll() is None:
        is_at_work = "train" not in scenario.command.name or any(attempt.glob("out/checkpoints/*.pt"))
        met = find(scenario.whom, process.pid, mark) if is_at_work else None
        if met is not None:
            os.kill(met, scenario.signal)
            break
        time.sleep(0.01)
    met_at = time.monotonic()
    if scenario.goes_on and process.poll() is None:
        time.sleep(SECONDS_OF_A_STOP)
        os.kill(met or process.pid, signal.SIGCONT)
    ended = wait(process)
    seconds = None if met is None else time.monotonic() - met_at
    time.sleep(1)
    left = list(processes_of(mark))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return ended, seconds, left


def check(scenario: Scenario, work: Path, inputs: Path, expected: dict[str, str]) -> str:
    """Runs a scenario; returns what went wrong, after `ok: ` if nothing did."""
    attempt = scenario.command.start_in(work / "attempt", inputs)
    ended, seconds, left = run(scenario, attempt, inputs)
    problems = [f"processes are left: {left}"] if left else []
    if seconds is None:
        problems.append("it ended before the signal could meet it, so nothing was tested")
    is_launched = scenario.command.processes > 1  # the launcher adds a report of its own, and its own status
    if scenario.goes_on and ended.status:
        problems.append(f"status {ended.status}: {ended.complaint}")
    elif ended.status and not ended.complaint and not (is_launched and "SIGKILL" in ended.printed):
        problems.append(f"status {ended.status} without a sentence: {ended.printed[-300:]}")
    elif "Traceback" in ended.printed and not is_launched:
        problems.append("a traceback")
    if ended.status:
        again = wait(start(scenario.command, attempt, inputs))
        if again.status:
            problems.append(f"again: status {again.status}: {again.complaint}")
    problems += differences(results_of(attempt), expected)[:3]
    said = f"{ended.complaint or f'status {ended.status}'} (after {seconds or 0:.1f} s)"
    return "; ".join([*problems, said]) if problems else f"ok: {said}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the scenarios whose names begin with a word given, or all; returns the exit status."""
    begins = dict.fromkeys(name.partition(":")[0] for name in SCENARIOS)
    work, chosen = work_and_names(__doc__, "scenarios, or commands for all of theirs; default: all", argv, SCENARIOS)
    if chosen and not any(name.startswith(tuple(chosen)) for name in SCENARIOS):
        print(f"nothing is stopped: there are scenarios of {', '.join(begins)} alone")
        return 0
    inputs = prepare_inputs(work / "inputs")
    failed = 0
    alone: dict[str, dict[str, str]] = {}  # the undisturbed results of each command
    for name, scenario in SCENARIOS.items():
        if not chosen or name.startswith(tuple(chosen)):
            command = scenario.command
            if command.words not in alone:
                alone[command.words] = undisturbed(command, work / "stopped" / "attempt", inputs)[0]
            said = check(scenario, work / "stopped", inputs, alone[command.words])
            failed += not said.startswith("ok: ")
            print(f"{name}\t{said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
