"""Makes temporary files and folders under names that nobody can predict, and removes those whose process is gone.

A temporary lies in the folder of its target and is called `.STEM.HOST-RANDOM.tmp.SUFFIX`, where HOST stands for the
machine. It is created only where nothing has that name, so that a link which somebody has planted is never followed.
Its process holds a lock on it; a folder is held by the lock on the file `.lock` in it, because network file systems
lock no folders.

A process removes its temporaries however it ends, except by a kill. What was left then is removed by the first process
that writes into the same folder again, on these conditions: the name has the form above, the file belongs to the same
user, nobody holds its lock, and it was made on this machine. Locks may not reach other machines, and some file systems
have none; there a temporary is a leftover when it was not changed for a day, by the clock of the file system. Process
numbers play no part, because another process may have the number today.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from facekd.files.held_folders import check_held, make_folder
from facekd.files.locks import Lock, lock_descriptor

NAME = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})-[0-9a-f]{12}\.tmp(\.[^.]+)?", re.DOTALL)
LONGEST_SUFFIX = 16  # bytes; what follows the last point of a longer name is no format
ROOM = 100  # bytes of a name that every file system allows
SECONDS_UNTIL_LEFT = 86400.0  # of a temporary on another machine, or on a file system without locks
LOCK = ".lock"
LONGEST_NAME = 255  # bytes
_swept: set[str] = set()  # folders in which this process has looked for leftovers


class TemporaryFile:
    """Holds a new, empty, locked file beside `target`.

    Attributes:
        path: its name.
        descriptor: open for reading and writing; `discard` closes it.
    """

    def __init__(self, target: str | os.PathLike[str], mode: int | None = None) -> None:
        """Creates the file; the first time in a folder, removes leftovers there.

        Args:
            target: the file that it will become; its folder exists.
            mode: permissions; None leaves them to the umask, as for any new file.

        Raises:
            OSError: the file cannot be created.
        """
        check_held(target)
        folder, name = os.path.split(os.fspath(target))
        self._has_name = False
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

        def create(path: str) -> int:
            descriptor = os.open(path, flags, 0o666)
            if not _is_held(descriptor, path):
                os.close(descriptor)
                raise FileExistsError
            return descriptor

        self.path: str
        self.descriptor: int
        self.path, self.descriptor = _create(folder, name, create)
        set_mode(self.descriptor, mode)
        sweep(folder, os.fstat(self.descriptor).st_mtime)

    def replace(self, target: str | os.PathLike[str]) -> None:
        """Gives the file its name."""
        os.replace(self.path, target)  # noqa: PTH105 - called for each of millions of images
        self._has_name = True

    def discard(self) -> None:
        """Removes the file, unless it has got its name, and closes the descriptor."""
        if not self._has_name:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(self.path)  # noqa: PTH108
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self._has_name, self.descriptor = True, -1


def set_mode(descriptor: int, mode: int | None) -> None:
    """Gives a file the permissions of the one that it will replace, where the file system has permissions."""
    if mode is not None:
        with contextlib.suppress(OSError):  # some mounts of other systems' disks refuse
            os.fchmod(descriptor, mode)


def hidden_name(name: str, end: str) -> str:
    """Returns `.NAME` and the end given: the name of a file beside NAME that a later run must find again.

    The middle of a name that would become too long is replaced by its hash.
    """
    hidden = f".{name}{end}"
    if len(os.fsencode(hidden)) <= LONGEST_NAME:
        return hidden
    end = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{end}"
    return f".{_shortened(name, LONGEST_NAME - 1 - len(os.fsencode(end)))}{end}"


def open_own_file(path: Path, buffering: int = -1) -> BinaryIO:
    """Opens a file to append to, under a name that anybody can predict; see `open_own_descriptor`."""
    return open(path, "ab", buffering, opener=open_own_descriptor)


def open_own_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file that facekd goes on writing, or creates it; follows no link that was planted there.

    A hard link is refused as well: it is another name of a file of somebody, which would change with this one.

    Args:
        path: the file.
        flags: `os.O_RDWR`, or `os.O_WRONLY`, and others for `os.open`.

    Raises:
        OSError: the name stands for a link, a folder or another thing that is no plain file, or for a file that has
            other names, too.
    """
    safely = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # without waiting for a pipe's reader
    try:
        descriptor = os.open(path, flags | safely, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
    else:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:  # none, if it was removed just now
            return descriptor
        os.close(descriptor)
        if stat.S_ISREG(status.st_mode):
            raise OSError(
                errno.EMLINK,
                "a file with another name (a hard link) lies where facekd writes a file of its own, and would change "
                "under both names; copy it and move the copy into its place, or remove it if nothing in it is needed",
                os.fspath(path),
            )
    raise OSError(
        errno.EINVAL, "a link or a device lies where facekd writes a file of its own; remove it", os.fspath(path)
    )


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder for what `target` will be, to be filled and moved into place; removes what is left of it.

    Args:
        target: file or folder; the folder that holds it is created if missing.
    """
    make_folder(target.parent)
    path, _ = _create(os.fspath(target.parent), target.name, lambda path: os.mkdir(path))  # noqa: PTH102
    outer = Path(path)
    descriptor = -1
    try:
        descriptor = os.open(outer / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        lock_descriptor(descriptor)
        sweep(os.fspath(target.parent), os.fstat(descriptor).st_mtime)
        content = outer / target.name
        content.mkdir()
        yield content
    finally:
        shutil.rmtree(outer, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def sweep(folder: str, now: float) -> None:
    """Removes leftovers from a folder, once in the life of this process.

    Args:
        folder: folder to look in, and not below it.
        now: the time of a file just made there, in s; the clock of a network file system may differ from ours.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries if NAME.fullmatch(entry.name)]
    except OSError:
        return  # it may be written to, but not listed
    for name in names:
        with contextlib.suppress(OSError):  # another process was faster, or the folder does not allow it
            _remove_if_left(os.path.join(folder, name), now)  # noqa: PTH118


