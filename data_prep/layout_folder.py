"""Puts a made layout into its folder as a whole, and replaces an older one when asked to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from facekd.errors import DataError
from facekd.files.output_lock import file_lock
from facekd.files.reading import read_json
from facekd.files.syncing import sync_file_system
from facekd.files.temporaries import temporary_folder

SUMMARY, UNFINISHED = "layout.json", ".layout_unfinished"


@contextmanager
def layout_folder(output: Path, overwrite: bool, key: str, parts: Sequence[str]) -> Iterator[Path]:
    """Yields an empty folder to write a layout into, and moves what was written to `output`.

    The caller writes `layout.json` too, which is moved last: a folder that has it holds a whole layout. Other files in
    `output` stay as they are.

    Args:
        output: folder of the layout; new or empty, or one that holds a layout of the same command.
        overwrite: whether a layout may be replaced; one that was left unfinished is in any case.
        key: a key of `layout.json` by which the command knows its own.
        parts: names of all files and folders that a layout of the command may have, beside `layout.json`.

    Raises:
        DataError: the folder holds something else, or a layout that may not be replaced.
    """
    with file_lock(output, "command makes a set in this folder"):
        unfinished = output / UNFINISHED
        is_taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
        if is_taken and not unfinished.exists():
            is_ours = _is_layout(output / SUMMARY, key)
            if not (is_ours and overwrite):
                remedy = "--overwrite replaces what is there" if is_ours else "choose an empty folder, or a new one"
                raise DataError(f"{output} exists and is not empty; {remedy}")
        with temporary_folder(output) as staged:  # so that an interrupted run leaves no half of a set
            yield staged
            sync_file_system(staged)
            # While this mark is there, what is beside it is no set, and the next run replaces it.
            output.mkdir(exist_ok=True)
            unfinished.touch()
            for name in (SUMMARY, *parts):
                _remove(output / name)
            for part in sorted(staged.iterdir(), key=lambda path: path.name == SUMMARY):  # the summary last
                part.replace(output / part.name)
            unfinished.unlink()


def _is_layout(summary: Path, key: str) -> bool:
    if not summary.is_file():
        return False
    try:
        return bool(read_json(summary, "the summary of a layout", keys=(key,)))
    except DataError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
