"""Runs a writer that can be interrupted: says what is kept, what was found, and whether an input has changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.jobs.bad_records import BadRecords
from facekd.files.reading import stamp_of
from facekd.utils.wording import counted


class Resumable(contextlib.AbstractContextManager[Any], Protocol):
    """Describes a writer that keeps what it has when it is stopped: `RecordPackWriter` with a job, or `TarPackWriter`.

    Attributes:
        next_task: the task to go on with.
        num_found: images that an earlier run has written.
        num_images: images written so far.
        num_kept: after a stop, images that the same job can go on after.
        partial_path: where they are until the file is finished.
    """

    next_task: int
    num_found: int

    @property
    def partial_path(self) -> Path: ...

    @property
    def num_images(self) -> int: ...

    @property
    def num_kept(self) -> int: ...

    def restart(self) -> None: ...


def file_stamp(path: Path) -> str:
    """Returns the stamp of a file as text (`stamp_of`); empty if the file is gone."""
    try:
        return ":".join(map(str, stamp_of(path)))
    except OSError:
        return ""


def files_fingerprint(paths: list[Path]) -> dict[str, Any]:
    """Returns names and stamps of the files that a source consists of, for a job's description."""
    return {"files": [[os.fsencode(path.resolve()).hex(), file_stamp(path)] for path in paths]}


def digest_of(parts: Iterable[bytes | np.ndarray]) -> str:
    """Returns the SHA-256 of long lists as one hexadecimal string, for a job's description.

    Args:
        parts: bytes, or arrays of integers, which are hashed as little-endian int64; one after another.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part, dtype="<i8").data)
    return digest.hexdigest()


@contextlib.contextmanager
def resuming(writer: Resumable, bad: BadRecords) -> Iterator[None]:
    """Runs the block with `writer` open; it continues after what an earlier run has written.

    Says how many images were found; when an exception ends the block, says how many are kept and how to go on.

    Args:
        writer: the writer, opened and closed here.
        bad: told of the records that the earlier run skipped. Under the policy "fail" it would have skipped none, so
            writing starts anew.
    """
    try:
        with writer:
            # Tasks done by the earlier run that left no image are records it skipped.
            num_skipped = writer.next_task - writer.num_images
            if num_skipped and bad.policy == "fail":
                writer.restart()
                num_skipped = 0
            bad.num_before += num_skipped
            if writer.num_found:
                folder = writer.partial_path.parent
                print(f"{folder}: going on after {counted(writer.num_found, 'image')} written before", file=sys.stderr)
            yield
    except BaseException:
        if writer.num_kept:
            print(
                f"{counted(writer.num_kept, 'image is', 'images are')} kept in {writer.partial_path}; run the same "
                "command again to go on",
                file=sys.stderr,
            )
        raise
