"""Notices that the folder of a command's results was deleted, moved or replaced while the command runs.

A command that went on would fill the rest of its results into a new folder of the same name: a run with its last
checkpoint alone, half of the crops. Whatever writes files asks here first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facekd.errors import DataError

_JUST_A_PLACE = getattr(os, "O_PATH", os.O_RDONLY)  # on Linux a folder need not be readable for it
# Folder -> where it is without links, and an open descriptor, by which it is found wherever it is moved.
_held: dict[str, tuple[str, int]] = {}


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """While the block runs, nothing is written into a folder or below it once it is not the same folder any more."""
    place = os.path.abspath(folder)  # noqa: PTH100 - links stay: who replaces one replaces the folder
    if place in _held:
        yield
        return
    real = os.path.realpath(place)
    _held[place] = real, os.open(real, _JUST_A_PLACE | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(_held.pop(place)[1])


def check_held(path: str | os.PathLike[str]) -> None:
    """Checks that the held folders in which a file or folder lies are still there; others are not looked at.

    Raises:
        DataError: one was deleted, moved or replaced.
    """
    if not _held:
        return
    place = os.path.abspath(path)  # noqa: PTH100 - called for each of millions of images
    for folder, (real, descriptor) in _held.items():
        if place == folder or place.startswith(f"{folder.rstrip('/')}/"):
            _check(folder, real, descriptor)


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Creates a folder, and those that it lies in, unless it is there.

    Raises:
        DataError: it lay in a held folder that was deleted, moved or replaced.
        OSError: it cannot be created.
    """
    check_held(folder)
    while not os.path.isdir(folder):  # noqa: PTH112
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        except FileExistsError:
            # If nothing is there by now, another process has just removed its folder: try again.
            if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112
                raise


def _check(folder: str, real: str, descriptor: int) -> None:
    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # noqa: PTH116
            return
        happened = "was replaced by another"
    except (FileNotFoundError, NotADirectoryError):
        happened = "was deleted or moved"
    # Linux knows where the folder is now.
    try:
        now = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        now = ""
    remedy = "Run the same command again"
    if now.endswith(" (deleted)"):
        happened = "was deleted"
    elif now and now != real:
        happened, remedy = f"was moved to {now}", "Move it back, and run the same command again to go on"
    raise DataError(f"{folder}: {happened} while this command was writing into it; nothing more was written. {remedy}")
