"""Measures how fast a run is, and formats that for people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from facekd.utils.progress import format_duration


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
