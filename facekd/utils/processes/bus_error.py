"""Turns SIGBUS, by which the system ends a process that reads a mapped file beyond its end, into a sentence.

Record files, teacher caches and arrays are mapped into memory: when another process cuts one off meanwhile, touching
what is gone is no error that Python could catch. Python's own signal handlers run too late, because the access would
be repeated first; this one is called at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Any

_kept: list[Any] = []  # what the system will call must not be collected


def explain_bus_errors(prefix: str) -> None:
    """Makes SIGBUS end this process with status 2 and a sentence, from now on.

    Args:
        prefix: begins the sentence, such as `"error: "`.
    """
    text = (
        f"{prefix}the system ended this process by SIGBUS: a file that it was reading became shorter (was data or a "
        "cache replaced meanwhile?), shared memory (/dev/shm) has run out, or a disk fails; see to that, and run the "
        "same command again\n"
    ).encode()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(_number: int) -> None:
        os.write(2, text)
        os._exit(2)

    with contextlib.suppress(OSError, AttributeError):  # a system whose C library is not reached so
        set_handler = ctypes.CDLL(None).signal
        set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        set_handler(signal.SIGBUS, ctypes.cast(end, ctypes.c_void_p))
        _kept.append(end)


def end_by_bus_errors() -> None:
    """Undoes that in a worker process, whose parent says how it ended."""
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
