"""Lists the readers of small JSON files that facekd writes: what is changed is a value, so that the file stays JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.jobs.conversion_log import LOG_NAME, ConversionLog
from facekd.files.reading import sealed, stamp_to_rename
from tests.fuzz.target import Target
from tests.hostile_values import JSON_KINDS, changed_by

CONVERSION = {"job": {"verb": "convert"}, "finished": {"a.rec": {"stamp": "?", "images": 3, "skipped": 1}}}


def leaves(
    name: str,
    file_name: str,
    content: Any,
    read: Callable[[Path], Any],
    write: Callable[..., Any] | None = None,
    **more: Any,
) -> Target:
    """Returns a target whose bytes say which values of an object are changed, and into what.

    Args:
        name, file_name: see `Target`.
        content: the object; or several, one of which the first byte chooses.
        read: gets the path of the changed object.
        write: writes an object to a path; None writes JSON.
        more: see `Target`.
    """
    contents = content if isinstance(content, tuple) else (content,)

    def read_changed(path: Path) -> Any:
        choices = path.read_bytes()
        start = contents[choices[0] % len(contents) if choices else 0]
        (write or write_plain)(path, changed_by(choices[1:], start, JSON_KINDS))
        return read(path)

    seeds = [bytes([number]) for number in range(len(contents))]
    return Target(name, file_name, read_changed, lambda: seeds, max_len=9, **{"copies": 40, **more})


def write_plain(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_conversion(path: Path, content: dict[str, Any]) -> None:
    """Writes a log of a file that is there, sealed and with the right stamp, which damage would never leave."""
    (path.parent / "a.rec").write_bytes(bytes(8))
    stamp = stamp_to_rename((path.parent / "a.rec").stat())
    path.write_text(json.dumps(sealed(content)).replace('"?"', json.dumps(stamp)))
    write_plain(path, sealed(json.loads(path.read_text())))


def _read_conversion(path: Path) -> tuple[int, int] | None:
    return ConversionLog(path.parent, {"verb": "convert"}).counts(path.parent / "a.rec")


def _check_conversion(choices: bytes, counts: tuple[int, int] | None) -> None:
    """Has the numbers of images that were written, and never such as no file has."""
    assert counts is None or all(type(count) is int and count >= 0 for count in counts), counts
    assert len(choices) > 2 or counts == (3, 1)


TARGETS = [
    leaves("conversion_log", LOG_NAME, CONVERSION, _read_conversion, _write_conversion, check=_check_conversion),
]
