"""Measures how many images a second exported files embed on a CPU, by the form of PReLU and by precision.

Each form is exported once, with random weights, and runs in onnxruntime; torch runs the same backbone. All take turns,
so that other load on the machine falls on all of them, and ratios are of the same turn. int8 is calibrated on generated
faces, which makes no difference to its speed.

    python benchmarks/exported_forms.py                                     # MobileFaceNet and IR-ResNet-18
    python benchmarks/exported_forms.py --backbones mobilefacenet --batches 1 --turns 5 --threads 2
    python benchmarks/exported_forms.py --files plain.onnx int8.onnx                      # these instead
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measuring import Table, ratios, report, spread, take_turns, timed

from facekd.backbones.building import build_backbone
from facekd.embedder import Preprocessing
from facekd.errors import run_verb
from facekd.export.export_onnx import export_backbone
from facekd.export.options import ExportOptions, JudgingOptions, Precision, PreluForm
from facekd.utils.wording import counted

FORMS: dict[str, tuple[PreluForm, Precision]] = {
    "native": ("native", "fp32"),
    "fast": ("fast", "fp32"),
    "fp16": ("fast", "fp16"),
    "int8": ("fast", "int8"),
    "int8-native": ("native", "int8"),
    "int8-weights": ("fast", "int8-weights"),
}
TITLES = {"native": "PRelu as it is", "fast": "PReLU as convolutions", "int8-native": "int8, PRelu as it is"}
CALIBRATION = JudgingOptions(calibrate="synthetic:16x3", calibration_images=32, calibration_method="minmax")


def export_forms(name: str, folder: Path) -> tuple[torch.nn.Module, dict[str, Path]]:
    """Exports a backbone in every form; returns it and the files."""
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=512, image_size=112).eval()
    files = {}
    for form, (prelu, precision) in FORMS.items():
        files[form] = folder / f"{name}-{form}.onnx"
        calibration = replace(CALIBRATION, keep_anyway=True) if precision == "int8" else JudgingOptions()
        asked = ExportOptions(prelu=prelu, precision=precision)
        export_backbone(backbone, Preprocessing(), files[form], asked, judging=calibration)
    return backbone, files


def make_sides(
    backbone: torch.nn.Module | None, files: dict[str, Path], batch: int, seconds: float, threads: int
) -> dict[str, Callable[[], float]]:
    """Returns a function for each file and for torch, which embeds for some time and returns images a second."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    works: dict[str, Callable[[], object]] = {}
    images = np.empty(0, np.float32)
    for form, path in files.items():
        session = onnxruntime.InferenceSession(path, options)
        images = np.random.default_rng(0).normal(size=(batch, *session.get_inputs()[0].shape[1:])).astype(np.float32)
        works[form] = lambda session=session, images=images: session.run(None, {"images": images})

    def by_torch() -> object:
        with torch.inference_mode():
            return backbone and backbone(torch.from_numpy(images))

    if backbone is not None:
        works["torch"] = by_torch

    def speed(work: Callable[[], object]) -> float:
        work()
        calls = max(1, round(seconds / timed(work)[0]))
        elapsed, used = timed(lambda: [work() for _ in range(calls)])
        # With one thread, the processor's time leaves out what other programs took.
        return calls * batch / (used if threads == 1 else elapsed)

    return {form: lambda work=work: speed(work) for form, work in works.items()}


def main() -> int:
    """Measures every backbone, or the files given, at every batch, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet", "iresnet18"])
    parser.add_argument("--files", nargs="+", type=Path, help="exported files with float input, instead of backbones")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime and torch (default: 1)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [""] if arguments.files else arguments.backbones:
            backbone, files = None, {path.stem: path for path in arguments.files or ()}
            if name:
                backbone, files = export_forms(name, Path(folder))
            first = "fast" if name else next(iter(files))
            for batch in arguments.batches:
                sides = make_sides(backbone, files, batch, arguments.seconds, arguments.threads)
                found = take_turns(sides, arguments.turns)
                figures[f"{name}, batch {batch}"] = found
                for form, speeds in found.items():
                    ratio = "" if form == first else spread(ratios(speeds, found[first]))
                    rows.append([name, str(batch), TITLES.get(form, form), spread(speeds, 1), ratio])
    unit = "processor second" if arguments.threads == 1 else "second"
    threads, turns = counted(arguments.threads, "thread"), counted(arguments.turns, "turn")
    title = f"Images a {unit}, {threads}, median (lowest to highest) of {turns}"
    base = "the first" if arguments.files else TITLES["fast"]
    report(
        [Table(title, ["backbone", "batch", "form", "images", f"ratio to {base}"], rows)],
        arguments.json,
        speeds=figures,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
