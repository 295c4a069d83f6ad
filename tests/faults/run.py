"""Breaks facekd's commands and checks that the same command run again gives the undisturbed result.

    python -m tests.faults.run [VERB ...] [--kills N] [--failures N] [--jobs N] [--folder DIR]

Each command of `commands.py` runs undisturbed. Then it is killed at the calls that change its results and at random
times, its disk is filled, its writes and reads fail. After each of these nothing half may be shown as done, and the
same command must end with status 0 and the same results, with no file or process left over. Outcomes are kept in the
folder, so a stopped run goes on; `--report` prints their table. A kill after the end, or at a call that never came,
counts as not met. Ends with status 1 if something was found, or a command was not tested.

Commands that import much are forked from a server, except for every fifth attempt (see `server.py`).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from facekd.files.reading import sha256_of_file
from tests.faults import contents
from tests.faults.attempts import Ended, Fault, Runner, build_shim
from tests.faults.checks import found_after_fault, found_after_rerun, found_in_message, is_said_loss
from tests.faults.commands import COMMANDS, ROOT, Command, environment
from tests.faults.contents import UNREADABLE, contents_of, differences
from tests.faults.inputs import prepare_inputs
from tests.faults.plan import failures, kills
from tests.faults.small_disk import SmallDisk, can_mount

FRESH_EACH = 5  # of how many attempts one is a fresh process throughout
KILLS, CALLS, FULL = ("group", "self", "time"), ("error", "errors", "short"), ("full",)
NEVER = "never reached"


class CommandFails(Exception):
    """Reports a command that fails undisturbed, or gives two results."""


class Campaign:
    """Runs all attempts on one command and keeps their outcomes.

    Args:
        command: the command.
        folder: folder of the command's attempts.
        runner: runs them.
        fresh: start a fresh process for every attempt.
    """

    def __init__(self, command: Command, folder: Path, runner: Runner, fresh: bool) -> None:
        self.command, self.folder, self.runner, self.fresh = command, folder, runner, fresh
        folder.mkdir(parents=True, exist_ok=True)
        self._outcomes = folder / "outcomes.jsonl"
        self.outcomes = _lines_of(self._outcomes)

    def measure(self) -> dict:
        """Runs the command undisturbed, unless it is known what it does then; returns calls, contents and seconds."""
        known = self.folder / "undisturbed.json"
        rules = sha256_of_file(contents.__file__)
        if known.exists() and (value := json.loads(known.read_text())).get("rules") == rules:
            return value
        # A fresh process and a forked one must agree; the third run says what is read.
        results = []
        for fault, forked in ((Fault(), False), (Fault(), not self.fresh), (Fault(where="inputs"), not self.fresh)):
            attempt = self._start_in(self.folder / "attempt")
            old = contents_of(attempt)
            ended = self.runner.run(self.command, attempt, fault, forked, 900)
            if ended.status != 0:
                raise CommandFails(f"{self.command.name}: fails undisturbed: status {ended.status}\n{ended.output}")
            results.append((ended, contents_of(attempt)))
        (first_run, first), (second_run, second), (reading, _) = results
        if found := differences(second, first):
            raise CommandFails(f"{self.command.name}: two undisturbed runs differ: {found}")
        if unread := [name for name, content in second.items() if content.startswith(UNREADABLE)]:
            raise CommandFails(f"{self.command.name}: what it writes cannot be compared: {', '.join(unread)}")
        value = {
            "rules": rules,  # by which contents were compared then
            "calls": second_run.calls,
            "reads": reading.calls,
            "contents": second,
            "old": {name: content for name, content in old.items() if name.startswith("out/")},
            "seconds": first_run.seconds,
            "seconds_forked": second_run.seconds,
            "bytes": _size_of(self.folder / "attempt"),
        }
        known.write_text(json.dumps(value))
        return value

    def _start_in(self, attempt: Path) -> Path:
        """Makes the folder of an attempt, with the results of the other command that it begins over."""
        self.command.start_in(attempt, self.runner.inputs)
        if self.command.over:
            before = self.folder / "before"
            if not before.exists():
                argv = [sys.executable, *self.command.argv_before(self.runner.inputs)]
                start = self.command.start_in(self.folder / "before.partial", self.runner.inputs)
                subprocess.run(argv, cwd=start, env=environment(start), check=True, stdout=subprocess.DEVNULL)
                start.rename(before)
            shutil.copytree(before / "out", attempt / "out")
        return attempt

    def _is_forked(self, undisturbed: dict) -> bool:
        """Tells whether the next attempt is forked: most are, if that is faster."""
        is_faster = undisturbed["seconds_forked"] < 0.8 * undisturbed["seconds"]
        return is_faster and not self.fresh and self.command.processes == 1 and len(self.outcomes) % FRESH_EACH != 0

    def try_fault(self, fault: Fault, undisturbed: dict) -> None:
        """Lets a fault happen, runs the command again, and keeps what was found."""
        key = asdict(fault)
        if any(outcome["fault"] == key for outcome in self.outcomes):
            return
        forked = self._is_forked(undisturbed)
        attempt = self._start_in(self.folder / "attempt")
        limit = 60 + 20 * undisturbed["seconds"]
        usual = undisturbed["seconds_forked" if forked else "seconds"]
        ended = self.runner.run(self.command, attempt, fault, forked, limit, usual)
        hit = _call_at(ended, fault)
        left = contents_of(attempt)
        # What the fault has left, and how it was told.
        is_spared = fault.where == "inputs" and self.command.spares and self.command.spares in hit
        if ended.status == 0:
            changed = [] if is_spared else differences(left, undisturbed["contents"])
            # What cannot be cached beside the data is cached in the user's folder instead.
            changed = [line for line in changed if not line.startswith("cache/")]
            found = [f"status 0, but {line}" for line in changed if not is_said_loss(ended, hit, line)]
        else:
            found = found_after_fault(self.command, left, undisturbed["contents"], undisturbed["old"])
        found += [f"process left: {stray}" for stray in ended.strays]
        if fault.how in CALLS:
            found += found_in_message(ended, _names_of(ended, fault))
        # The same command again.
        if ended.status != 0:
            again = self.runner.run(self.command, attempt, Fault(), forked, limit)
            found += found_after_rerun(again, left, contents_of(attempt), undisturbed["contents"])
        self._keep(fault, ended, hit, forked, found)

    def fill_disk(self, fault: Fault, undisturbed: dict) -> None:
        """Runs the command on a disk too small for it, then again with space; keeps what was found."""
        if any(outcome["fault"] == asdict(fault) for outcome in self.outcomes):
            return
        limit = 60 + 20 * undisturbed["seconds"]
        forked = self._is_forked(undisturbed)
        with SmallDisk(self.folder / "disk") as disk:
            attempt = self._start_in(disk.folder / "attempt")
            disk.leave(fault.at)
            ended = self.runner.run(self.command, attempt, fault, forked, limit)
            left = contents_of(attempt)
            disk.leave(1 << 30)
            if ended.status == 0:
                found = [f"status 0, but {line}" for line in differences(left, undisturbed["contents"])]
            else:
                found = found_after_fault(self.command, left, undisturbed["contents"], undisturbed["old"])
                found += found_in_message(ended, ["out", *map(_last_part, undisturbed["contents"])])
                again = self.runner.run(self.command, attempt, Fault(), forked, limit)
                found += found_after_rerun(again, left, contents_of(attempt), undisturbed["contents"])
        self._keep(fault, ended, f"{fault.at:,} bytes free", forked, found)

    def _keep(self, fault: Fault, ended: Ended, hit: str, forked: bool, found: list[str]) -> None:
        outcome = {
            "command": self.command.name,
            "commit": _commit(),
            "fault": asdict(fault),
            "hit": hit,
            "forked": forked,
            "status": ended.status,
            "found": found,
        }
        self.outcomes.append(outcome)
        with self._outcomes.open("a") as stream:
            stream.write(json.dumps(outcome) + "\n")
        if found:
            print(f"{self.command.name}: {fault.how} at {fault.at} ({hit}), status {ended.status}", flush=True)
            for line in found[:6]:
                print(f"    {line}", flush=True)


def main() -> int:
    """Runs all commands, or those named; returns 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verbs", nargs="*", help="names in commands.py (default: all but those that take minutes)")
    parser.add_argument("--kills", type=int, default=12, help="SIGKILLs a command, a quarter at random times")
    parser.add_argument("--failures", type=int, default=4, help="failing calls of each kind a command, and full disks")
    parser.add_argument("--jobs", type=int, default=1, help="commands under test at once (default: 1)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/facekd-faults"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument("--fresh", action="store_true", help="no forked processes")
    parser.add_argument("--report", action="store_true", help="only print the table of the outcomes in the folder")
    arguments = parser.parse_args()
    chosen = arguments.verbs or [name for name, command in COMMANDS.items() if not command.expensive]
    if unknown := set(chosen) - set(COMMANDS):
        parser.error(f"no command {', '.join(sorted(unknown))}; there are {', '.join(COMMANDS)}")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        shim = build_shim(folder)
        if shim is None:
            print("nothing was tested: the fault injection needs Linux and a C compiler (cc)")
            return 1
        inputs = prepare_inputs(folder / "inputs")
        if arguments.jobs > 1:
            failed = _share_out(chosen, arguments)
        else:
            failed = _run_all(chosen, arguments, shim, inputs)
        return max(int(failed), print_report(folder, chosen))
    return print_report(folder, chosen)


def _run_all(chosen: list[str], arguments: argparse.Namespace, shim: Path, inputs: Path) -> bool:
    """Runs all attempts on some commands; returns whether one of them fails undisturbed."""
    failed = False
    folder = arguments.folder.resolve()
    runner = Runner(shim, folder / f"runner-{os.getpid()}", inputs)
    try:
        for name in chosen:
            campaign = Campaign(COMMANDS[name], folder / name, runner, arguments.fresh)
            try:
                _run_campaign(campaign, arguments)
            except CommandFails as error:
                failed = True
                print(error, flush=True)
            print(_row(name, campaign.outcomes), flush=True)
    finally:
        runner.close()
        shutil.rmtree(runner.folder, ignore_errors=True)
    return failed


def _run_campaign(campaign: Campaign, arguments: argparse.Namespace) -> None:
    """Runs all attempts on one command."""
    undisturbed = campaign.measure()
    timed = arguments.kills // 4
    plan = kills(campaign.command, undisturbed["calls"], arguments.kills - timed, timed, arguments.seed)
    plan += failures(undisturbed["calls"], undisturbed["reads"], arguments.failures)
    for fault in plan:
        campaign.try_fault(fault, undisturbed)
    if arguments.failures and can_mount(campaign.folder):
        for part in range(arguments.failures):
            campaign.fill_disk(Fault("full", undisturbed["bytes"] * part // arguments.failures), undisturbed)
    elif arguments.failures:
        print("no full disks: mounting a tmpfs is not allowed here")
    shutil.rmtree(campaign.folder / "attempt", ignore_errors=True)


def _share_out(chosen: list[str], arguments: argparse.Namespace) -> bool:
    """Runs the commands in several processes of this program, each of which takes its share; returns if one fails."""
    options = ["--kills", str(arguments.kills), "--failures", str(arguments.failures), "--seed", str(arguments.seed)]
    options += ["--folder", str(arguments.folder), *(["--fresh"] if arguments.fresh else [])]
    shares = [chosen[start :: arguments.jobs] for start in range(arguments.jobs)]
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.faults.run", *share, *options]) for share in shares if share
    ]
    statuses = [process.wait() for process in running]
    return any(statuses)


def print_report(folder: Path, chosen: list[str]) -> int:
    """Prints the table of the outcomes; returns 1 if something was found, or a command was not tested, else 0."""
    print(f"{platform.node()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, commit {_commit()}\n")
    everything = {name: _lines_of(folder / name / "outcomes.jsonl") for name in chosen}
    print("| command | kills | failing calls | full disks | fresh processes | not met | survived | found |")
    print("|---|---|---|---|---|---|---|---|")
    for name, outcomes in everything.items():
        if outcomes:
            print(_row(name, outcomes))
    print(_row("all", [outcome for outcomes in everything.values() for outcome in outcomes]))
    untested = [name for name, outcomes in everything.items() if not any(map(was_met, outcomes))]
    if untested:
        print(f"not tested, because no fault met them: {', '.join(untested)}")
    return int(bool(untested) or any(outcome["found"] for outcomes in everything.values() for outcome in outcomes))


def was_met(outcome: dict) -> bool:
    """Tells whether a fault met its command: a kill a running process, a failing call one that was made."""
    if outcome["fault"]["how"] in KILLS:
        return outcome["status"] != 0
    return outcome["hit"] != NEVER


def _row(name: str, outcomes: list[dict]) -> str:
    kinds = [outcome["fault"]["how"] for outcome in outcomes]
    counts = [sum(kind in some for kind in kinds) for some in (KILLS, CALLS, FULL)]
    fresh = sum(not outcome["forked"] for outcome in outcomes)
    found = sum(bool(outcome["found"]) for outcome in outcomes)
    missed = sum(not was_met(outcome) and not outcome["found"] for outcome in outcomes)
    survived = len(outcomes) - found - missed
    return f"| {name} | {' | '.join(map(str, [*counts, fresh, missed, survived, found]))} |"


@functools.cache
def _commit() -> str:
    """Returns the commit of this checkout; empty outside of git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _call_at(ended: Ended, fault: Fault) -> str:
    if fault.how in ("time", "none"):
        return f"{fault.at / 10:.0f} % of the time"
    return next((f"{call[2]} {call[3]}" for call in ended.calls if call[0] == str(fault.at)), NEVER)


def _names_of(ended: Ended, fault: Fault) -> list[str]:
    """Returns names that a message may give: those of the file that failed, or of one that failed after it.

    A temporary file stands for the result that begins with the same word, and no name for the folder of the attempt.
    """
    is_lasting = fault.how == "errors"
    hit = [call[3] for call in ended.calls if int(call[0]) == fault.at or (is_lasting and int(call[0]) > fault.at)]
    parts = {part for path in hit for part in Path(path).parts if part.strip("/.")}
    is_folder = "" in hit
    return sorted(parts | {part.lstrip(".").split(".")[0] for part in parts} | ({"/attempt"} if is_folder else set()))


def _last_part(name: str) -> str:
    return Path(name).name


def _size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    raise SystemExit(main())
