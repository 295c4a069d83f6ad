"""Replaces the results in a folder so that a stop at any moment cannot leave old numbers beside new files.

The mark of complete results, `results.json`, is withdrawn before anything else changes and written after everything
else. Meanwhile a hidden file says that the folder is being filled; it also tells the next command that the files there
are facekd's own, which may be removed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from facekd.files.reading import require_regular_file
from facekd.files.syncing import sync_folder
from facekd.files.writing import write_json

MARK = "results.json"


def start_results(folder: Path, files: Iterable[str] = (), parts: Iterable[str] = (), mark: str = MARK) -> None:
    """Withdraws the results of a folder, then removes the files that belonged to them.

    Only files named here are removed, and only from folders that hold results of facekd or unfinished ones: whatever
    else lies there stays.

    Args:
        folder: folder of the results; created if missing.
        files: names of the other files that results may consist of, whether they will be written again or not.
        parts: names of folders in it that hold results of their own, which belong to these as well.
        mark: name of the file that is there only when the results are complete.
    """
    has_results = _has_results(folder, mark)
    # What a run that was stopped has left is remembered until some run completes.
    unfinished = _unfinished(folder, mark)
    # A file from elsewhere may name what is not in the folder.
    names = {name for name in (*parts, *_parts_of(unfinished)) if Path(name).name == name and name not in ("", "..")}
    write_json(unfinished, {"parts": sorted(names)})
    (folder / mark).unlink(missing_ok=True)
    sync_folder(folder)  # or a power cut might bring back the mark, beside new files
    if not has_results:
        return
    for name in names:
        part = folder / name
        if _has_results(part, mark):
            _remove(part, (mark, *files, _unfinished(part, mark).name))
            with contextlib.suppress(OSError):  # somebody else's files are in it
                part.rmdir()
    _remove(folder, files)


def finish_results(folder: Path, results: Mapping[str, Any], mark: str = MARK) -> None:
    """Writes the mark, which says that all other files are there."""
    write_json(folder / mark, results)
    _unfinished(folder, mark).unlink(missing_ok=True)


def is_unfinished(folder: Path, mark: str = MARK) -> bool:
    """Tells whether a command that wrote results into a folder was stopped before it had written all."""
    return was_stopped(folder, mark) and not (folder / mark).exists()


def was_stopped(folder: Path, mark: str = MARK) -> bool:
    """Tells whether a command that wrote results into a folder did not end by itself, even if it had written all."""
    return _unfinished(folder, mark).exists()


def _has_results(folder: Path, mark: str) -> bool:
    # Unlike pathlib, this is False for a name that is too long for a file.
    return any(os.path.exists(place) for place in (folder / mark, _unfinished(folder, mark)))  # noqa: PTH110


def _unfinished(folder: Path, mark: str) -> Path:
    return folder / f".{mark}.unfinished"


def _parts_of(unfinished: Path) -> list[str]:
    require_regular_file(unfinished)
    try:
        return [str(name) for name in json.loads(unfinished.read_bytes())["parts"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(IsADirectoryError):  # not written by facekd
            (folder / name).unlink(missing_ok=True)
