"""What a run tells: a line for eyes, JSON lines for machines, TensorBoard for curves.

`log.jsonl` holds one object a line, each with `images_seen`. When a run resumes, the entries after the checkpoint it
resumes from are dropped, so that the file reads as if the run had never stopped.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.utils.files import write_text
from facekd.utils.progress import format_duration


class Logbook:
    """Writes the log of one run; only the main process has one that writes."""

    def __init__(
        self, folder: Path, *, total_images: int, images_seen: int = 0, tensorboard: bool = True, active: bool = True
    ) -> None:
        """Open the log of the run in `folder`, at `images_seen` of `total_images`.

        Args:
            tensorboard: also write TensorBoard events to `folder/tensorboard`.
            active: False makes every method do nothing (the other ranks).
        """
        self.active = active
        self.total_images = total_images
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._writer = None
        self._bar: Progress | None = None
        if not active:
            return
        self._path = folder / "log.jsonl"
        _drop_entries_after(self._path, images_seen)
        self._file = self._path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # costs half a second that other verbs need not pay

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images_seen + 1)
        if self._console.is_terminal:  # last: an error above must not leave a bar behind
            columns = (BarColumn(None), TextColumn("{task.percentage:.1f} %"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("training", total=total_images, completed=images_seen)
            self._bar.start()

    def say(self, text: str) -> None:
        """Print a line for the person watching."""
        if self.active:
            self._console.print(text, markup=False)

    def advance(self, images_seen: int) -> None:
        """Move the progress bar, where there is a terminal to show one."""
        if self._bar is not None:
            self._bar.update(self._task, completed=images_seen)

    def record(self, kind: str, images_seen: int, values: dict[str, Any]) -> None:
        """Append `{"kind", "images_seen", **values}` to the log; numbers go to TensorBoard as `kind/name`.

        A number that is not finite is written as null, for JSON has no other word for it.
        """
        if not self.active:
            return
        finite = {name: None if _is_not_finite(value) else value for name, value in values.items()}
        # Floats are written by repr, which reads back bit for bit.
        self._file.write(json.dumps({"kind": kind, "images_seen": images_seen, **finite}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, images_seen)
            self._writer.flush()  # by itself it would wait for two minutes, and lose them to a kill

    def close(self) -> None:
        """Flush and close the files; take the bar away."""
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
    """The entries of a run's `log.jsonl`, oldest first, of one kind (`"train"`, `"validation"`) or of all.

    A last line cut short by a kill is left out.
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
    """Where the time of training goes since the last log line: waiting for data, or anything else."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self._start = time.perf_counter()
        self._waiting = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for the loader."""
        self._waiting += seconds

    def exclude(self, seconds: float) -> None:
        """Leave time spent on something else (validation, saving) out of the interval."""
        self._start += seconds

    def read(self, num_images: int, images_left: int) -> dict[str, float]:
        """`images_per_second`, `data_wait` (a share, 0 to 1), `seconds_left`; a new interval begins."""
        reading = self.peek(num_images, images_left)
        self.restart()
        return reading

    def peek(self, num_images: int, images_left: int) -> dict[str, float]:
        """As `read`, and the interval goes on."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        rate = num_images / elapsed
        return {
            "images_per_second": round(rate, 1),
            "data_wait": round(self._waiting / elapsed, 4),
            "seconds_left": round(images_left / rate, 1),
        }


def train_line(images_seen: int, total_images: int, values: dict[str, float]) -> str:
    """One line of a training log, for people."""
    return (
        f"{images_seen:>11,} / {total_images:,} ({images_seen / total_images:6.1%})  "
        f"loss {values['loss']:8.4f}  lr {values['lr']:.2e}  {values['images_per_second']:8,.0f} images/s  "
        f"data wait {values['data_wait']:5.1%}  {format_duration(values['seconds_left'])} left"
    )


class Timer:
    """Says when so many seconds have passed since it was made or restarted; never for 0."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._start = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the time is over."""
        return self._seconds > 0 and time.monotonic() - self._start >= self._seconds
