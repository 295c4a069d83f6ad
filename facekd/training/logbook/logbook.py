"""Writes the log of a run: console lines for people, JSON lines for programs, curves for trackers.

No trouble with a log stops a run: it is said once, and training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.training.logbook.log_file import LogFile
from facekd.training.logbook.tracked_run import numbers_of
from facekd.training.logbook.trackers import Tracker, open_trackers
from facekd.utils.terminal import console, say


class Logbook:
    """Writes the log of one run; only the main process has an active one."""

    def __init__(
        self,
        folder: Path,
        *,
        total_images: int,
        images_seen: int = 0,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> None:
        """Opens the log of the run in `folder`, at `images_seen` of `total_images`.

        Args:
            folder: folder of the run.
            total_images: length of the run.
            images_seen: where the run is.
            trackers: where numbers go besides `log.jsonl`, see `facekd/training/logbook/trackers.py`.
            config: the config as plain values, for the trackers that show it.
            active: False makes every method do nothing, for all ranks but the main one.
        """
        self.active = active
        self.total_images = total_images
        self._images_seen = images_seen
        self._console = console(stderr=True)
        self._trackers: list[Tracker] = []
        self._bar: Progress | None = None
        if not active:
            return
        # A resumed run first drops the entries that it will write again.
        self._file = LogFile(folder, images_seen, self.say)
        self._trackers = open_trackers(trackers, folder, images_seen, config or {}, self.say)

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
        """Notes where the run is, and moves the progress bar, if there is a terminal to show one."""
        self._images_seen = images_seen
        if self._bar is not None:
            self._bar.update(self._task, completed=images_seen)

    def record(self, kind: str, images_seen: int, values: dict[str, Any]) -> None:
        """Appends `{"kind", "images_seen", **values}` to the log; numbers go to the trackers as `kind/name`."""
        if not self.active:
            return
        self._file.append({"kind": kind, "images_seen": images_seen, **values})
        numbers = numbers_of(kind, values)
        for tracker in self._trackers:
            tracker.record(images_seen, numbers)

    def close(self, has_failed: bool = False) -> None:
        """Closes the files, ends the runs of the trackers and removes the bar.

        Args:
            has_failed: whether an error ends the run; otherwise it is complete, or was stopped.
        """
        if self._bar is not None:
            self._bar.stop()
        if not self.active:
            return
        self._file.close()
        outcome = "failed" if has_failed else "complete" if self._images_seen >= self.total_images else "stopped"
        for tracker in self._trackers:
            tracker.end(outcome)
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(has_failed=kind is not None)
