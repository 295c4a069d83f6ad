"""Trains for a long time and tells whether anything grows: memory, files, threads, shared memory, the time of an image.

    python benchmarks/soak.py --minutes 60                     # as `make soak` does; writes soak.json and soak.png
    python benchmarks/soak.py --minutes 3 --inject memory      # with a leak on purpose, which must be found

`facekd train` runs on generated shards with two loader workers. Validation, checkpoints and TensorBoard events come
every few seconds, so that what they leave behind adds up as it would in days. The main process and its workers are
sampled from /proc (Linux only). At the end the run is stopped by SIGTERM, as a scheduler does.

After the warm-up, a third of the time, each series gets a robust slope: the median of the slopes between all pairs of
its samples (Theil and Sen), which ignores the peaks of validation and saving. What the slope adds up to from the
warm-up to the end must stay within the tolerances of `WATCHED`. The exit status is 1 if it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from generated_pack import write_generated_pack
from measuring import Table, report

from facekd.checkpoints.run_folder import list_checkpoints
from facekd.data.datasets import open_dataset
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.errors import FacekdError, run_verb
from facekd.images.encoding import encode_jpeg
from facekd.pages.figures import LINE_WIDTH, label_axes, new_figure, save_figure
from facekd.training.logbook import read_log
from facekd.utils.wording import agreeing, counted

WARM_UP = 1 / 3  # share of the time: allocators and caches fill up
MOST_QUEUED = 0.1
IMAGE_SIZE, PEOPLE, PAIRS = 32, 200, 40
KB, MB, TICKS = 1024, 1024**2, os.sysconf("SC_CLK_TCK")
OPTIONS = """
--data.image_size 32 --data.workers 2 --backbone.name mobilefacenet --backbone.width 0.125 --backbone.embedding_size 64
--head.margin_value 0.3 --schedule.name constant --schedule.lr 0.01 --schedule.warmup_images 640 --images 1000000000
--global_batch_size 32 --log_every_images 128 --validation.every_images 1280 --checkpoint.every_images 1280
--checkpoint.keep 1 --ema_half_life_images 10000 --device cpu
"""


class Series(NamedTuple):
    """Describes what is watched: the unit, and by how much it may change from the warm-up to the end."""

    title: str
    unit: str
    allowed: Callable[[float], float]  # of the median
    is_worse: int = 1  # 1: growth is bad; -1: a fall is


WATCHED = {
    "main_mb": Series("memory of the main process", "MB", lambda median: max(8.0, 0.01 * median)),
    "workers_mb": Series("memory of the workers", "MB", lambda median: max(8.0, 0.01 * median)),
    "shared_mb": Series("shared memory", "MB", lambda median: 1.0),
    "files": Series("open files", "", lambda median: 0.9),
    "threads": Series("threads", "", lambda median: 0.9),
    "processes": Series("processes", "", lambda median: 0.9),
    "folder_files": Series("files in the folder of the run", "", lambda median: 0.9),
    "images_per_cpu_second": Series("images by a second of the processor", "images/s", lambda median: 0.1 * median, -1),
    # Less the time that the main process queues for a processor: other load on the machine is not facekd's.
    "images_per_second": Series("images by a second of the clock", "images/s", lambda median: 0.2 * median, -1),
}


class Sampler:
    """Reads what the processes of a run use; Linux only."""

    def __init__(self, main: int, run: Path, window: float) -> None:
        """Watches the process `main` and all below it, and the run that it writes; `window`: seconds of a speed."""
        self.main, self.run, self.window, self.start = main, run, window, time.monotonic()
        self._seen: list[tuple[float, float, int, float]] = []

    def sample(self) -> dict[str, float]:
        """Returns one value of each series, and `seconds`; those of speed come once the window is full."""
        memory = {pid: found for pid in _tree(self.main) if (found := _memory(pid))}
        alive = list(memory)
        values = {
            "seconds": time.monotonic() - self.start,
            # Without mapped files: what of them is resident depends on the other processes that map them.
            "main_mb": sum(memory[pid].get("Pss_Anon", 0) for pid in alive if pid == self.main) / KB,
            "workers_mb": sum(memory[pid].get("Pss_Anon", 0) for pid in alive if pid != self.main) / KB,
            # The share of each process in the pages that several map: together every page once.
            "shared_mb": sum(memory[pid].get("Pss_Shmem", 0) for pid in alive) / KB,
            "files": _sum(lambda pid: _count(f"/proc/{pid}/fd"), alive),
            "threads": _sum(lambda pid: _count(f"/proc/{pid}/task"), alive),
            "processes": len(alive),
            "folder_files": sum(1 for path in self.run.rglob("*") if path.is_file()),
        }
        return values | self._speed(alive)

    def _speed(self, alive: Sequence[int]) -> dict[str, float]:
        # Take what the log gained within the window: a single interval between two samples is too coarse.
        log = read_log(self.run, "train")
        images = int(log[-1]["images_seen"]) if log else 0
        self._seen.append((time.monotonic(), _queued_seconds(self.main), images, _sum(_processor_seconds, alive)))
        while self._seen[1:] and self._seen[-1][0] - self._seen[1][0] >= self.window:
            self._seen.pop(0)
        clock, queued, images, processor = (
            last - first for first, last in zip(self._seen[0], self._seen[-1], strict=True)
        )
        if clock < self.window or images == 0:
            return {}
        return {
            "images_per_second": images / (clock - queued),
            "images_per_cpu_second": images / processor,
            "queued_share": queued / clock,
        }


def _tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += _tree(int(child))
    return found


def _memory(pid: int) -> dict[str, int]:
    """Returns the lines of smaps_rollup in kB; `Pss...` counts a page of n processes as one n-th; {} if it ended."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _queued_seconds(pid: int) -> float:
    """Returns how long a process was ready and waited for a processor, because of other load on the machine."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _sum(read: Callable[[int], float], pids: Sequence[int]) -> float:
    """Adds up what is read of each process; one that ended meanwhile adds nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += read(pid)
    return total


