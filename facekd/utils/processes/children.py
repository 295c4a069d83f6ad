"""Makes child processes exit when their parent dies, even by SIGKILL, and says which of several processes this one is.

The parent holds one end of a pipe, and the child has the other end as its standard input. Nothing is ever written to
it. When the parent ends, the system closes its end, and the child reads the end of the input. Processes that a launcher
starts inherit that standard input, so they end as well.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from facekd.errors import FacekdError, WorkerError
from facekd.utils.environment import number_from_environment

# Words that start a module in a process of its own, as `python -m` would, wherever it is; the module's name follows.
START_MODULE = (sys.executable, str(Path(__file__).absolute().with_name("start_module.py")))
VARIABLE = "FACEKD_ENDS_WITH_STDIN"
LAUNCHER_VARIABLE = "TORCHELASTIC_RUN_ID"  # set by torch.distributed.run for the processes that it starts
_is_joining = threading.Event()  # set while this process looks for the others of its run
SECONDS_OF_SILENCE = 20.0
# A process that another waits for is said to be silent after this time, and given up after that in the variable below.
SECONDS_UNTIL_SAID = 60.0
SECONDS_UNTIL_GIVEN_UP = 1800
PATIENCE_VARIABLE = "FACEKD_SECONDS_UNTIL_GIVEN_UP"
# What usually ends a process by these signals.
CAUSES = {
    signal.SIGKILL: "as the system does when memory has run out",
    signal.SIGBUS: "as the system does when a file has become shorter while it was read, when shared memory (/dev/shm) "
    "has run out, or when a disk fails",
    signal.SIGSEGV: "by a defect of a library, or of the machine",
}


@dataclass(frozen=True)
class LaunchedAs:
    """Says which of the processes that a launcher started together this one is: `rank` of `size`."""

    rank: int
    size: int
    local_rank: int  # among those on this machine


def launched_as() -> LaunchedAs:
    """Returns this process's place as torch.distributed.run describes it in the environment; without it, one of one.

    Raises:
        FacekdError: the variables are no numbers, or describe no place: one of them is left over, or missing.
    """
    rank, size, local_rank = (
        launcher_number("RANK", 0),
        launcher_number("WORLD_SIZE", 1),
        launcher_number("LOCAL_RANK", 0),
    )
    advice = (
        "start the processes by `torchrun --nproc_per_node N -m facekd ...`, or unset RANK, WORLD_SIZE and LOCAL_RANK "
        "to run one alone"
    )
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if size > 1 and missing:
        raise FacekdError(f"the environment says WORLD_SIZE={size}, but not {' and '.join(missing)}: {advice}")
    if size < 1 or not 0 <= rank < size or local_rank < 0:
        said = "" if os.environ.get("WORLD_SIZE") else " (WORLD_SIZE is not set)"
        raise FacekdError(
            f"the environment says RANK={rank}, WORLD_SIZE={size}{said}, LOCAL_RANK={local_rank}, and ranks count from "
            f"0 to WORLD_SIZE - 1: {advice}"
        )
    if size > 1:
        launcher_number("MASTER_PORT", 0)
    return LaunchedAs(rank, size, local_rank)


@contextmanager
def saying_that_it_waits(launched: LaunchedAs) -> Iterator[None]:
    """Says, if the block takes long, that it waits for the other processes, in case there are none."""
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    text = (
        f"process {launched.rank} of {launched.size} waits for the others at {address}, as the environment says (to "
        "run one alone, stop it and unset WORLD_SIZE)"
    )
    timer = threading.Timer(SECONDS_OF_SILENCE, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    _is_joining.set()
    try:
        yield
    finally:
        _is_joining.clear()
        timer.cancel()


def launcher_number(name: str, default: int) -> int:
    """Returns the whole number in an environment variable of the launcher; `default` if it is unset or empty.

    Raises:
        FacekdError: it holds something else.
    """
    try:
        return int(number_from_environment(name, default))
    except ValueError as error:
        raise FacekdError(str(error)) from None


def start_tied(
    command: list[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a facekd command that stops, as after SIGTERM, when this process is gone.

    Args:
        command: a command that runs facekd as a module, or a launcher whose processes do, with its standard input.
        environment: environment variables of the command.
        output: where the command's output goes; None means the same place as ours.
    """
    tied = {**environment, VARIABLE: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=tied)


