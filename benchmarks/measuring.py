"""Provides what the benchmarks share: turns, measures of time and memory, tables as text and as JSON.

torch is imported only where it is needed, for it would count in the memory of a benchmark that does without.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from facekd.errors import FacekdError
from facekd.files.writing import write_json

if TYPE_CHECKING:
    import torch

Seconds = tuple[float, float]  # wall-clock time, processor time
MXNET_PYTHON = Path(".venv-mxnet/bin/python")  # made by `make .venv-mxnet/.installed`


class Table(NamedTuple):
    """Holds a title, column titles and formatted cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Formats values as `median (lowest to highest)`."""
    return f"{statistics.median(values):,.{decimals}f} ({min(values):,.{decimals}f} to {max(values):,.{decimals}f})"


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divides two lists of measurements turn by turn."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def processor_seconds() -> float:
    """Returns the processor time of this process and its children; living children are counted on Linux only."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = 0
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            # The program's name, in brackets, may hold blanks; user and system time are the 14th and 15th fields.
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + ticks / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], Any]) -> Seconds:
    """Runs a piece of work and returns its wall-clock and processor time."""
    start, used = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start, processor_seconds() - used


def take_turns(sides: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Any]]:
    """Calls each side once a turn, so that other load on the machine falls on all of them."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            found[name].append(side())
    return found


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its work; returns at once on a CPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak() -> int:
    """Returns the resident bytes and resets the kernel's peak, which `status_bytes("VmHWM")` reads; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    """Returns a memory figure of this process from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise FacekdError(f"/proc/self/status has no {name}: this benchmark needs Linux")


def peak_of_program() -> int:
    """Returns the most resident bytes that this process had since its program started.

    On Linux `ru_maxrss` may be that of the process that started this one, which it takes over.
    """
    if sys.platform == "linux":
        return status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Describes what the figures depend on besides the code: processor, load, GPU, Python, torch."""
    import torch

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
    """Prints the tables; if a path is given, also writes them there with the raw figures."""
    for table in tables:
        print(f"\n{table.title}\n\n{table.markdown()}", flush=True)
    if path is not None:
        write_json(path, {"machine": machine(), "tables": [table._asdict() for table in tables], **figures})
