"""Locks an open file for one process; a lock ends with its process, even by SIGKILL."""

from __future__ import annotations

import enum
import fcntl
import os
from pathlib import Path
from typing import BinaryIO


class Lock(enum.Enum):
    """Says whether this process has locked a file."""

    HELD = "held by this process"
    TAKEN = "held by another process"
    IMPOSSIBLE = "the file system has no locks"


def lock_descriptor(descriptor: int) -> Lock:
    """Locks an open file until it is closed, if no other process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.TAKEN
    except OSError:
        return Lock.IMPOSSIBLE
    return Lock.HELD


def lock_open_file(stream: BinaryIO) -> bool:
    """Locks the file behind `stream` until it is closed; returns False if another process has locked it.

    This locks the data file itself, so nothing is left beside it and the lock moves with the file when it is renamed. A
    file system without locks gives no protection.
    """
    return lock_descriptor(stream.fileno()) is not Lock.TAKEN


def is_file_at(stream: BinaryIO, path: Path) -> bool:
    """Returns whether `path` still names the file behind `stream`; another process may have renamed it meanwhile."""
    return is_descriptor_at(stream.fileno(), path)


def is_descriptor_at(descriptor: int, path: Path) -> bool:
    """Does what `is_file_at` does, for an open descriptor."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
