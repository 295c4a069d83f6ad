"""Around a run: one in a folder, one that saves before it stops when it is told to, and no denormal numbers."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from facekd.distributed import World
from facekd.errors import FacekdError

SECONDS_OF_ONE_STOP = 2.0  # stop signals that come within this time are one request


class TrainingError(FacekdError):
    """A run that cannot start or must not go on."""


class Timer:
    """Says when so many seconds have passed since it was made or restarted; never for 0."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._start = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the time is over."""
        return self._seconds > 0 and time.monotonic() - self._start >= self._seconds


@contextmanager
def sole_owner_of(folder: Path, world: World) -> Iterator[None]:
    """Refuse a second run in the same folder; the lock goes with the process, however it ends."""
    if not world.is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        _lock(lock, folder)
        yield


def _lock(lock: IO[Any], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TrainingError(f"{folder}: another process is training in this folder; choose another --output") from error
    lock.write(f"{os.getpid()}\n")
    lock.flush()


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


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Take denormal numbers as 0 for a block: many CPUs are a hundred times slower with them."""
    smallest = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    was_flushing = (smallest / 2).item() == 0  # torch can set the mode but not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)