def robust_slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """Returns the median of the slopes between all pairs of samples (Theil 1950, Sen 1968), per second."""
    first, second = np.triu_indices(len(seconds), 1)
    return float(np.median((values[second] - values[first]) / (seconds[second] - seconds[first])))


def judge(samples: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Judges every series after the warm-up: median, change until the end, change per hour, tolerance, `is_fine`.

    Where other load makes the main process queue for more than a tenth of the time, speed by the clock is not judged:
    the workers queue as well, and the main process waits for them. Its `is_fine` is None then.

    Raises:
        FacekdError: too few samples to tell anything, or of nothing.
    """
    end = max(sample["seconds"] for sample in samples)
    busy = float(np.median([s["queued_share"] for s in samples if "queued_share" in s] or [0.0])) > MOST_QUEUED
    verdicts = []
    for name, series in WATCHED.items():
        rows = [(s["seconds"], s[name]) for s in samples if name in s and s["seconds"] >= WARM_UP * end]
        if len(rows) < 8:
            raise FacekdError(
                f"{series.title}: {counted(len(rows), 'sample')} after the warm-up {agreeing(len(rows), 'is', 'are')} "
                "too few; raise --minutes"
            )
        seconds, values = np.array(rows).T
        slope, median = robust_slope(seconds, values), float(np.median(values))
        if median <= 0:  # such as memory that this kernel does not tell
            raise FacekdError(f"{series.title}: is {median:g} in most samples, so it was not measured")
        change, allowed = slope * (seconds[-1] - seconds[0]), series.allowed(median)
        verdicts.append(
            {
                "series": name,
                "median": median,
                "change": change,
                "change_per_hour": 3600 * slope,
                "allowed": allowed,
                "is_fine": None if busy and name == "images_per_second" else bool(series.is_worse * change <= allowed),
            }
        )
    return verdicts


def table(verdicts: Sequence[dict[str, Any]], minutes: float, count: int) -> Table:
    """Shows the verdicts."""
    rows = [
        [
            WATCHED[verdict["series"]].title,
            f"{verdict['median']:,.1f} {WATCHED[verdict['series']].unit}".strip(),
            f"{verdict['change']:+,.2f}",
            f"{'-' if WATCHED[verdict['series']].is_worse < 0 else '+'}{verdict['allowed']:,.2f}",
            f"{verdict['change_per_hour']:+,.2f}",
            {True: "yes", False: "NO", None: "not judged: other load"}[verdict["is_fine"]],
        ]
        for verdict in verdicts
    ]
    title = (
        f"Soak: {minutes:.0f} {agreeing(round(minutes), 'minute')} of training, {counted(count, 'sample')}, change "
        "after the first third"
    )
    return Table(title, ("what", "median", "change", "allowed", "per hour", "fine"), rows)


def draw(samples: Sequence[dict[str, float]], path: Path) -> None:
    """Draws all series over time."""
    figure, axes = new_figure((11.0, 10.0), rows=3, columns=3)
    end = max(sample["seconds"] for sample in samples)
    for (name, series), one in zip(WATCHED.items(), axes, strict=True):
        rows = [(sample["seconds"] / 60, sample[name]) for sample in samples if name in sample]
        one.plot(*zip(*rows, strict=True), lw=LINE_WIDTH / 2, marker=".", ms=2)
        one.axvline(WARM_UP * end / 60, ls=":", lw=0.9, color="0.4")
        one.set_ylim(bottom=0)
        label_axes(one, series.title, "minutes", series.unit)
    save_figure(figure, path)


def write_data(folder: Path) -> None:
    """Writes a record pack and a pair pack of generated faces."""
    write_generated_pack(folder, 4 * PEOPLE, IMAGE_SIZE)
    images, _ = open_dataset(f"synthetic:{PAIRS}x2", IMAGE_SIZE).load(np.arange(2 * PAIRS))
    encoded = [encode_jpeg(image, 95) for image in images]
    pairs = [encoded[(2 * n, 2 * n + 1, 2 * n, (2 * n + 3) % (2 * PAIRS))[k]] for n in range(PAIRS) for k in range(4)]
    write_pair_pack(folder / "pairs.bin", pairs, np.arange(2 * PAIRS) % 2 == 0)


def soak(minutes: float, every: float, inject: str, folder: Path) -> list[dict[str, float]]:
    """Trains for that long and returns the samples.

    Raises:
        FacekdError: training ended by itself, or did not end after SIGTERM as it should.
    """
    write_data(folder)
    run = folder / "run"
    words = ["train", *OPTIONS.split(), "--data.train", str(folder), "--output", str(run)]
    words += ["--validation.packs", f"[{folder / 'pairs.bin'}]"]
    command = (
        [sys.executable, __file__, "--leaking", inject, *words]
        if inject != "none"
        else [sys.executable, "-m", "facekd", *words]
    )
    output = folder / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    sampler, samples = Sampler(process.pid, run, min(60.0, 8 * minutes)), []
    try:
        # Sample until the time is over; it begins when everything has been done once, the first checkpoint last.
        end = None
        while process.poll() is None and (end is None or time.monotonic() < end):
            if end is None and list_checkpoints(run):
                end, sampler.start = time.monotonic() + 60 * minutes, time.monotonic()
            if end is not None:
                samples.append(sampler.sample())
            time.sleep(every)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait(120)
    finally:
        process.kill()
    if status != 128 + signal.SIGTERM:
        raise FacekdError(f"training ended with status {status}: {output.read_text(errors='replace')[-2000:]}")
    return samples


def _train_leaking(what: str, words: list[str]) -> int:
    """Trains with a thread that leaks on purpose: 1 MB, an open file or a thread each second, or ever more work."""
    from facekd.cli import main as facekd

    kept: list[Any] = []

    def leak() -> None:
        started = time.monotonic()
        while True:
            time.sleep(1)
            if what == "memory":
                kept.append(np.ones(MB, np.uint8))
            elif what == "files":
                kept.append(Path(os.devnull).open())  # noqa: SIM115 - never closed, that is the purpose
            elif what == "threads":
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            elif what == "slower":
                busy = time.monotonic() + min(0.9, (time.monotonic() - started) / 120)
                while time.monotonic() < busy:
                    np.ones(100).sum()

    threading.Thread(target=leak, daemon=True).start()
    return facekd(words)


def main() -> int:
    """Trains, judges, writes JSON and figure; returns 1 if something grew or training became slower."""
    if sys.argv[1:2] == ["--leaking"]:
        return _train_leaking(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"), help="folder (default: runs/soak)")
    parser.add_argument("--inject", choices=("none", "memory", "files", "threads", "slower"), default="none")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        raise FacekdError("this needs /proc/PID/smaps_rollup: Linux")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        samples = soak(arguments.minutes, arguments.every, arguments.inject, Path(scratch))
    verdicts = judge(samples)
    draw(samples, arguments.output / "soak.png")
    shown = table(verdicts, arguments.minutes, len(samples))
    report([shown], arguments.output / "soak.json", verdicts=verdicts, samples=samples)
    return 1 if any(verdict["is_fine"] is False for verdict in verdicts) else 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
