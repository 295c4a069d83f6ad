"""Fails a test that waits for ever, such as at a named pipe, instead of the whole process of the tests."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def failing_if_it_waits(seconds: int = 30) -> Iterator[None]:
    """Raises an AssertionError in the block once it has taken so long."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
