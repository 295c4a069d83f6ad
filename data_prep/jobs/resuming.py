"""What verbs that write for hours share: whether an input is still what it was, and a word about what is kept."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from facekd.utils.files import stamp_of


class Resumable(Protocol):
    """A writer that keeps what it has when it is stopped: `RecordPackWriter` with a job, or `TarPackWriter`."""

    next_task: int

    @property
    def partial_path(self) -> Path: ...

    @property
    def num_images(self) -> int: ...

    @property
    def num_kept(self) -> int: ...

    def restart(self) -> None: ...


def file_stamp(path: Path) -> str:
    """Size and time of a file, which tell that it has changed since; nothing where it is gone."""
    try:
        return ":".join(map(str, stamp_of(path)))
    except OSError:
        return ""


def files_fingerprint(paths: list[Path]) -> dict[str, Any]:
    """Names, sizes and times of the files that a source consists of."""
    return {"files": [[os.fsencode(path.resolve()).hex(), file_stamp(path)] for path in paths]}


@contextlib.contextmanager
def told_when_kept(writer: Resumable) -> Iterator[None]:
    """Say what is kept, and how to go on, when the block, and `writer` in it, is ended by an exception."""
    try:
        yield
    except BaseException:
        if writer.num_kept:
            print(
                f"{writer.num_kept:,} images are kept in {writer.partial_path}; run the same command again to go on",
                file=sys.stderr,
            )
        raise


def tell_found(writer: Resumable, num_found: int) -> None:
    """Say that a run goes on from an earlier one."""
    if num_found:
        print(f"{writer.partial_path.parent}: going on after {num_found:,} images written before", file=sys.stderr)
