"""Turns stop signals into an exception or a request to save, and lets a command outlive its terminal.

Three signals ask a command to stop: SIGINT (Ctrl-C), SIGTERM (`kill`, a scheduler) and SIGHUP (the terminal or the
connection has gone). A command started by `nohup` inherits that SIGHUP is ignored, and goes on ignoring it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_OF_ONE_STOP = 2.0  # stop signals that arrive within this time count as one request


class StopSignal(KeyboardInterrupt):
    """Is raised in the main thread by a stop signal, as KeyboardInterrupt is by Ctrl-C.

    Attributes:
        number: number of the signal; a command that it ends exits with 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def heeded_signals() -> tuple[signal.Signals, ...]:
    """Returns the stop signals; without SIGHUP if this process ignores it, as under `nohup`."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return STOP_SIGNALS[:2] if is_ignored else STOP_SIGNALS


def stop_signal_of(status: int) -> signal.Signals | None:
    """Returns the stop signal that ended a process, from the status that `subprocess` gives; else None."""
    number = status - 128 if status > 128 else -status
    return next((known for known in STOP_SIGNALS if known == number), None)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Makes stop signals raise `StopSignal`, so that the block can clean up.

    Handlers that somebody else has set stay. Signals that follow within two seconds are the same request: one hang-up
    arrives from the terminal, from the shell and from a launcher.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = 0.0

    def interrupt(number: int, _frame: object) -> None:
        nonlocal first
        if os.getpid() != owner:  # a forked worker: it has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if first and time.monotonic() - first < SECONDS_OF_ONE_STOP:
            return
        if not first:
            atexit.register(_ignore_stop_signals)
        first = time.monotonic()
        raise StopSignal(number)

    owner = os.getpid()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    previous = {number: signal.getsignal(number) for number in heeded_signals() if signal.getsignal(number) in usual}
    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is interrupt:
                signal.signal(number, handler)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Collects stop signals in the yielded list, so that a training loop can save and stop.

    A signal repeated more than two seconds after the first acts as usual. Earlier ones do not, because one Ctrl-C or
    `scancel` arrives twice: from the terminal or scheduler, and from the launcher. The second may arrive when the run
    has saved and is exiting, so after a signal the handlers stay in place beyond the block.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield received
        return
    previous: dict[int, Any] = {}
    first = 0.0

    def note(number: int, _frame: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
        received.append(number)
        # A repeated signal ends the process, wherever it is: an exception would wait for compiled code to return.
        if time.monotonic() - first > SECONDS_OF_ONE_STOP:
            signal.signal(number, previous[number] if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)

    for number in heeded_signals():
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
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def outliving_the_terminal() -> Iterator[None]:
    """Drops what is printed when nobody can read it any more, so that the work goes on and what is done is saved.

    Nothing that is printed to standard error ends a command. What goes to standard output may be what a user asked
    for, so there only a terminal that has gone is no error; for a reader that has gone see `run_verb`.
    """
    streams = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = _Lasting(sys.stdout, (errno.EIO,))  # pyright: ignore[reportAttributeAccessIssue]
    if sys.stderr is not None:
        sys.stderr = _Lasting(sys.stderr, None)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in filter(None, streams):
            give_up_unwritten(stream)


def give_up_unwritten(stream: TextIO) -> None:
    """Writes what a stream still holds, or drops it: at exit Python would report it, and change the exit status."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


class _Lasting:
    """Passes text on to a stream and ignores its errors: those of the numbers given, or all."""

    def __init__(self, stream: TextIO, ignored: tuple[int, ...] | None) -> None:
        self._stream, self._ignored = stream, ignored

    def write(self, text: str) -> int:
        with self._ignoring():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        with self._ignoring():
            self._stream.writelines(lines)

    def flush(self) -> None:
        with self._ignoring():
            self._stream.flush()

    @contextmanager
    def _ignoring(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._ignored is not None and error.errno not in self._ignored:
                error.filename = error.filename or "standard output"  # the system names what is opened alone
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
