"""Landmark files: a line an image, its name and five points, as detectors and data sets come with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from facekd.errors import DataError
from facekd.images.alignment import NUM_LANDMARKS

NUM_VALUES = 2 * NUM_LANDMARKS
EXPECTED = "expected `name x1 y1 ... x5 y5`, tabs or spaces between, perhaps a score at the end"


@dataclass(frozen=True)
class GivenLandmarks:
    """What a line says: landmarks float64 (5, 2), and the detector's score, or None."""

    landmarks: np.ndarray
    score: float | None


def read_landmarks(path: Path) -> dict[str, GivenLandmarks]:
    """Read a landmark file, name to landmarks.

    Columns are parted by tabs or by spaces (names may then hold spaces too: the numbers are counted from the end). A
    score may follow the ten numbers, as in IJB's `name_5pts_score.txt`. Lines that start with `#`, and what follows a
    `#` after the numbers, are comments.

    Raises:
        DataError: a line of another form, a number that is not finite, or a name that comes twice.
        OSError: the file cannot be read.
    """
    found: dict[str, GivenLandmarks] = {}
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, values = _split(line)
        if not name or len(values) not in (NUM_VALUES, NUM_VALUES + 1):
            raise DataError(f"{path}, line {number}: {line[:100]!r} ends in {len(values)} numbers; {EXPECTED}")
        if not np.isfinite(values).all():
            raise DataError(f"{path}, line {number}: a coordinate of {name} is not finite")
        name = str(PurePosixPath(name))
        if name in found:
            raise DataError(f"{path}, line {number}: {name} has landmarks already; give one face an image")
        landmarks = np.array(values[:NUM_VALUES]).reshape(NUM_LANDMARKS, 2)
        found[name] = GivenLandmarks(landmarks, values[NUM_VALUES] if len(values) > NUM_VALUES else None)
    if not found:
        raise DataError(f"{path} lists no landmarks; {EXPECTED}")
    return found


def _split(line: str) -> tuple[str, list[float]]:
    """Name, and the numbers that end the line: at most eleven, so that a name of digits stays a name."""
    columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split(" ")
    columns = [column.strip() for column in columns]
    while columns and (not columns[-1] or columns[-1].startswith("#")):
        columns.pop()
    values: list[float] = []
    while len(columns) > 1 and len(values) <= NUM_VALUES:
        try:
            values.insert(0, float(columns[-1]))
        except ValueError:
            if columns[-1]:
                break
        columns.pop()
    separator = "\t" if "\t" in line else " "
    return separator.join(columns).strip(), values
