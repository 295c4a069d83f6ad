"""Records what an alignment has done, one line of JSON per photograph, so that an interrupted run can continue."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from data_prep.photographs.landmark_files import NUM_VALUES
from facekd.errors import DataError
from facekd.faces import choosing
from facekd.files.held_folders import check_held
from facekd.files.resumable_file import whole_lines
from facekd.files.temporaries import open_own_file
from facekd.files.writing import naming
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted

LOG_NAME = "align_log.jsonl"
# What a damaged line makes json and us raise.
DAMAGE = (ValueError, RecursionError, TypeError, KeyError, AttributeError)
# Why a photograph is set aside, in words; the keys name folders of `--set-aside`.
REASONS = {**choosing.REASONS, "no_landmarks": "not in the landmark file"}


@dataclass(frozen=True)
class Alignment:
    """Records the result for one photograph.

    Attributes:
        photo: its name below the folder of photographs.
        stamp: the numbers of `stamp_of` for the file: a changed photograph is done again.
        crop: name of the crop below the output folder; None if the photograph was set aside.
        reason: why it was set aside, a key of `REASONS`; None if it was not.
        detail: a sentence about that.
        landmarks: ten numbers x1 y1 ... x5 y5 in pixels of the photograph, upright.
        score: score of the detector; None if the landmarks came without one.
        box: left, top, right, bottom; None if the landmarks were given.
        num_faces: number of faces found with a sufficient score.
    """

    photo: str
    stamp: list[int]
    crop: str | None = None
    reason: str | None = None
    detail: str | None = None
    landmarks: list[float] | None = None
    score: float | None = None
    box: list[float] | None = None
    num_faces: int | None = None


class AlignLog:
    """Writes and reads the log in an output folder: its first line holds the settings, each other one an `Alignment`.

    A last line that a killed run left unfinished is dropped; a damaged one is counted in a printed line, and left as it
    is. Their photographs are aligned again.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], restart: bool = False) -> None:
        """Opens the log to add to it.

        Args:
            folder: the output folder; it is made if missing.
            settings: everything that decides how crops look.
            restart: whether to delete an earlier log.

        Raises:
            DataError: the folder was aligned with other settings.
        """
        self.path = folder / LOG_NAME
        self.entries: dict[str, Alignment] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            self.path.unlink(missing_ok=True)
        end = 0
        if self.path.exists():
            end = self._load(settings)
        self._stream: BinaryIO = open_own_file(self.path)
        self._stream.truncate(end)
        if end == 0:
            self._write({"settings": settings})

    def add(self, entry: Alignment) -> None:
        """Appends the result for one photograph."""
        self.entries[entry.photo] = entry
        self._write({key: value for key, value in asdict(entry).items() if value is not None})

    def close(self) -> None:
        with naming(self.path):  # what could not be written is tried once more
            self._stream.close()

    def __enter__(self) -> AlignLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        check_held(self.path)
        with naming(self.path):
            self._stream.write(json.dumps(line).encode() + b"\n")
            self._stream.flush()

    def _load(self, settings: dict[str, Any]) -> int:
        """Reads the entries; returns the offset at which the last whole line ends."""
        end = num_damaged = 0
        for number, (line, stop) in enumerate(whole_lines(self.path)):
            end = stop
            try:
                value = json.loads(line)
                if number == 0:
                    self._check(value["settings"], settings)
                    continue
                entry = _entry_of(value)
                self.entries[entry.photo] = entry
            except DAMAGE as error:
                if number == 0:
                    raise DataError(
                        f"{self.path}: its first line, the settings, is damaged ({error}); choose another output "
                        "folder, or start again with --force"
                    ) from error
                num_damaged += 1
        if num_damaged:
            print(
                f"{self.path}: {counted(num_damaged, 'line is', 'lines are')} damaged; aligning "
                f"{agreeing(num_damaged, 'its photograph', 'their photographs')} again",
                file=sys.stderr,
            )
        return end

    def _check(self, found: dict[str, Any], settings: dict[str, Any]) -> None:
        names = {**found, **settings}
        different = [name for name in names if _comparable(name, found) != _comparable(name, settings)]
        if different:
            name = different[0]
            raise DataError(
                f"{self.path.parent} was aligned with {shown(name)} {shown(found.get(name))}, and now it is "
                f"{settings.get(name)}; crops made in two ways do not belong in one data set: choose "
                "another output folder, or align all photographs again with --force"
            )


def entries_of_any_settings(folder: Path) -> dict[str, Alignment]:
    """Reads what an earlier alignment into a folder has done, whatever its settings; damaged lines are left out."""
    entries: dict[str, Alignment] = {}
    path = folder / LOG_NAME
    for line, _ in whole_lines(path) if path.is_file() else ():
        with contextlib.suppress(*DAMAGE):  # the first line, the settings, is no entry
            entry = _entry_of(json.loads(line))
            entries[entry.photo] = entry
    return entries


def _entry_of(value: Any) -> Alignment:
    entry = Alignment(**value)
    if not _is_sound(entry):
        raise TypeError("values of other kinds")
    return entry


def _is_sound(entry: Alignment) -> bool:
    """Tells whether an entry that was read has the kinds of values that one has, and either a crop or a reason."""
    texts = (entry.crop, entry.detail)
    numbers = (entry.score, entry.num_faces, *(entry.landmarks or ()), *(entry.box or ()))
    return (
        isinstance(entry.photo, str)
        and isinstance(entry.stamp, list)
        and all(isinstance(text, str | None) for text in texts)
        and (entry.reason is None if entry.crop is not None else entry.reason in REASONS)
        and all(isinstance(values, list | None) for values in (entry.landmarks, entry.box))
        and (entry.landmarks is None or len(entry.landmarks) == NUM_VALUES)
        and all(isinstance(number, int | float | None) for number in numbers)
    )


def _comparable(name: str, settings: dict[str, Any]) -> Any:
    value = settings.get(name)
    # Patch releases of OpenCV (4.10.0 to 4.10.1) do not change what it computes.
    return ".".join(str(value).split(".")[:2]) if name == "opencv" else value
