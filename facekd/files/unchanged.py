"""Notices that a file was replaced while it was in use, so that what is said of it is true of what was read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from facekd.errors import DataError
from facekd.files.reading import stamp_of


@contextlib.contextmanager
def unchanged(*paths: str | os.PathLike[str]) -> Iterator[None]:
    """Runs a block that reads files several times: once for their content, say, and once for a checksum.

    Raises:
        DataError: one of the files has changed meanwhile; the message names it.
    """
    before = [state_of(Path(path)) for path in paths]
    yield
    for path, stamp in zip(paths, before, strict=True):
        if state_of(Path(path)) != stamp:
            raise DataError(
                f"{path}: was replaced, changed or removed while it was read, so parts of two files may have been "
                "taken for one; run the same command again"
            )


def state_of(path: Path) -> tuple[int, ...] | None:
    """Returns what changes when a file is changed or another takes its place; None if there is none."""
    try:
        return (path.stat().st_ino, *stamp_of(path))
    except OSError:
        return None
