"""Flushes files and folders to the device, so that a mark which says that they are there tells the truth.

After a power cut a file system may show a later change and lack an earlier one. So what a mark stands for is flushed
before the mark is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

# What file systems say that do not offer it for folders.
NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to the device: files that were renamed there keep their names in a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # it may be written to, but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            error.filename = str(folder)
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flushes all files and folders in a folder to the device, for the mark that will say that they are there."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as stream:  # noqa: PTH118, PTH123
                os.fsync(stream.fileno())
        sync_folder(Path(place))


def sync_file_system(folder: Path) -> None:
    """Flushes the file system of a folder: for thousands of small files, where one by one would take minutes.

    Raises:
        OSError: the device has failed to write.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0 and ctypes.get_errno() not in NOT_OFFERED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