def end_with_parent() -> None:
    """Ends this process when its parent is gone, if `start_tied` or torch's launcher started it.

    It gets SIGTERM, so that training saves first. While it only looks for the other processes it exits at once: there
    is nothing to save, and torch hears no signal for the half hour in which it tries to reach a launcher that is gone.
    """
    # Removed from the environment, because the commands that this one starts have another standard input.
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    if LAUNCHER_VARIABLE in os.environ:
        threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_without(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    if not _is_joining.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    _is_joining.wait()  # at once, or where the signal came before anybody heard it
    print("error: the launcher of this process is gone; run the same command again", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGTERM)


def end_process_of_several(status: int) -> None:
    """Ends this process if a launcher started several; returns if it runs alone.

    The interpreter is not torn down there. gloo's threads outlive the group, because torch keeps it for modules that
    used it, and one that lets go of a tensor after Python has begun to end aborts the process by SIGABRT, with all work
    done (https://github.com/pytorch/pytorch/pull/179291). Functions registered with `atexit` run as usual.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no such stream, a reader that is gone, a closed one
            stream.flush()
    os._exit(status)


def seconds_until_given_up() -> int:
    """Returns after how many seconds without an answer a process that others wait for is given up.

    Raises:
        FacekdError: the environment variable that sets it holds something else than a whole number.
    """
    return max(1, launcher_number(PATIENCE_VARIABLE, SECONDS_UNTIL_GIVEN_UP))


def wait_for_worker(is_ready: Callable[[float], bool], who: str, processes: Callable[[], Sequence[int]]) -> None:
    """Waits until a process that works for this one has answered; after a minute it says that it waits.

    Args:
        is_ready: waits that many seconds at most, and returns whether there is an answer.
        who: names the process, for the message: `"worker 1 of the loader"`.
        processes: returns the ids of the processes that the answer may come from.

    Raises:
        WorkerError: there is no answer for very long, half an hour by default.
    """
    started = time.monotonic()
    given_up = seconds_until_given_up()
    if is_ready(min(SECONDS_UNTIL_SAID, given_up)):
        return
    print(f"{who} {_silent_for(started, processes())}; waiting", file=sys.stderr, flush=True)
    while not is_ready(max(0.0, min(SECONDS_UNTIL_SAID, started + given_up - time.monotonic()))):
        if time.monotonic() - started >= given_up:
            raise WorkerError(
                f"{who} {_silent_for(started, processes())}, and is given up; the same command goes on from what was "
                f"saved (to wait longer, set {PATIENCE_VARIABLE})"
            )


def _silent_for(started: float, processes: Sequence[int]) -> str:
    stopped = [str(pid) for pid in processes if is_stopped(pid)]
    why = (
        f"it is stopped, and `kill -CONT {' '.join(stopped)}` lets it go on"
        if stopped
        else "the machine is overloaded, or its disk or network does not answer"
    )
    return f"has not answered for {time.monotonic() - started:.0f} s: {why}"


def is_stopped(pid: int) -> bool:
    """Tells whether a process is stopped, as by SIGSTOP or a debugger."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123
            return stream.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def describe_end(status: int) -> str:
    """Says how a process ended, and what usually ends one so: "was ended by SIGKILL, as ...".

    Args:
        status: its exit status; negative for the signal that ended it, as `subprocess` and `multiprocessing` say it.
    """
    if status >= 0:
        return f"ended with status {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"was ended by signal {-status}"
    return f"was ended by {number.name}" + (f", {CAUSES[number]}" if number in CAUSES else "")


def end_with_pool() -> None:
    """Makes a spawned worker of a process pool exit as soon as the process that owns the pool is gone, and no earlier.

    Workers wait for tasks on a pipe of which each holds both ends, so without this they would wait forever. Ctrl-C and
    a hang-up reach every process of the terminal: the owner says what happens to its workers. SIGTERM ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from multiprocessing import parent_process  # here: every command imports this file

    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def usable_cores() -> int:
    """Returns the number of CPU cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
