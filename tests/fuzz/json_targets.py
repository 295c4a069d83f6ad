"""Lists the readers of JSON files that facekd writes: what is changed is a value, so that the file stays JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.jobs.conversion_log import LOG_NAME, ConversionLog
from facekd.files.reading import sealed, stamp_to_rename
from facekd.results.reading import read_result
from facekd.results.thresholds import MeasuredThresholds, read_thresholds
from tests.fuzz.target import Target
from tests.hostile_values import JSON_KINDS, changed_by
from tests.results_of_each_kind import pack, people, searches, templates

CONVERSION = {"job": {"verb": "convert"}, "finished": {"a.rec": {"stamp": "?", "images": 3, "skipped": 1}}}


def write_plain(path: Path, content: Any) -> None:
    """Writes JSON, as it is."""
    path.write_text(json.dumps(content), encoding="utf-8")


def leaves(
    name: str,
    file_name: str,
    make: Callable[[], list[Any]],
    read: Callable[[Path], Any],
    write: Callable[[Path, Any], Any] = write_plain,
    **more: Any,
) -> Target:
    """Returns a target whose bytes say which values of an object are changed, and into what.

    Args:
        name, file_name: see `Target`.
        make: makes sound objects; the first byte chooses one, and each two that follow change a value.
        read: gets the path of the changed object.
        write: writes an object to a path.
        more: see `Target`.
    """
    make = cache(make)

    def read_changed(path: Path) -> Any:
        choices = path.read_bytes() or b"\0"
        contents = make()
        write(path, changed_by(choices[1:], contents[choices[0] % len(contents)], JSON_KINDS))
        return read(path)

    def seeds() -> list[bytes]:
        return [bytes([number]) for number in range(len(make()))]

    return Target(name, file_name, read_changed, seeds, max_len=9, **{"copies": 40, **more})


def _write_conversion(path: Path, content: dict[str, Any]) -> None:
    """Writes a log of a file that is there, sealed and with the right stamp, which damage would never leave."""
    (path.parent / "a.rec").write_bytes(bytes(8))
    stamp = stamp_to_rename((path.parent / "a.rec").stat())
    write_plain(path, sealed(json.loads(json.dumps(content).replace('"?"', json.dumps(stamp)))))


def _read_conversion(path: Path) -> tuple[int, int] | None:
    return ConversionLog(path.parent, {"verb": "convert"}).counts(path.parent / "a.rec")


def _check_conversion(choices: bytes, counts: tuple[int, int] | None) -> None:
    """Has the numbers of images that were written, and never such as no file has."""
    assert counts is None or all(type(count) is int and count >= 0 for count in counts), counts
    assert len(choices) > 2 or counts == (3, 1)


def _read_results(path: Path) -> tuple[dict[str, Any], MeasuredThresholds | None]:
    """Reads results, and their thresholds if they have any."""
    result = read_result(path.parent)
    return result, read_thresholds(path) if result.get("tar_at_far") else None


def _check_results(_: bytes, found: tuple[dict[str, Any], MeasuredThresholds | None]) -> None:
    """Has rates between 0 and 1 at every threshold."""
    read = found[1]
    for cosine in () if read is None else (-1.0, 0.3, 1.0, *read.threshold.tolist()):
        rates = read.rates_at(cosine)
        assert all(0 <= low <= high <= 1 for low, high in (rates.far, rates.tar)), rates


TARGETS = [
    leaves(
        "conversion_log", LOG_NAME, lambda: [CONVERSION], _read_conversion, _write_conversion, check=_check_conversion
    ),
    leaves(
        "results",
        "results.json",
        lambda: [people(), searches(), templates(), pack()],
        _read_results,
        check=_check_results,
    ),
]
