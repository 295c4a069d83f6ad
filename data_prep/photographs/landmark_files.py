"""Reads landmark files: one line per image with its name and five points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from facekd.errors import DataError
from facekd.files.reading import read_text_file
from facekd.images.alignment import NUM_LANDMARKS
from facekd.utils.decimal_digits import real_number
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

NUM_VALUES = 2 * NUM_LANDMARKS
EXPECTED = "expected `name x1 y1 ... x5 y5`, tabs or spaces between, perhaps a score at the end"


@dataclass(frozen=True)
class GivenLandmarks:
    """Holds the landmarks of one image, float64 (5, 2), and the detector's score if the file has one."""

    landmarks: np.ndarray
    score: float | None


def read_landmarks(path: Path) -> dict[str, GivenLandmarks]:
    """Reads a landmark file into a dictionary from name to landmarks.

    Columns are separated by tabs or by spaces; a name may contain spaces, because the numbers are counted from the end.
    A score may follow the ten numbers, as in IJB's `name_5pts_score.txt`. Lines that start with `#` are comments, and
    so is everything after a `#` that follows the numbers.

    Raises:
        DataError: a line has another form, a number is not finite, or a name occurs twice.
        OSError: the file cannot be read.
    """
    found: dict[str, GivenLandmarks] = {}
    text = read_text_file(path, has_file_names=True)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue

        # Check the line: a name, ten finite numbers, perhaps a score.
        name, values = _split(line)
        if not name or len(values) not in (NUM_VALUES, NUM_VALUES + 1):
            raise DataError(
                f"{path}, line {number}: {line[:100]!r} ends in {counted(len(values), 'number')}; {EXPECTED}"
            )
        if not np.isfinite(values).all():
            raise DataError(f"{path}, line {number}: a coordinate of {shown(name)} is not finite")

        # `./a.jpg` and `a.jpg` are one image.
        name = str(PurePosixPath(name))
        if name in found:
            raise DataError(f"{path}, line {number}: {shown(name)} has landmarks already; give one face per image")
        landmarks = np.array(values[:NUM_VALUES]).reshape(NUM_LANDMARKS, 2)
        found[name] = GivenLandmarks(landmarks, values[NUM_VALUES] if len(values) > NUM_VALUES else None)
    if not found:
        raise DataError(f"{path} lists no landmarks; {EXPECTED}")
    return found


def _split(line: str) -> tuple[str, list[float]]:
    """Returns the name and the numbers that end the line: at most eleven, so that a name may consist of digits."""
    columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split(" ")
    columns = [column.strip() for column in columns]
    while columns and (not columns[-1] or columns[-1].startswith("#")):
        columns.pop()
    values: list[float] = []
    while len(columns) > 1 and len(values) <= NUM_VALUES:
        value = real_number(columns[-1])
        if value is not None:
            values.insert(0, value)
        elif columns[-1]:
            break
        columns.pop()
    separator = "\t" if "\t" in line else " "
    return separator.join(columns).strip(), values
