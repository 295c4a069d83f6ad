"""Locks a folder or a file for one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from facekd.errors import InUseError


@contextlib.contextmanager
def sole_user_of(folder: Path, what: str) -> Iterator[None]:
    """Refuse a second command of the kind in one folder; the lock goes with the process, however it ends.

    Raises:
        TrainingError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(f"{folder}: another {what} is at work in this folder; choose another --output") from error
        yield


def lock_file(stream: BinaryIO, path: Path) -> bool:
    """Take `path`, open as `stream`, for this process; False where another one has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    # The other writer may have finished, and renamed this very file into place, since it was opened here.
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def sole_owner_of(folder: Path, world: Any) -> Iterator[None]:
    """Refuse a second run in the same folder; the lock goes with the process, however it ends."""
    if not world.is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        _lock_folder(lock, folder)
        yield


def _lock_folder(lock: IO[Any], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(f"{folder}: another process is training in this folder; choose another --output") from error
    lock.write(f"{os.getpid()}\n")
    lock.flush()
