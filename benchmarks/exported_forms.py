"""Measures how many images a second exported files embed on a CPU, by the form in which PReLU is written.

Each form is exported once, with random weights, and runs in onnxruntime; torch runs the same backbone. All take turns,
so that other load on the machine falls on all of them, and ratios are of the same turn.

    python benchmarks/exported_forms.py                                     # MobileFaceNet and IR-ResNet-18
    python benchmarks/exported_forms.py --backbones mobilefacenet --batches 1 --turns 5 --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measuring import Table, ratios, report, spread, take_turns, timed

from facekd.backbones.building import build_backbone
from facekd.embedder import Preprocessing
from facekd.errors import run_verb
from facekd.export.export_onnx import export_backbone
from facekd.export.options import ExportOptions

FORMS = ("native", "fast")


def make_sides(name: str, batch: int, seconds: float, threads: int, folder: Path) -> dict[str, Callable[[], float]]:
    """Returns a function for each form and for torch, which embeds for some time and returns images a second."""
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=512, image_size=112).eval()
    images = np.random.default_rng(0).normal(size=(batch, 3, 112, 112)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    works: dict[str, Callable[[], object]] = {}
    for form in FORMS:
        path = folder / f"{name}-{form}.onnx"
        if not path.exists():
            export_backbone(backbone, Preprocessing(), path, ExportOptions(prelu=form))
        session = onnxruntime.InferenceSession(path, options)
        works[form] = lambda session=session: session.run(None, {"images": images})

    def by_torch() -> object:
        with torch.inference_mode():
            return backbone(torch.from_numpy(images))

    works["torch"] = by_torch

    def speed(work: Callable[[], object]) -> float:
        work()
        calls = max(1, round(seconds / timed(work)[0]))
        elapsed, used = timed(lambda: [work() for _ in range(calls)])
        # With one thread, the processor's time leaves out what other programs took.
        return calls * batch / (used if threads == 1 else elapsed)

    return {form: lambda work=work: speed(work) for form, work in works.items()}


def main() -> int:
    """Measures every backbone and batch, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet", "iresnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime and torch (default: 1)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.backbones:
            for batch in arguments.batches:
                sides = make_sides(name, batch, arguments.seconds, arguments.threads, Path(folder))
                found = take_turns(sides, arguments.turns)
                gain = spread(ratios(found["fast"], found["native"]))
                rows.append([name, str(batch), *(spread(found[form], 1) for form in (*FORMS, "torch")), gain])
                figures[f"{name}, batch {batch}"] = found
    unit = "processor second" if arguments.threads == 1 else "second"
    title = f"Images a {unit}, {arguments.threads} threads, median (lowest to highest) of {arguments.turns} turns"
    head = ["backbone", "batch", "PRelu as it is", "as convolutions", "torch", "gain"]
    report([Table(title, head, rows)], arguments.json, speeds=figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
