"""Watches what one input takes of the processor and of memory, measured against what the process had before it.

Time is that of the processor: by the clock, a process that waits for its turn would seem to hang. Memory is the peak of
what is resident, and the size that the process may reach; a reader that asks for more gets a MemoryError, which
`TargetRunner` counts as a fault although the reader may turn it into a sentence.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20
NOT_RESIDENT = 2048  # megabytes more that the process may ask for, and not touch
SMALL_PEAK = 50 * MEGABYTE  # one of the past that hides no later one


class TooMuchError(BaseException):
    """Says that an input took too much; no `Exception`, because readers turn those into sentences."""


class Watch:
    """Limits every input that is read through it; made when all is imported, and stopped at its end.

    Args:
        megabytes: how much memory an input may take.
        seconds: how much time of the processor. Code in C is not interrupted; that it took too long is said at its end.
    """

    def __init__(self, megabytes: int, seconds: float) -> None:
        self._most, self._seconds = megabytes * MEGABYTE, seconds
        self._began: float | None = None
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._forget_peak()
        size, self._resident = self._read("VmSize"), self._read("VmRSS")
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + self._most + NOT_RESIDENT * MEGABYTE, self._limits[1]))
        self._handler = signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, min(seconds, 1), min(seconds, 1))

    def run(self, read: Callable[[bytes], Any], content: bytes) -> Any:
        """Returns `read(content)`.

        Raises:
            TooMuchError: that took too much time or memory.
        """
        self._began = time.process_time()
        try:
            found = read(content)
        finally:
            took, self._began = time.process_time() - self._began, None
        if took > self._seconds:
            raise TooMuchError(f"{took:.1f} s of the processor for {len(content):,} bytes")

        # A peak of the past would hide a smaller one.
        peak, before, self._resident = self._read("VmHWM"), self._resident, self._read("VmRSS")
        if peak - before > self._most:
            raise TooMuchError(f"{(peak - before) // MEGABYTE:,} MB of memory for {len(content):,} bytes")
        if peak - self._resident > SMALL_PEAK:
            self._forget_peak()
        return found

    def stop(self) -> None:
        """Lifts the limits."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._handler)
        resource.setrlimit(resource.RLIMIT_AS, self._limits)
        os.close(self._status)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _look(self, *_: object) -> None:
        if self._began is not None and time.process_time() - self._began > self._seconds:
            raise TooMuchError(f"more than {self._seconds:g} s of the processor")

    def _forget_peak(self) -> None:
        with contextlib.suppress(OSError):  # a system that does not let us: smaller peaks stay hidden
            Path("/proc/self/clear_refs").write_bytes(b"5")

    def _read(self, name: str) -> int:
        """Returns a number of bytes that the system states about this process."""
        found = re.search(rf"{name}:\s*(\d+) kB".encode(), os.pread(self._status, 8192, 0))
        assert found is not None
        return int(found[1]) << 10
