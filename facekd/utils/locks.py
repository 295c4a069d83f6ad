"""Locks a folder or an open file for one process; a lock ends with its process, even by SIGKILL."""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from facekd.errors import InUseError

# How a file system says that it has no locks (network mounts, mostly). Work goes on there, without protection.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def folder_lock(folder: Path, what: str, active: bool = True) -> Iterator[None]:
    """Holds `.lock` of a folder while the block runs, so that a second command of the kind is refused.

    Args:
        folder: the folder to lock; created if it does not exist.
        what: what another process does there, for the message: `"study is at work"`.
        active: False holds nothing. Of several processes that train together, only the main one locks.

    Raises:
        InUseError: another process holds the lock.
    """
    if not active:
        yield
        return
    from filelock import FileLock, Timeout  # here: the import takes longer than most commands need to say `--help`

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ".lock").is_symlink():
        raise InUseError(f"{folder / '.lock'}: a link lies where facekd makes a file of its own; remove it")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InUseError(f"{folder}: another {what} in this folder; choose another --output") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


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

    `filelock` opens a lock file of its own and leaves it there. This locks the data file itself, so nothing is left
    beside it and the lock moves with the file when it is renamed. A file system without locks gives no protection.
    """
    return lock_descriptor(stream.fileno()) is not Lock.TAKEN


def is_file_at(stream: BinaryIO, path: Path) -> bool:
    """Returns whether `path` still names the file behind `stream`; another process may have renamed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
