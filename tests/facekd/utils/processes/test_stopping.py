"""Checks what stop signals and a terminal that goes away do to a command, with real signals and a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.utils.processes.stopping import StopSignal, interrupted_by_signals, stop_signal_of

# A verb that keeps half a result when it is stopped, as the verbs of `facekd data` do.
VERB = """
import os, sys, time
from pathlib import Path
from facekd.errors import run_verb
from facekd.files.writing import atomic_open
folder = Path(sys.argv[1])
def main():
    try:
        with atomic_open(folder / "whole") as stream:
            print("ready", file=sys.stderr, flush=True)
            for _ in range(3000):
                time.sleep(0.01)
                print("line", file=sys.stderr, flush=True)
                print("line", flush=True)
                if (folder / "go").exists():
                    return 0
    finally:
        (folder / "kept").touch()
sys.exit(run_verb(main))
"""


def start(folder: Path, before: str = "", **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", before + VERB, str(folder)]
    return subprocess.Popen(command, cwd=Path.cwd(), **options)  # pyright: ignore[reportCallIssue, reportArgumentType]


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None and process.stderr.readline() == b"ready\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_verb_keeps_what_is_done_removes_the_rest_and_exits_with_the_signal(
    number: signal.Signals, tmp_path: Path
) -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's `&` turns it off
    process = start(tmp_path, heard, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until_ready(process)
    for _ in range(3):  # a hang-up comes from the terminal, the shell and a launcher
        process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and errors.endswith(b"interrupted\n") and b"Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_hang_up_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(tmp_path, ignoring, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until_ready(process)
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "whole").exists()


@pytest.mark.parametrize("is_hung_up", [True, False])
def test_a_command_ends_as_it_should_though_its_terminal_is_gone(is_hung_up: bool, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # A session of its own, whose terminal this is: closing our end hangs up, unless the signal is ignored.
    before = "import fcntl, os, signal, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    before += "" if is_hung_up else "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(tmp_path, before, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"ready" not in said:
        said += os.read(ours, 100)
    os.close(ours)
    if not is_hung_up:
        (tmp_path / "go").touch()
    assert process.wait(60) == (128 + signal.SIGHUP if is_hung_up else 0)
    assert (tmp_path / "kept").exists() and (tmp_path / "whole").exists() is not is_hung_up


def test_nobody_reading_errors_ends_no_command_and_nobody_reading_results_does(tmp_path: Path) -> None:
    process = start(tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until_ready(process)
    assert process.stderr is not None
    process.stderr.close()
    (tmp_path / "go").touch()
    assert process.wait(60) == 0
    (tmp_path / "go").unlink()
    process = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until_ready(process)
    assert process.stdout is not None
    process.stdout.close()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 141 and b"Traceback" not in errors and b"Exception" not in errors


def test_handlers_of_others_stay_and_ours_go(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        with interrupted_by_signals():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(StopSignal) as caught:
                signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGHUP] and caught.value.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_forked_worker_ends_by_the_signal_itself() -> None:
    with interrupted_by_signals():
        process = os.fork()
        if process == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM


def test_the_status_of_a_process_says_which_signal_stopped_it() -> None:
    assert [stop_signal_of(status) for status in (129, 130, 143, -1, -2, -15)] == [1, 2, 15] * 2
    assert not any(stop_signal_of(status) for status in (0, 1, 2, 15, 128, 137, -9))
