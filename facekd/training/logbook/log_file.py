"""Writes and reads `log.jsonl`: one object per line, each with `kind` and `images_seen`.

When a run resumes, the entries after the checkpoint it resumes from are dropped, so the file reads as if the run had
never stopped; all other lines stay as they are, even those that cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from facekd.files.reading import require_regular_file
from facekd.files.temporaries import open_own_file
from facekd.files.writing import atomic_open

LARGEST_DRAWN = 1e30


class LogFile:
    """Appends to the `log.jsonl` of a run; where that fails it says so once, and goes on.

    Args:
        folder: folder of the run.
        images_seen: where the run is; later entries of an interrupted one are dropped.
        say: prints a line for the person watching.
    """

    def __init__(self, folder: Path, images_seen: int, say: Callable[[str], None]) -> None:
        self._path = folder / "log.jsonl"
        self._say = say
        self._file: BinaryIO | None = None
        self._is_cut = self._has_warned = False
        try:
            if num_unreadable := _drop_entries_after(self._path, images_seen):
                say(f"{self._path}: lines that cannot be read are kept, and left out of reports: {num_unreadable:,}")
        except OSError as error:
            self._warn(error)

    def append(self, entry: dict[str, Any]) -> None:
        """Appends an entry at once; where the last one was cut by a full disk, on a line of its own.

        A number that is not finite is written as null, because JSON cannot express it.
        """
        finite = {name: None if _is_not_finite(value) else value for name, value in entry.items()}
        line = json.dumps(finite).encode() + b"\n"  # json writes floats by repr, so they read back bit for bit
        try:
            if self._file is None:
                self._file = open_own_file(self._path, buffering=0)
            whole = b"\n" + line if self._is_cut else line
            self._is_cut = (self._file.write(whole) or 0) < len(whole)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._say(
                f"warning: {self._path} cannot be written ({error.strerror}); training goes on without those lines"
            )
        self._has_warned = True


def read_log(folder: str | Path, kind: str | None = None, numbers: Collection[str] = ()) -> list[dict[str, Any]]:
    """Reads the entries of a run's `log.jsonl`, oldest first; lines that cannot be read are left out.

    Args:
        folder: folder of the run; without a log in it there are no entries.
        kind: entries of one kind (`"train"`, `"validation"`); None takes all.
        numbers: take only entries in which these keys hold numbers.

    Raises:
        DataError: it is a named pipe or a device, which nothing might ever come out of.
        OSError: there is a log, and it cannot be opened.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return []
    require_regular_file(path)
    entries = (_entry(line) for line in path.read_bytes().split(b"\n"))
    return [
        entry
        for entry in entries
        if entry is not None and kind in (None, entry["kind"]) and all(is_number(entry.get(key)) for key in numbers)
    ]


def kinds_logged_at(folder: str | Path, images_seen: int) -> set[str]:
    """Returns the kinds of the entries that a run's log has at a number of images seen."""
    return {entry["kind"] for entry in read_log(folder) if entry.get("images_seen") == images_seen}


def _entry(line: bytes) -> dict[str, Any] | None:
    """Returns the entry in a line of a log; None for a line that holds none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return None
    is_entry = isinstance(entry, dict) and isinstance(entry.get("kind"), str) and is_number(entry.get("images_seen"))
    return entry if is_entry else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tells whether a value of a log is a number that a curve can show: a finite one up to `LARGEST_DRAWN`."""
    # Whole numbers of JSON may have thousands of digits, and the differences of floats that are large be infinite.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_DRAWN


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _drop_entries_after(path: Path, images_seen: int) -> int:
    """Removes the entries after `images_seen`, and a last line that a kill cut short; leaves all other lines alone.

    Returns:
        The number of lines that hold no entry.

    Raises:
        DataError: it is a named pipe or a device, which nothing might ever come out of.
        OSError: the log cannot be read or written.
    """
    if not path.exists():
        return 0
    require_regular_file(path)
    *lines, last = path.read_bytes().split(b"\n")
    lines += [last] if _entry(last) else []
    entries = [_entry(line) for line in lines]
    kept = [
        line + b"\n"
        for line, entry in zip(lines, entries, strict=True)
        if entry is None or entry["images_seen"] <= images_seen
    ]
    with atomic_open(path) as stream:
        stream.writelines(kept)
    return sum(entry is None and bool(line.strip()) for line, entry in zip(lines, entries, strict=True))
