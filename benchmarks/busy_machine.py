"""Measures training while another program takes a core, under settings of how OpenMP's threads wait for each other.

`facekd train` runs on generated faces, alone and beside a program of another session that computes without end. The
settings take turns. Linux only: elsewhere sessions do not share the cores in the same way.

    python benchmarks/busy_machine.py                                   # five turns of each, 10 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Table, report, spread

from facekd.errors import FacekdError, run_verb
from facekd.training.logbook import read_log
from facekd.utils.processes import usable_cores

SETTINGS: dict[str, dict[str, str]] = {
    "spinning, torch's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WORDS = """
train --data.train synthetic:20x20 --data.image_size 64 --data.workers 1 --backbone.width 0.5
--backbone.embedding_size 128
--head.margin_value 0.3 --schedule.warmup_images 64 --global_batch_size 64 --log_every_images 256 --tensorboard false
--device cpu
"""


def speed(setting: dict[str, str], images: int, seconds: int) -> float:
    """Trains and returns the median images a second of the log's lines, without the first."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "facekd", *WORDS.split(), "--images", str(images), "--output", str(run)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(usable_cores()), **setting}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            done = None  # slow enough: what it has logged counts
        if done is not None and done.returncode:
            raise FacekdError(f"the training failed: {done.stderr[-500:]}")
        speeds = [line["images_per_second"] for line in read_log(run, "train")[1:]]
        if not speeds:
            return 256 / seconds  # at most: the second line never came
        return statistics.median(speeds)


def main() -> int:
    """Measures all settings, quiet and beside a busy program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--seconds", type=int, default=60, help="after which a training is stopped (default: 60)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "busy": []} for name in SETTINGS}
    for _ in range(arguments.turns):
        for state in ("quiet", "busy"):
            busy = [sys.executable, "-c", "while True: pass"]
            other = subprocess.Popen(busy, start_new_session=True) if state == "busy" else None
            try:
                for name, setting in SETTINGS.items():
                    found[name][state].append(speed(setting, arguments.images, arguments.seconds))
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
    rows = [[name, spread(both["quiet"], 0), spread(both["busy"], 0)] for name, both in found.items()]
    title = f"Images a second, median (lowest to highest) of {arguments.turns} trainings"
    report([Table(title, ["setting", "quiet", "one core taken"], rows)], arguments.json, speeds=found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
