"""Writes files and folders so that a reader sees the old content or the new, never half of one.

What holds for every file that is written whole (`atomic_path` and what is built on it):

- A new file has the permissions that the umask gives, and one that replaces another has those of the other.
- A link under the name is replaced, and the file that it leads to stays as it is: nobody can lead a write elsewhere.
- A file that may not be written is not replaced either. A device, a pipe or a folder is refused.
- When the function returns, content and name are on the device, so marks written after it tell the truth even after a
  power cut. `write_small_file` alone leaves that to the system: `facekd.utils.syncing` flushes all of them at the end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from facekd.errors import DataError
from facekd.files.held_folders import check_held, make_folder
from facekd.files.syncing import sync_folder
from facekd.files.temporaries import NAME, TemporaryFile


def mode_to_keep(path: str | os.PathLike[str]) -> int | None:
    """Checks that a new file may take this name; returns the permissions of the file that it replaces, or None.

    Raises:
        DataError: the name stands for a device, a named pipe or a socket.
        OSError: it is a folder, or a file that may not be written.
    """
    name = os.fspath(path)
    try:
        mode = os.lstat(name).st_mode
    except OSError:
        return None  # absent; or creating the file says more
    if stat.S_ISLNK(mode):
        folder = os.path.realpath(os.path.dirname(name))  # noqa: PTH120
        if folder != "/dev" and not folder.startswith("/proc/"):
            return None
        mode = stat.S_IFCHR  # /dev/stdout and its kind
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        raise DataError(f"{name}: is no plain file, and a whole file is to take its name; give the name of a new one")
    if not os.access(name, os.W_OK) and not os.statvfs(name).f_flag & os.ST_RDONLY:  # creating a file says more there
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def _new_file(path: str | os.PathLike[str]) -> Iterator[TemporaryFile]:
    """Yields an empty file beside `path`, to be filled and flushed; it gets the name if the block succeeds."""
    target = Path(path)
    mode = mode_to_keep(target)
    missing = [folder for folder in target.parents if not folder.exists()]
    make_folder(target.parent)
    temporary = None
    try:
        temporary = TemporaryFile(target, mode)
        yield temporary
        temporary.replace(target)
        for folder in (target.parent, *(folder.parent for folder in missing)):
            sync_folder(folder)
    except OSError as error:
        # Name the file that the user asked for, whatever the temporary one is called.
        if temporary is None or error.filename in (None, temporary.path):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        if temporary is not None:
            temporary.discard()


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names a file in the errors of a block that reads or writes it by its descriptor.

    Raises:
        DataError: the file lay in a held folder that was deleted, moved or replaced meanwhile.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            check_held(path)  # its folder may have gone since it was looked at
        error.filename, error.filename2 = os.fspath(path), None
        raise


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` if the block succeeds, else removes it.

    The path is that of an empty file, and its suffix is that of `path`. What the block has written is flushed to the
    device before the file gets its name, and the name as well before the function returns.

    Raises:
        DataError: `path` is a device, a named pipe or a socket.
        OSError: the file cannot be written.
    """
    with _new_file(path) as temporary:
        yield Path(temporary.path)
        # By its name, because the block may have put another file in its place.
        with open(temporary.path, "rb") as stream:  # noqa: PTH123
            os.fsync(stream.fileno())


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens `path` for writing bytes atomically; see `atomic_path`."""
    with _new_file(path) as temporary, open(temporary.descriptor, "w+b", closefd=False) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def atomic_open_together(main: Path, others: Mapping[Path, bool]) -> Iterator[Mapping[Path, BinaryIO]]:
    """Opens files that belong together for writing, atomically; see `replace_together`.

    Args:
        main: the main one.
        others: the others; True opens one, False removes an old one if the block succeeds.
    """
    wanted = [main, *(path for path, is_wanted in others.items() if is_wanted)]
    staged: dict[Path, TemporaryFile] = {}
    try:
        with contextlib.ExitStack() as stack:
            for path in wanted:
                make_folder(path.parent)
                staged[path] = TemporaryFile(path, mode_to_keep(path))
                stack.callback(staged[path].discard)
            streams = {path: open(file.descriptor, "w+b", closefd=False) for path, file in staged.items()}  # noqa: SIM115
            yield streams
            for stream in streams.values():
                stream.flush()
                os.fsync(stream.fileno())
            replace_together(main, staged[main], {path: staged.get(path) for path in others})
    except OSError as error:
        # Name a file that the user knows; which of them did not fit makes no difference.
        if error.filename is None or NAME.fullmatch(Path(error.filename).name):
            error.filename, error.filename2 = str(main), None
        raise


def replace_together(
    main: Path, staged: Path | TemporaryFile, others: Mapping[Path, Path | TemporaryFile | None]
) -> None:
    """Gives files that belong together their names, so that the main one never lies beside files of another result.

    Args:
        main: name that gets its file last: where it is, all are. An old file of this name is removed first.
        staged: the file for it, complete.
        others: for each other name the file for it, complete; None removes an old one.

    Raises:
        OSError: a file cannot be renamed.
    """
    for path, file in others.items():
        if file is None and main.exists():
            path.unlink(missing_ok=True)
    if others:
        main.unlink(missing_ok=True)
    for path, file in others.items():
        if file is not None:
            file.replace(path)
    for folder in {path.parent for path in others}:
        sync_folder(folder)
    staged.replace(main)
    sync_folder(main.parent)


def write_small_file(path: str, content: bytes) -> None:
    """Writes one of millions of small files, atomically but without flushing it to the device, which would take days.

    A power cut may leave an empty file, which the caller must notice when it runs again. Creates the folder.
    """
    temporary = None
    try:
        with naming(path):
            mode = mode_to_keep(path)
            try:
                temporary = TemporaryFile(path, mode)
            except FileNotFoundError:
                make_folder(os.path.dirname(path))  # noqa: PTH120
                temporary = TemporaryFile(path, mode)
            left = memoryview(content)
            while left:  # a full disk may take a part
                left = left[os.write(temporary.descriptor, left) :]
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.discard()


@contextlib.contextmanager
def opened(target: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """Yields a stream that is open already, or opens a path for writing atomically."""
    if isinstance(target, str | os.PathLike):
        with atomic_open(target) as stream:
            yield stream
    else:
        yield target


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically; bytes of file names that are not UTF-8 become escapes."""
    with atomic_open(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `json_bytes` atomically."""
    with atomic_open(path) as stream:
        stream.write(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Returns strict JSON, indented for people; refuses NaN and infinity, which JSON does not have."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
