"""Locks the place where a command writes, so that a second command is refused and told which process is at work."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facekd.errors import DataError, InUseError
from facekd.files.held_folders import held_folder, make_folder
from facekd.files.locks import Lock, is_descriptor_at, lock_descriptor
from facekd.files.temporaries import hidden_name, open_own_descriptor

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST_HOLDER = 300  # bytes read of what a lock file says about its process
MAX_TRIES = 1000  # to make a file in a folder that others create and remove meanwhile

_held: set[int] = set()  # descriptors of the locks of this process


@contextmanager
def folder_lock(folder: Path, what: str, active: bool = True) -> Iterator[None]:
    """Holds `.lock` in a folder while the block runs, so that a second command is refused; removes it then.

    A folder that cannot be written to is refused here, at the start of the command and not hours later.

    Args:
        folder: the folder to lock; created if it does not exist, and removed if it is empty in the end.
        what: what another process does there, for the message: `"study is at work"`.
        active: False holds nothing. Of several processes that work together, only the main one locks.

    Raises:
        InUseError: another process holds the lock; the message names it.
        DataError: the folder cannot be written to.
    """
    if not active:
        yield
        return
    with _held_lock(folder, folder / ".lock", f"another {what} in this folder"):
        yield


@contextmanager
def file_lock(path: Path, what: str = "command writes this file", active: bool = True) -> Iterator[None]:
    """Holds `.NAME.lock` beside a file, or beside a folder that is filled elsewhere first; see `folder_lock`."""
    if not active:
        yield
        return
    if path.is_dir() and not os.access(path, os.W_OK):
        raise DataError(f"{path}: is a folder that cannot be written; choose another place, or allow it")
    # A path such as `..` or `/` has no name: beside it is in its folder.
    place = path if path.name else path.resolve()
    with _held_lock(path, place.with_name(hidden_name(place.name, ".lock")), f"another {what}"):
        yield


@contextmanager
def _held_lock(place: Path, lock_path: Path, other: str) -> Iterator[None]:
    created = [folder for folder in lock_path.parents if not folder.exists()]
    try:
        descriptor = _acquire(lock_path)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise DataError(
            f"{place}: cannot be written ({error.strerror}: {error.filename}); choose another place, or allow it"
        ) from error
    if descriptor is None:
        raise InUseError(f"{place}: {other}{_holder(lock_path)}; wait until it has ended, or choose another place")
    _held.add(descriptor)
    try:
        with held_folder(lock_path.parent):
            yield
    finally:
        # Removed while it is locked: whoever opened it meanwhile sees that it is gone, and makes a new one.
        with contextlib.suppress(OSError):
            lock_path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)
        for folder in created:
            with contextlib.suppress(OSError):  # somebody else removed it, or is just putting something in
                if not any(folder.iterdir()):
                    folder.rmdir()


def _acquire(lock_path: Path) -> int | None:
    """Creates and locks a file that says who holds it; returns its descriptor, or None if another process holds it."""
    num_tries = 0
    while True:
        make_folder(lock_path.parent)
        try:
            descriptor = open_own_descriptor(lock_path, os.O_RDWR)
        except OSError as error:
            # The process that had created the folder has just removed it. But the current folder, once deleted, still
            # looks like one, and no file can be made in it however often it is tried. Or the lock has another name.
            num_tries += 1
            if num_tries == MAX_TRIES or not (isinstance(error, FileNotFoundError) or error.errno == errno.EMLINK):
                raise
            if error.errno == errno.EMLINK and not _unlink_if_free(lock_path):
                return None
            continue
        try:
            if lock_descriptor(descriptor) is Lock.TAKEN:
                return None
            # Between opening and locking, the process that held it may have ended and removed it.
            if is_descriptor_at(descriptor, lock_path):
                with contextlib.suppress(OSError):  # a full disk: the message of others will be shorter
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                held, descriptor = descriptor, -1
                return held
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _unlink_if_free(lock_path: Path) -> bool:
    """Takes a name from a lock file that has another one, as after `cp -al`; returns False if a process holds it.

    What it is under its other name stays as it is.
    """
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if lock_descriptor(descriptor) is Lock.TAKEN:
            return False
        if is_descriptor_at(descriptor, lock_path):
            lock_path.unlink()
        return True
    finally:
        os.close(descriptor)


def _holder(lock_path: Path) -> str:
    """Returns words that name the process which holds a lock, or nothing if that is not known."""
    try:
        with lock_path.open("rb") as stream:
            pid, host = stream.read(LONGEST_HOLDER).decode("ascii").split()
    except (OSError, ValueError):
        return ""
    if not pid.isdecimal() or not host.isprintable():
        return ""
    return f" (process {pid}{'' if host == socket.gethostname() else f' on {host}'})"


def _forget_locks() -> None:
    """Closes the locks in a forked process, which would hold them on if this process were killed."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget_locks)
