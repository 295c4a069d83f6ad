"""Checks that what a verb reads and what it writes are different places."""

from __future__ import annotations

from pathlib import Path

from facekd.errors import DataError


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
