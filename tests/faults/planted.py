"""Plants a link where each command will write, and checks that no command writes through it.

For each kind of file that a command writes, a link under one of its names leads to a file of somebody else. The command
must replace the link, or refuse it in one sentence. Either way the other file stays as it was, and where the command
succeeds, its results are those of an undisturbed run. Most commands refuse whatever lies where they write; those that
replace older results when told to get the link in the place of one of these.

    python -m tests.faults.planted --work /tmp/x [NAME ...]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from tests.faults.commands import COMMANDS, Command, environment
from tests.faults.contents import differences
from tests.faults.inputs import prepare_inputs, work_and_names
from tests.faults.two_runs import results_of, start, undisturbed, wait

OTHERS = b"This belongs to somebody else."


def places(names: Sequence[str], done: Sequence[str] = ()) -> list[str]:
    """Returns one of the results for each kind: files of one suffix, and as deep below the folder, are of one kind.

    Args:
        names: what the command leaves.
        done: its marks of complete results; one that begins with `../` lies beside the folder of the others.
    """
    chosen: dict[tuple[int, str], str] = {}
    for name in sorted(names):
        path = PurePath(name)
        if path.parts[0] == "out":
            chosen.setdefault((len(path.parts), path.suffix or path.name), name)
    return [*chosen.values(), *(mark.removeprefix("../") for mark in done if mark.startswith("../"))]


def older_results(command: Command, folder: Path, inputs: Path) -> Path | None:
    """Makes the results of another command that one begins over, and returns their folder; None if it does not."""
    if not command.over:
        return None
    start_in = command.start_in(folder, inputs)
    subprocess.run(
        [sys.executable, *command.argv_before(inputs)],
        cwd=start_in,
        env=environment(start_in),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return start_in / "out"


def problem(
    command: Command,
    attempt: Path,
    inputs: Path,
    name: str,
    expected: dict[str, str],
    victim: Path,
    older: Path | None = None,
) -> tuple[str, str]:
    """Runs a command over a link; returns what went wrong, or nothing, and how it ended."""
    victim.write_bytes(OTHERS)
    link = command.start_in(attempt, inputs) / name
    if older is not None:
        shutil.copytree(older, attempt / "out")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    ended = wait(start(command, attempt, inputs))
    found = [ended.problem(command.processes > 1)]
    if victim.read_bytes() != OTHERS:
        found.append("wrote through the link")
    if not ended.status:
        found += differences(results_of(attempt), expected)[:3]
        found += ["the link is left"] if link.is_symlink() else []
    return "; ".join(filter(None, found)), ended.complaint or f"status {ended.status}"


def check(command: Command, work: Path, inputs: Path) -> Iterator[tuple[str, str]]:
    """Yields for each place of a link what went wrong, after `ok: ` if nothing did."""
    expected, _ = undisturbed(command, work / "planted", inputs)
    older = older_results(command, work / "older", inputs)
    for name in places(list(expected), command.done):
        found, said = problem(command, work / "planted", inputs, name, expected, work / "victim", older)
        yield name, found or f"ok: {said}"


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the commands that are named, or all that are quick; returns the exit status."""
    work, chosen = work_and_names(__doc__, "commands; default: all that are quick", argv)
    inputs = prepare_inputs(work / "inputs")
    quick = [name for name, command in COMMANDS.items() if not command.expensive]
    failed = tried = 0
    for name in chosen or quick:
        for place, said in check(COMMANDS[name], work, inputs):
            tried += 1
            failed += not said.startswith("ok: ")
            print(f"{name}\t{place}\t{said}", flush=True)
    print(f"{tried - failed} of {tried} places of links as promised")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
