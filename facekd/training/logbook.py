"""Writes the log of a run: console lines for people, JSON lines for programs, TensorBoard events for curves.

`log.jsonl` holds one object per line, each with `kind` and `images_seen`. When a run resumes, the entries after the
checkpoint it resumes from are dropped, so the file reads as if the run had never stopped; all other lines stay as they
are, even those that cannot be read. No trouble with a log stops a run: it is said once, and training goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.files.temporaries import open_own_file
from facekd.files.writing import atomic_open
from facekd.utils.foreign import shown
from facekd.utils.progress import format_duration
from facekd.utils.terminal import console, say


class Logbook:
    """Writes the log of one run; only the main process has an active one."""

    def __init__(
        self, folder: Path, *, total_images: int, images_seen: int = 0, tensorboard: bool = True, active: bool = True
    ) -> None:
        """Opens the log of the run in `folder`, at `images_seen` of `total_images`.

        Args:
            tensorboard: also write TensorBoard events to `folder/tensorboard`.
            active: False makes every method do nothing, for all ranks but the main one.
        """
        self.active = active
        self.total_images = total_images
        self._console = console(stderr=True)
        self._writer = None
        self._bar: Progress | None = None
        if not active:
            return

        # A resumed run first drops the entries that it will write again.
        self._path = folder / "log.jsonl"
        self._file: BinaryIO | None = None
        self._is_cut = self._has_warned = False
        try:
            if num_unreadable := _drop_entries_after(self._path, images_seen):
                self.say(
                    f"{self._path}: lines that cannot be read are kept, and left out of reports: {num_unreadable:,}"
                )
        except OSError as error:
            self._warn(error)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # importing it takes half a second: not for other verbs

            with self._without_tensorboard_if_it_fails():
                self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images_seen + 1)

        # Start the bar last: an error above must not leave one behind.
        if self._console.is_terminal:
            columns = (BarColumn(None), TextColumn("{task.percentage:.1f} %"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("training", total=total_images, completed=images_seen)
            self._bar.start()

    def say(self, text: str) -> None:
        """Prints a line for the person watching."""
        if self.active:
            say(self._console, text)

    def advance(self, images_seen: int) -> None:
        """Moves the progress bar, if there is a terminal to show one."""
        if self._bar is not None:
            self._bar.update(self._task, completed=images_seen)

    def record(self, kind: str, images_seen: int, values: dict[str, Any]) -> None:
        """Appends `{"kind", "images_seen", **values}` to the log; numbers go to TensorBoard as `kind/name`.

        A number that is not finite is written as null, because JSON cannot express it.
        """
        if not self.active:
            return
        finite = {name: None if _is_not_finite(value) else value for name, value in values.items()}
        # json writes floats by repr, so they read back bit for bit.
        self._append(json.dumps({"kind": kind, "images_seen": images_seen, **finite}).encode() + b"\n")
        with self._without_tensorboard_if_it_fails():
            if self._writer is not None:
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self._writer.add_scalar(shown(f"{kind}/{name}"), value, images_seen)
                self._writer.flush()  # unasked it waits for two minutes, and a kill would lose what it holds

    def close(self) -> None:
        """Closes the files and removes the bar."""
        if self._bar is not None:
            self._bar.stop()
        if self.active and self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        with self._without_tensorboard_if_it_fails():
            if self._writer is not None:
                self._writer.close()

    def _append(self, line: bytes) -> None:
        """Appends a line at once; where the last one was cut by a full disk, on a line of its own."""
        try:
            if self._file is None:
                self._file = open_own_file(self._path, buffering=0)
            whole = b"\n" + line if self._is_cut else line
            self._is_cut = (self._file.write(whole) or 0) < len(whole)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self.say(
                f"warning: {self._path} cannot be written ({error.strerror}); training goes on without those lines"
            )
        self._has_warned = True

    @contextlib.contextmanager
    def _without_tensorboard_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self.say(
                f"warning: tensorboard/ cannot be written ({error.strerror or error}); training goes on without it"
            )

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(folder: str | Path, kind: str | None = None, numbers: Collection[str] = ()) -> list[dict[str, Any]]:
    """Reads the entries of a run's `log.jsonl`, oldest first; lines that cannot be read are left out.

    Args:
        folder: folder of the run; without a log in it there are no entries.
        kind: entries of one kind (`"train"`, `"validation"`); None takes all.
        numbers: take only entries in which these keys hold numbers.

    Raises:
        OSError: there is a log, and it cannot be opened.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return []
    entries = (_entry(line) for line in path.read_bytes().split(b"\n"))
    return [
        entry
        for entry in entries
        if entry is not None and kind in (None, entry["kind"]) and all(_is_number(entry.get(key)) for key in numbers)
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
    is_entry = isinstance(entry, dict) and isinstance(entry.get("kind"), str) and _is_number(entry.get("images_seen"))
    return entry if is_entry else None


def _is_number(value: Any) -> bool:
    # Whole numbers of JSON may have thousands of digits, which no float, and so no curve, can show.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _drop_entries_after(path: Path, images_seen: int) -> int:
    """Removes the entries after `images_seen`, and a last line that a kill cut short; leaves all other lines alone.

    Returns:
        The number of lines that hold no entry.

    Raises:
        OSError: the log cannot be read or written.
    """
    if not path.exists():
        return 0
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


class Stopwatch:
    """Measures the time since the last log line, and how much of it training waited for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins a new interval."""
        self._start = time.perf_counter()
        self._waiting = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of a block as waiting for data."""
        started = time.perf_counter()
        yield
        self._waiting += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of a block (validation, saving) out of the interval."""
        started = time.perf_counter()
        yield
        self._start += time.perf_counter() - started

    def read(self, num_images: int, images_left: int) -> dict[str, float]:
        """Returns what `peek` does and begins a new interval."""
        reading = self.peek(num_images, images_left)
        self.restart()
        return reading

    def peek(self, num_images: int, images_left: int) -> dict[str, float]:
        """Returns `images_per_second`, `data_wait` (a share, 0 to 1) and `seconds_left`.

        Args:
            num_images: images trained on in this interval.
            images_left: images to the end of the run.
        """
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        rate = num_images / elapsed
        return {
            "images_per_second": round(rate, 1),
            "data_wait": round(self._waiting / elapsed, 4),
            "seconds_left": round(images_left / rate, 1),
        }


def train_line(images_seen: int, total_images: int, values: dict[str, float]) -> str:
    """Formats one line of the training log for people."""
    return (
        f"{images_seen:>11,} / {total_images:,} ({images_seen / total_images:6.1%})  "
        f"loss {values['loss']:8.4f}  lr {values['lr']:.2e}  {values['images_per_second']:8,.0f} images/s  "
        f"data wait {values['data_wait']:5.1%}  {format_duration(values['seconds_left'])} left"
    )


class Timer:
    """Tells when `seconds` have passed since it was made or restarted; never if `seconds` is 0."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Counts from now."""
        self._start = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Tells whether the time is over."""
        return self._seconds > 0 and time.monotonic() - self._start >= self._seconds
