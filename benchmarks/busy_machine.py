"""Measures training and evaluation while another program takes a core, by how threads wait for each other.

`facekd train` runs on generated faces under settings of OpenMP; an ONNX file embeds images under settings of
onnxruntime. Each runs alone and beside a program of another session that computes without end. The settings take turns.
Linux only: elsewhere sessions do not share the cores in the same way.

    python benchmarks/busy_machine.py                                   # five turns of each, 10 minutes on 2 cores
    python benchmarks/busy_machine.py --work evaluation                 # under 3 minutes
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import Table, report, spread

from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.errors import FacekdError, run_verb
from facekd.training.logbook import read_log
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import counted

SETTINGS: dict[str, dict[str, str]] = {
    "spinning, torch's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# With 0 threads onnxruntime starts one for each core and binds it there.
SESSIONS: dict[str, tuple[int, str]] = {
    "threads share a call, spinning, onnxruntime's default": (0, "1"),
    "threads share a call, allow_spinning 0": (0, "0"),
    "the same, not bound to cores, spinning": (usable_cores(), "1"),
    "the same, not bound to cores, allow_spinning 0": (usable_cores(), "0"),
}
FACEKD = "calls side by side, a thread each, what facekd does"
BATCH = 64  # images a call, as `facekd evaluate` embeds
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


def embedding_speed(model: Path, threads: int, spinning: str, seconds: float) -> float:
    """Embeds images for some time, as an evaluation does, in a session of its own; returns images a second."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 112, 112, 3), dtype=np.uint8)

    return embedding_rate(lambda: session.run(["embedding"], {"images": Preprocessing().apply(images)}), seconds)


def facekd_speed(model: Path, seconds: float) -> float:
    """Embeds the same images by facekd's embedder; returns images a second."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 112, 112, 3), dtype=np.uint8)
    embedder = OnnxEmbedder(model)
    return embedding_rate(lambda: embedder.embed(images), seconds)


def embedding_rate(embed: Callable[[], object], seconds: float) -> float:
    """Embeds batches for some time, after one that does not count; returns images a second."""
    embed()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        embed()
        count += BATCH
    return count / elapsed


def write_model(folder: Path) -> Path:
    """Exports a MobileFaceNet with random weights."""
    import torch

    from facekd.backbones.building import build_backbone
    from facekd.export.export_onnx import export_backbone

    torch.manual_seed(0)
    backbone = build_backbone("mobilefacenet", embedding_size=512, image_size=112).eval()
    return export_backbone(backbone, Preprocessing(), folder / "mobilefacenet.onnx").path


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    """Computes without end in a session of its own, as another user's program would."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def main() -> int:
    """Measures all settings of one kind of work, quiet and beside a busy program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=("training", "evaluation"), default="training")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=2560, help="of a training (default: 2560)")
    parser.add_argument(
        "--seconds",
        type=float,
        help="after which a training is stopped (default: 60), or that an evaluation takes (2)",
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[], float]]
        if arguments.work == "training":
            seconds = round(arguments.seconds or 60)
            sides = {name: partial(speed, setting, arguments.images, seconds) for name, setting in SETTINGS.items()}
        else:
            model, time_each = write_model(Path(folder)), arguments.seconds or 2.0
            sides = {name: partial(embedding_speed, model, *way, time_each) for name, way in SESSIONS.items()}
            sides[FACEKD] = partial(facekd_speed, model, time_each)
        found: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "busy": []} for name in sides}
        for _ in range(arguments.turns):
            for state in ("quiet", "busy"):
                with busy_program() if state == "busy" else contextlib.nullcontext():
                    for name, side in sides.items():
                        found[name][state].append(side())
    rows = [[name, spread(both["quiet"], 0), spread(both["busy"], 0)] for name, both in found.items()]
    title = f"{arguments.work}: images a second, median (lowest to highest) of {counted(arguments.turns, 'turn')}"
    report([Table(title, ["setting", "quiet", "one core taken"], rows)], arguments.json, speeds=found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
