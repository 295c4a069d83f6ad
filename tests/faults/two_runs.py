"""Starts each command twice in one folder, staggered, and checks that nothing is lost or mixed.

Of two runs either both succeed or one of them says in one sentence that the other is at work; either way the results
are those of an undisturbed run. A second run that starts after the first has ended may refuse to replace its results.

    python -m tests.faults.two_runs --work /tmp/x [NAME ...]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, environment
from tests.faults.contents import contents_of, differences
from tests.faults.inputs import prepare_inputs, work_and_names

SHARES = (0.0, 0.4, 0.8)  # of the time of one run, after which the second starts
LONGEST = 900.0  # seconds that any run may take
# Different commands that write into the same folder: the first of each pair starts first.
CONTENDERS = (
    ("evaluate-lfw", "evaluate-ijbc"),
    ("train", "distill"),
    ("convert", "convert-shards"),
    ("evaluate-folder", "compare"),
)


@dataclass(frozen=True)
class Ended:
    """Says how a run ended."""

    status: int | None
    printed: str

    @property
    def complaint(self) -> str:
        """Returns the sentence that it failed with, or nothing."""
        lines = [line for line in self.printed.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""

    def problem(self, is_launched: bool = False) -> str:
        """Says what is wrong with this end; nothing if it succeeded, or failed with one sentence.

        Args:
            is_launched: a launcher started several processes; it adds a report and has a status of its own.
        """
        if self.status is None:
            return f"still ran after {LONGEST:g} s"
        if is_launched:
            return "" if not self.status or self.complaint else f"without a sentence: {self.printed[-300:]}"
        if "Traceback" in self.printed:
            return "a traceback: " + self.printed.strip().splitlines()[-1]
        if self.status and not (self.status == 2 and self.complaint):
            return f"status {self.status} without a sentence: {self.printed[-300:]}"
        return ""


def start(command: Command, attempt: Path, inputs: Path) -> subprocess.Popen[str]:
    """Starts a run in the folder of an attempt."""
    return subprocess.Popen(
        [sys.executable, *command.argv(inputs)],
        cwd=attempt,
        env=environment(attempt),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(process: subprocess.Popen[str]) -> Ended:
    """Waits until a run has ended, which is killed after `LONGEST` seconds."""
    try:
        printed = process.communicate(timeout=LONGEST)[0]
        return Ended(process.returncode, printed)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(None, process.communicate()[0])


def undisturbed(command: Command, folder: Path, inputs: Path) -> tuple[dict[str, str], float]:
    """Returns the results of a run on its own, and its seconds."""
    attempt = command.start_in(folder, inputs)
    started = time.monotonic()
    ended = wait(start(command, attempt, inputs))
    if ended.status:
        raise SystemExit(f"{command.name} fails when nothing disturbs it:\n{ended.printed}")
    return results_of(attempt), time.monotonic() - started


def results_of(attempt: Path) -> dict[str, str]:
    """Returns what an attempt has left, without the caches of the libraries."""
    shutil.rmtree(attempt / "cache", ignore_errors=True)
    return contents_of(attempt)


def check_pair(
    commands: Sequence[Command], delay: float, attempt: Path, inputs: Path, wanted: list[dict[str, str]]
) -> str:
    """Runs two commands in one folder; returns what went wrong, after `ok: ` if nothing did."""
    for command in commands:
        command.start_in(attempt, inputs)
    processes = []
    for command in commands:
        processes.append(start(command, attempt, inputs))
        time.sleep(delay if len(processes) == 1 else 0)
    ends = [wait(process) for process in processes]
    problems = [
        f"{command.name}: {found}"
        for command, end in zip(commands, ends, strict=True)
        if (found := end.problem(command.processes > 1))
    ]
    if all(end.status for end in ends):
        problems.append(f"neither succeeded: {ends[0].complaint} / {ends[1].complaint}")
    problems += mixed(results_of(attempt), wanted)
    said = " / ".join(end.complaint or f"status {end.status}" for end in ends)
    return "; ".join(problems) if problems else f"ok: {said}"


def mixed(found: dict[str, str], wanted: list[dict[str, str]]) -> list[str]:
    """Says how results differ from those of each command alone; nothing if they are those of one.

    Two different commands may keep files that belong to no result, such as embeddings, in one folder.
    """
    if len(wanted) == 1:
        return differences(found, wanted[0])[:3]
    everything = {name for expected in wanted for name in expected}
    lines = []
    for expected in wanted:
        results = {name: value for name, value in expected.items() if name.startswith("out/")}
        lines.append(differences({name: value for name, value in found.items() if name in results}, results))
    return [] if [] in lines else [*lines[0][:3], *(f"{name}: is new" for name in found if name not in everything)]


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the commands that are named, or all that are quick; returns the exit status."""
    what = "commands, or two joined by a +; default: all that are quick, then pairs of different ones"
    work, chosen = work_and_names(__doc__, what, argv, ["+".join(pair) for pair in CONTENDERS])
    inputs = prepare_inputs(work / "inputs")
    names = chosen or [name for name, command in COMMANDS.items() if not command.expensive]
    pairs = [(name, name) for name in names if name in COMMANDS]
    pairs += [pair for pair in CONTENDERS if not chosen or "+".join(pair) in chosen]

    # Each pair at several moments of the first run.
    alone: dict[str, tuple[dict[str, str], float]] = {}
    failed = 0
    for pair in pairs:
        commands = [COMMANDS[name] for name in pair]
        for command in commands:
            if command.name not in alone:
                alone[command.name] = undisturbed(command, work / "pair", inputs)
        for share in SHARES:
            seconds = share * alone[pair[0]][1]
            said = check_pair(commands, seconds, work / "pair", inputs, [alone[name][0] for name in set(pair)])
            failed += not said.startswith("ok: ")
            print(f"{'+'.join(pair) if pair[0] != pair[1] else pair[0]}\t{seconds:.1f} s\t{said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