def _remove_if_left(path: str, now: float) -> None:
    """Removes a temporary that no process holds."""
    found = os.lstat(path)
    is_folder = stat.S_ISDIR(found.st_mode)
    if found.st_uid != os.geteuid() or not (is_folder or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)):
        return
    # Find out whether a process holds it. A folder whose process was killed at once has no lock yet.
    is_old = now - found.st_mtime > SECONDS_UNTIL_LEFT
    held = os.path.join(path, LOCK) if is_folder else path  # noqa: PTH118
    try:
        descriptor = os.open(held, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if is_old and is_folder:
            shutil.rmtree(path)
        return
    # While we hold its lock, no process can begin to use it: see `_is_held`.
    try:
        lock = lock_descriptor(descriptor)
        match = NAME.fullmatch(os.path.basename(path))  # noqa: PTH119
        is_of_this_machine = match is not None and match["host"] == _host()
        if lock is Lock.TAKEN or not (is_old or (lock is Lock.HELD and is_of_this_machine)):
            return
        if not _is_at(descriptor, held):
            return  # it has got its name meanwhile
        if is_folder:
            shutil.rmtree(path)
        else:
            os.unlink(path)  # noqa: PTH108
    finally:
        os.close(descriptor)


def _create(folder: str, name: str, create: Callable[[str], Any]) -> tuple[str, Any]:
    """Returns a name that was free, and what `create` made of it."""
    while True:
        path = os.path.join(folder, _name_for(name))  # noqa: PTH118
        with contextlib.suppress(FileExistsError):
            return path, create(path)


def _name_for(name: str) -> str:
    """Returns a name for a temporary; its suffix stays last, because some writers choose the format by it."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    if len(os.fsencode(suffix)) > LONGEST_SUFFIX:
        stem, suffix = name, ""
    end = f".{_host()}-{secrets.token_hex(6)}.tmp{suffix}"
    # Not longer than the name itself, which the file system allows.
    room = max(ROOM, len(os.fsencode(name))) - len(os.fsencode(end)) - 1
    return f".{_shortened(stem, room)}{end}"


def _shortened(name: str, room: int) -> str:
    """Returns as much of a name as fits in `room` bytes, cut between characters."""
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name


@functools.cache
def _host() -> str:
    """Returns eight digits that stand for this machine, or this container."""
    try:
        machine = Path("/etc/machine-id").read_bytes()
    except OSError:
        machine = b""
    return hashlib.sha256(os.fsencode(os.uname().nodename) + b"\0" + machine).hexdigest()[:8]


def _is_held(descriptor: int, path: str) -> bool:
    """Locks a new file; returns False if a process that looks for leftovers has found it before it was locked."""
    return lock_descriptor(descriptor) is not Lock.TAKEN and _is_at(descriptor, path)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
