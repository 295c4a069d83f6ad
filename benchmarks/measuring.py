"""What the benchmarks share: turns summed up in a cell, a table for eyes, and the same table in a JSON file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facekd.utils.files import write_json

Seconds = tuple[float, float]  # by the clock, of the processor


class Table(NamedTuple):
    """Cells as they are shown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """`median (lowest to highest)`."""
    return f"{statistics.median(values):,.{decimals}f} ({min(values):,.{decimals}f} to {max(values):,.{decimals}f})"


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def processor_seconds() -> float:
    """Of this process and its children, those that have ended included; of living ones on Linux only."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = 0
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            # The program's name, in brackets, may hold blanks; user and system time are the 14th and 15th fields.
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + ticks / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], Any]) -> Seconds:
    """What a piece of work takes."""
    start, used = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start, processor_seconds() - used


def take_turns(sides: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Any]]:
    """Call each side once a turn, so that whatever else the machine does falls on all of them."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            found[name].append(side())
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(tables: Sequence[Table], path: Path | None, **figures: Any) -> None:
    """Print the tables; write them with the figures behind them where a path is given."""
    for table in tables:
        print(f"\n{table.title}\n\n{table.markdown()}", flush=True)
    if path is not None:
        write_json(path, {"machine": machine(), "tables": [table._asdict() for table in tables], **figures})
