"""A process that another started ends when that one does, however it does: after `kill -9` nothing trains on unseen.

The parent holds one end of a pipe, and the child has the other for its standard input. Nothing is ever written there;
the system closes the parent's end with the parent, and whoever reads finds the end of the input. Processes that a
launcher starts inherit it, and so end as well.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

VARIABLE = "FACEKD_ENDS_WITH_STDIN"


def start_tied(
    command: list[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a facekd command that is told to stop, as by SIGTERM, when this process is gone.

    Args:
        command: one that runs `python -m facekd`, or that starts processes which do, with its standard input.
        environment: of the command.
        output: what it prints goes there; None lets it print where we do.
    """
    tied = {**environment, VARIABLE: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=tied)


def end_with_parent() -> None:
    """Stop when the parent is gone, if it has started this process by `start_tied`: a training saves first."""
    # Not for the commands that this one starts, whose standard input is something else.
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def end_with_pool() -> None:
    """End at once when the process is gone that this worker works for; for the workers of a pool that are spawned.

    They wait for work on a pipe of which each of them holds both ends, so they would never learn of it.
    """
    from multiprocessing import parent_process  # here: every command imports this file

    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


SECONDS_OF_ONE_STOP = 2.0  # stop signals that come within this time are one request


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the yielded list: the loop saves and stops. Repeated seconds later, they act as usual.

    Not at once, for one Ctrl-C or `scancel` arrives twice: from the terminal or the scheduler, and from the launcher.
    The second may come when the run has saved and is on its way out: the handlers outlast the block then.
    """
    received: list[int] = []
    previous = {}
    first = 0.0

    def note(number: int, _frame: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
        received.append(number)
        if time.monotonic() - first > SECONDS_OF_ONE_STOP:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        if received:
            atexit.register(_ignore_stop_signals)  # the interpreter, ending, would put back the fatal defaults
        else:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _ignore_stop_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def generator_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose end does not wait for them; work that has not begun is dropped.

    A generator that was left half-way, say by an error in the loop over it, ends wherever Python collects it. That may
    be in a thread which is just being started and holds the lock of all threads: to wait for a thread there takes the
    same lock, and waits for ever (seen on Python 3.11).
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
