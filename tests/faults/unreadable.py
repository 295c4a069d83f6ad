"""Runs each command where it may not read, or not write, and checks that it says so in one sentence, at once.

For each command: all inputs in folders that cannot be written, where it must succeed and leave nothing beside them; an
output folder that cannot be written; and each of its inputs without permission to read, as a folder in place of a file,
and as a link to nothing.

    python -m tests.faults.unreadable --work /tmp/x [NAME ...]

Root may do anything, so the commands are started without that privilege, by `setpriv`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, environment
from tests.faults.contents import differences
from tests.faults.inputs import prepare_inputs, work_and_names
from tests.faults.two_runs import LONGEST, Ended, results_of, undisturbed

PRIVILEGES = "-dac_override,-dac_read_search"
UNPRIVILEGED = () if os.geteuid() else ("setpriv", f"--bounding-set={PRIVILEGES}", f"--inh-caps={PRIVILEGES}")


def run(command: Command, attempt: Path, inputs: Path) -> Ended:
    """Runs a command without the privilege to pass over permissions."""
    try:
        done = subprocess.run(
            [*UNPRIVILEGED, sys.executable, *command.argv(inputs)],
            cwd=attempt,
            env=environment(attempt),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        return Ended(None, str(error.output))
    return Ended(done.returncode, done.stdout)


def refusal(command: Command, ended: Ended, name: str) -> str:
    """Says how a run failed to refuse something in a sentence that names it; nothing if it did."""
    if found := ended.problem(command.processes > 1):
        return found
    if ended.status == 0:
        return "it succeeded"
    return "" if name in ended.complaint else f"the sentence does not name {name}: {ended.complaint}"


def inputs_of(command: Command) -> list[str]:
    """Returns the names of the inputs that stand in the words of a command."""
    return sorted({word.strip("[]").replace("{in}/", "") for word in command.words.split() if "{in}/" in word})


def protected(folder: Path, is_writable: bool) -> None:
    """Takes or gives the permission to write into a folder and all in it."""
    subprocess.run(["chmod", "-R", "u+w" if is_writable else "a-w", str(folder)], check=True)


def broken(path: Path) -> Iterator[str]:
    """Yields a name for each way in which an input cannot be read, while it cannot."""
    aside = path.with_name(f"{path.name}.aside")
    mode = path.stat().st_mode
    path.chmod(0)
    yield "no permission"
    path.chmod(mode)
    path.rename(aside)
    path.symlink_to("nothing")
    yield "a link to nothing"
    path.unlink()
    if aside.is_file():
        path.mkdir()
        yield "a folder in its place"
        path.rmdir()
    else:
        path.touch()
        yield "an empty file in its place"
        path.unlink()
    aside.rename(path)


def check(command: Command, work: Path, inputs: Path) -> Iterator[tuple[str, str]]:
    """Yields for each scenario its name and what went wrong, after `ok: ` if nothing did."""
    expected, seconds = undisturbed(command, work / "attempt", inputs)

    # Inputs that cannot be written, those copied into the attempt included.
    attempt = command.start_in(work / "attempt", inputs)
    kept = [attempt / name for name in command.needs if command.name != "report"]
    for folder in (inputs, *kept):
        protected(folder, False)
    ended = run(command, attempt, inputs)
    for folder in (inputs, *kept):
        protected(folder, True)
    lines = differences(results_of(attempt), {name: value for name, value in expected.items() if "facekd-" not in name})
    lines = [line for line in lines if "facekd-" not in line and "align_log" not in line]  # which holds times of inputs
    problem = ended.problem(command.processes > 1) or (
        f"status {ended.status}: {ended.complaint}" if ended.status else "; ".join(lines[:3])
    )
    yield "read-only inputs", problem or "ok"

    # An output that cannot be written: the folder is there, or it has to be made. Some commands only print.
    written = [name for name in expected if not name.startswith(("cache/", "tmp/", *command.needs))]
    has_folder = command.name == "report" or any(name.startswith("out/") for name in written)
    beside = [mark.removeprefix("../") for mark in command.done if mark.startswith("../")]
    places = ["."] if written or beside else []
    for name in ["out", *places] if has_folder else places:
        attempt = command.start_in(work / "attempt", inputs)
        (attempt / name).mkdir(exist_ok=True)
        (attempt / "cache").mkdir()
        place = attempt / ("ijb-results" if command.name == "report" else name)
        place.chmod(0o555)
        started = time.monotonic()
        ended = run(command, attempt, inputs)
        place.chmod(0o755)
        wanted = "out" if not beside else "results" if command.name == "report" else beside[0]
        problem = refusal(command, ended, wanted)
        took = f"after {time.monotonic() - started:.1f} s of {seconds:.1f} s"
        yield (
            f"read-only {'output' if name == 'out' else 'parent of the output'}",
            problem or f"ok: {ended.complaint} ({took})",
        )

    # Each input in turn.
    for name in inputs_of(command):
        for how in broken(inputs / name):
            ended = run(command, command.start_in(work / "attempt", inputs), inputs)
            yield f"{name}: {how}", refusal(command, ended, Path(name).name.split(".")[0]) or f"ok: {ended.complaint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the commands that are named, or all that are quick; returns the exit status."""
    work, chosen = work_and_names(__doc__, "commands; default: all that are quick", argv)
    original = prepare_inputs(work / "inputs")
    inputs = work / "unreadable-inputs"  # a copy, because permissions are changed
    if inputs.exists():  # a run that was killed may have left some without permissions
        subprocess.run(["chmod", "-R", "u+rwX", str(inputs)], check=True)
        shutil.rmtree(inputs)
    shutil.copytree(original, inputs)
    names = chosen or [name for name, command in COMMANDS.items() if not command.expensive]
    failed = 0
    for name in names:
        for scenario, said in check(COMMANDS[name], work / "unreadable", inputs):
            failed += not said.startswith("ok")
            print(f"{name}\t{scenario}\t{said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
