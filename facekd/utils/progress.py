"""Shows progress with rate and time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.utils.foreign import shown
from facekd.utils.terminal import console, printable_streams

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def format_duration(seconds: float) -> str:
    """Formats seconds by their two largest units, such as `1m15s` for 75.2."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def track(items: Iterable[Item], description: str, total: int | None = None, unit_size: int = 1) -> Iterator[Item]:
    """Yields `items` while showing progress on standard error.

    Args:
        items: what to iterate over.
        description: a few words, such as `"embedding images"`.
        total: number of units in all; `len(items) * unit_size` if not given and known.
        unit_size: number of units that an item stands for, such as the images of a batch.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items) * unit_size  # type: ignore[arg-type]
    show = _bar if sys.stderr.isatty() else _lines
    yield from show(items, shown(description), total, unit_size)


def _bar(items: Iterable[Item], description: str, total: int | None, unit_size: int) -> Iterator[Item]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # While a bar is shown, rich takes over what is printed, to put it above the bar.
    with Progress(*columns, console=console(stderr=True), transient=True) as progress, printable_streams():
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.update(task, advance=unit_size)


def _lines(items: Iterable[Item], description: str, total: int | None, unit_size: int) -> Iterator[Item]:
    # A job shorter than the interval prints nothing.
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done = min(done + unit_size, total or sys.maxsize)  # the last batch may be smaller
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - start)
            line = f"{description}: {done:,}"
            if total:
                remaining = format_duration((total - done) / rate)
                line += f" of {total:,} ({done / total:.0%}), {remaining} left"
            print(f"{line}, {rate:,.0f}/s", file=sys.stderr)
