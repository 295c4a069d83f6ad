"""Checks that what a verb reads and what it writes are different places, and that it replaces nothing unasked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from facekd.errors import DataError
from facekd.files.output_lock import file_lock

MARK_WITHIN = 1024  # bytes


def check_apart(output: Path, *sources: Path | None) -> None:
    """Refuses an output that is a source, lies in one, or holds one.

    Results would be taken for images the next time, or replace what is read.

    Args:
        output: the folder or the file that will be written.
        sources: folders and files that will be read; None and what does not exist are passed over.

    Raises:
        DataError: the output and a source overlap.
    """
    place = output.resolve()
    for source in sources:
        if source is None or not source.exists():
            continue
        read = source.resolve()
        if place == read:
            problem = f"{output} is a source itself"
        elif place.is_relative_to(read) and read.is_dir():
            problem = f"{output} lies in {source}, which is read"
        elif read.is_relative_to(place):
            problem = f"{source}, which is read, lies in {output}"
        # Two packs in one folder would share the file `property`.
        elif place.suffix == read.suffix == ".rec" and place.parent == read.parent:
            problem = f"{output} lies beside {source}, which is read"
        else:
            continue
        raise DataError(f"{problem}; sources are never touched: choose an output that does not overlap with them")


@contextmanager
def claimed_files(
    outputs: Iterable[Path | None], sources: Iterable[Path], verb: str, marks: Iterable[bytes]
) -> Iterator[None]:
    """Locks the files that a verb will write while the block runs, and refuses to replace those of anybody else.

    Its own earlier results are replaced, so that the same command goes on wherever it was stopped.

    Args:
        outputs: the files; None for one that was not asked for.
        sources: files and folders that will be read.
        verb: the command, such as `facekd search`.
        marks: a file that has one of these among its first bytes was written by this verb.

    Raises:
        DataError: a file of something else is there, cannot be written, or overlaps with a source.
        InUseError: another process writes one of them.
    """
    with ExitStack() as stack:
        for path in {path: None for path in outputs if path is not None}:
            check_apart(path, *sources)
            stack.enter_context(file_lock(path))
            if path.exists() and not (path.is_file() and any(mark in _beginning(path) for mark in marks)):
                raise DataError(
                    f"{path}: is there already, and not from `{verb}`; choose another name, or move it away"
                )
        yield


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MARK_WITHIN)
