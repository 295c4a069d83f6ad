"""Runs a command once, with a fault at a given call or moment, as a fresh process or forked from a server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.commands import ROOT, Command, environment

SECONDS_TO_DISAPPEAR = 30.0


@dataclass(frozen=True)
class Fault:
    """Says what goes wrong, and when.

    Attributes:
        how: `none`; `group` or `self`, a SIGKILL at a call; `error`, `errors` or `short`, see shim.c; `time`, a SIGKILL
            of the process group at a time; `full`, a disk of a given size.
        at: number of the call; thousandths of the time that the command takes; free bytes.
        number: the error number.
        where: folder whose files are concerned: `attempt` or `inputs`, of which reading counts.
    """

    how: str = "none"
    at: int = 0
    number: int = 0
    where: str = "attempt"

    def variables(self) -> dict[str, str]:
        """Returns the environment variables that tell the shim."""
        reads = {"FAULTS_READS": "1"} if self.where == "inputs" else {}
        if self.how in ("none", "time", "full"):
            return reads
        return {"FAULTS_AT": str(self.at), "FAULTS_HOW": self.how, "FAULTS_ERRNO": str(self.number), **reads}


@dataclass(frozen=True)
class Ended:
    """Says how an attempt ended.

    Attributes:
        status: exit status; negative for a signal.
        output: what it printed.
        calls: a row `[number, process, call, path]` for each call that changes files; paths are relative.
        strays: processes that were still there long after it had ended.
        seconds: how long it took.
    """

    status: int
    output: str
    calls: list[list[str]]
    strays: list[str]
    seconds: float


def build_shim(folder: Path) -> Path | None:
    """Compiles shim.c into `folder`; returns None where there is no compiler, or no way to preload."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        return None
    source, shim = Path(__file__).with_name("shim.c"), folder / "shim.so"
    if not shim.exists() or shim.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    return shim


class Runner:
    """Runs attempts one after the other; keeps a server to fork from, once it is asked for one.

    Args:
        shim: the compiled shim.
        folder: folder for its own files, outside the attempts'.
        inputs: folder of the inputs.
    """

    def __init__(self, shim: Path, folder: Path, inputs: Path) -> None:
        self.shim, self.folder, self.inputs = shim, folder, inputs
        self._server: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self, command: Command, attempt: Path, fault: Fault, forked: bool, limit: float, usual: float = 0.0
    ) -> Ended:
        """Runs a command in its prepared folder.

        Args:
            command: the command; one of several processes is never forked.
            attempt: see `Command.start_in`.
            fault: what goes wrong.
            forked: fork from the server instead of starting an interpreter.
            limit: seconds after which it counts as hanging, and is killed.
            usual: seconds that it takes undisturbed, for a fault at a time.
        """
        forked = forked and command.processes == 1
        if forked:
            self._start_server()
        log, trace, counter = (self.folder / name for name in ("log", "trace", "counter"))
        log.write_bytes(b"")
        trace.write_bytes(b"")
        counter.write_bytes(bytes(8))
        temporary = attempt / "tmp"
        temporary.mkdir(exist_ok=True)
        variables = environment(
            attempt,
            TMPDIR=str(temporary),
            LD_PRELOAD=str(self.shim),
            FAULTS_WATCH=str(self.inputs if fault.where == "inputs" else attempt),
            FAULTS_ATTEMPT=str(attempt),
            FAULTS_TRACE=str(trace),
            FAULTS_COUNTER=str(counter),
            **fault.variables(),
        )
        started = time.monotonic()
        number, wait = (
            self._fork(command, attempt, variables, log) if forked else self._start(command, attempt, variables, log)
        )
        if fault.how == "time":
            time.sleep(usual * fault.at / 1000)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(number, signal.SIGKILL)
        status, hangs = self._wait(number, wait, started + limit)
        seconds = time.monotonic() - started
        strays = _strays_of(number, str(attempt))
        output = log.read_text(errors="replace") + ("\n(hung, and was killed)" if hangs else "")
        calls = [line.split("\t") for line in trace.read_text(errors="replace").splitlines()]
        return Ended(status, output, calls, strays, seconds)

    def close(self) -> None:
        """Ends the server."""
        if self._server is not None and self._server.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._server.stdin.close()
            self._server.wait()
            self._server = None

    def _start(self, command: Command, attempt: Path, variables: dict[str, str], log: Path) -> tuple[int, object]:
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, *command.argv(self.inputs)],
                cwd=attempt,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        return process.pid, process

    def _fork(self, command: Command, attempt: Path, variables: dict[str, str], log: Path) -> tuple[int, object]:
        assert self._server is not None and self._server.stdin is not None
        words = command.argv(self.inputs)[2:]
        request = {"words": words, "folder": str(attempt), "environment": variables, "log": str(log)}
        self._server.stdin.write(json.dumps(request) + "\n")
        return int(self._answer()), None

    def _start_server(self) -> None:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.server"],
                cwd=ROOT,
                env=environment(self.folder / "server", LD_PRELOAD=str(self.shim)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            self._answer()

    def _answer(self) -> str:
        assert self._server is not None and self._server.stdout is not None
        return self._server.stdout.readline()

    def _wait(self, number: int, process: object, deadline: float) -> tuple[int, bool]:
        """Waits for the command's first process; returns its status and whether it had to be killed."""
        hangs = False
        while process.poll() is None if isinstance(process, subprocess.Popen) else _is_running(number):
            if not hangs and time.monotonic() > deadline:
                hangs = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(number, signal.SIGKILL)
            time.sleep(0.01)
        return process.returncode if isinstance(process, subprocess.Popen) else int(self._answer()), hangs


def _is_running(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


def _strays_of(session: int, token: str) -> list[str]:
    """Waits for all processes of an attempt to disappear; kills those that do not, and returns their command lines."""
    deadline = time.monotonic() + SECONDS_TO_DISAPPEAR
    while (found := _processes_of(session, token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    lines = []
    for number in found:
        with contextlib.suppress(OSError):
            lines.append(
                Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
            )
            os.kill(number, signal.SIGKILL)
    return lines


def _processes_of(session: int, token: str) -> list[int]:
    """Lists the processes of a session, and those whose environment names the attempt's folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            state, its_session = fields[0], int(fields[3])
            if state == "Z" or int(folder.name) == os.getpid():
                continue
            mark = f"FAULTS_ATTEMPT={token}\0".encode()
            if its_session == session or mark in (folder / "environ").read_bytes() + b"\0":
                found.append(int(folder.name))
    return found
