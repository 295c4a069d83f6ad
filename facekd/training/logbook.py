"""Writes the log of a run: console lines for people, JSON lines for programs, TensorBoard events for curves.

`log.jsonl` holds one object per line, each with `images_seen`. When a run resumes, the entries after the checkpoint it
resumes from are dropped, so the file reads as if the run had never stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.utils.files import write_text
from facekd.utils.progress import format_duration


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
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._writer = None
        self._bar: Progress | None = None
        if not active:
            return

        # Open the files; a resumed run first drops the entries that it will write again.
        self._path = folder / "log.jsonl"
        _drop_entries_after(self._path, images_seen)
        self._file = self._path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # importing it takes half a second: not for other verbs

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
            self._console.print(text, markup=False)

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
        self._file.write(json.dumps({"kind": kind, "images_seen": images_seen, **finite}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, images_seen)
            self._writer.flush()  # unasked it waits for two minutes, and a kill would lose what it holds

    def close(self) -> None:
        """Closes the files and removes the bar."""
        if self._bar is not None:
            self._bar.stop()
        if self.active:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(folder: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Reads the entries of a run's `log.jsonl`, oldest first, of one kind (`"train"`, `"validation"`) or of all.

    A last line that a kill cut short is left out.
    """
    path = Path(folder) / "log.jsonl"
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if kind in (None, entry["kind"]):
            entries.append(entry)
    return entries


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _drop_entries_after(path: Path, images_seen: int) -> None:
    if path.exists():
        kept = [json.dumps(entry) + "\n" for entry in read_log(path.parent) if entry["images_seen"] <= images_seen]
        write_text(path, "".join(kept))


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
