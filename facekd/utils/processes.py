"""Makes child processes exit when their parent dies, even by SIGKILL, and turns stop signals into a request to save.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from facekd.errors import FacekdError

VARIABLE = "FACEKD_ENDS_WITH_STDIN"
SECONDS_OF_SILENCE = 20.0
SECONDS_OF_ONE_STOP = 2.0  # stop signals that arrive within this time count as one request


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
    try:
        yield
    finally:
        timer.cancel()


def launcher_number(name: str, default: int) -> int:
    """Returns the whole number in an environment variable of the launcher; `default` if it is unset or empty.

    Raises:
        FacekdError: it holds something else.
    """
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise FacekdError(
            f"the environment variable {name} should be a whole number, and is {text!r}: unset it"
        ) from None


def start_tied(
    command: list[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a facekd command that stops, as after SIGTERM, when this process is gone.

    Args:
        command: a command that runs `python -m facekd`, or a launcher whose processes do, with its standard input.
        environment: environment variables of the command.
        output: where the command's output goes; None means the same place as ours.
    """
    tied = {**environment, VARIABLE: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=tied)


def end_with_parent() -> None:
    """Sends SIGTERM to this process when its parent is gone, if `start_tied` started it; training then saves first."""
    # Removed from the environment, because the commands that this one starts have another standard input.
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def end_with_pool() -> None:
    """Makes a spawned worker of a process pool exit as soon as the process that owns the pool is gone.

    Workers wait for tasks on a pipe of which each holds both ends, so without this they would wait forever.
    """
    from multiprocessing import parent_process  # here: every command imports this file

    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in the yielded list, so that a training loop can save and stop.

    A signal repeated more than two seconds after the first acts as usual. Earlier ones do not, because one Ctrl-C or
    `scancel` arrives twice: from the terminal or scheduler, and from the launcher. The second may arrive when the run
    has saved and is exiting, so after a signal the handlers stay in place beyond the block.
    """
    received: list[int] = []
    previous = {}
    first = 0.0

    def note(number: int, _frame: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
        received.append(number)
        # A repeated signal: hand it to the previous handler, which usually ends the process.
        if time.monotonic() - first > SECONDS_OF_ONE_STOP:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        if received:
            atexit.register(_ignore_stop_signals)  # at exit the interpreter would restore the fatal defaults
        else:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _ignore_stop_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def usable_cores() -> int:
    """Returns the number of CPU cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
