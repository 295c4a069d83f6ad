"""Measures how many images a second small backbones train at on a CPU, which the quickstart's model was chosen by.

A step is forward, backward and SGD of the backbone and a small classifier on images already in memory, without loading
or augmentation. Modes take turns, so that other load on the machine falls on all of them. The best round is reported
beside the median, because on a shared machine it comes closest to the speed of the code alone.

    python benchmarks/backbones.py --threads 2 --rounds 5
    python benchmarks/backbones.py --backbones mobilefacenet:64:0.5 iresnet18:64:0.25 --modes bf16+channels_last
    python benchmarks/backbones.py --backbones mobilefacenet:64:0.5 --compare-prelu
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import take_turns
from torch import nn
from torch.nn import functional as F
from usual_model import replace_prelu

from facekd.backbones import count_macs, count_parameters
from facekd.backbones.building import build_backbone
from facekd.errors import run_verb
from facekd.files.writing import write_json
from facekd.utils.wording import counted

# name:image size:width
DEFAULT_BACKBONES = (
    "mobilefacenet:112:1.0",
    "mobilefacenet:112:0.5",
    "mobilefacenet:64:1.0",
    "mobilefacenet:64:0.75",
    "mobilefacenet:64:0.5",
    "mobilefacenet:64:0.25",
    "mobilefacenet_0.45g:64:0.5",
    "iresnet18:64:0.25",
)
MODES = ("fp32", "fp32+channels_last", "bf16", "bf16+channels_last")
EMBEDDING_SIZE = 128
NUM_CLASSES = 200


def make_step(spec: str, mode: str, batch_size: int) -> tuple[Callable[[], None], nn.Module, int]:
    """Returns a training step of one backbone in one mode, the backbone, and its image size."""
    name, size, width = spec.split(":")
    image_size = int(size)
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=EMBEDDING_SIZE, image_size=image_size, width=float(width))
    if "torch_prelu" in mode:
        replace_prelu(backbone)
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    backbone = backbone.to(memory_format=layout).train()
    head = nn.Linear(EMBEDDING_SIZE, NUM_CLASSES)
    parameters = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=layout)
    labels = torch.randint(NUM_CLASSES, (batch_size,))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode.startswith("bf16")):
            embedding = backbone(images)
        F.cross_entropy(head(embedding), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, backbone, image_size


def measure(step: Callable[[], None], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds a step takes by `clock`, over as many steps as fit in `seconds` (at least one)."""
    start = clock()
    steps = 0
    while steps == 0 or clock() - start < seconds:
        step()
        steps += 1
    return (clock() - start) / steps


def measure_backbone(
    spec: str, modes: list[str], options: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """Measures one backbone in all modes in turns; returns its size and its images a second by mode."""
    steps, backbone, image_size = {}, None, 0
    for mode in modes:
        steps[mode], backbone, image_size = make_step(spec, mode, options.batch_size)
        steps[mode]()  # the first step chooses kernels and allocates
    assert backbone is not None
    sides = {mode: lambda step=steps[mode]: measure(step, options.seconds, clock) for mode in modes}
    times = take_turns(sides, options.rounds)
    return {
        "backbone": spec,
        "parameters": count_parameters(backbone),
        "macs": count_macs(backbone, image_size),
        "images_per_second": {
            mode: {
                "best": options.batch_size / min(times[mode]),
                "median": options.batch_size / statistics.median(times[mode]),
            }
            for mode in modes
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=DEFAULT_BACKBONES, metavar="NAME:SIZE:WIDTH")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--compare-prelu", action="store_true", help="measure every mode with torch's own PReLU too")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backbone and mode (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a turn (default 1)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure processor time instead of wall-clock time, for a busy machine; needs --threads 1",
    )
    parser.add_argument(
        "--json", "--output", dest="output", type=Path, metavar="FILE.json", help="write the figures here as well"
    )
    options = parser.parse_args(argv)

    # --compare-prelu doubles the modes; --cpu-time changes the clock.
    modes = list(options.modes)
    if options.compare_prelu:
        modes = [variant for mode in modes for variant in (mode, f"{mode}+torch_prelu")]

    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1: threads that wait for each other spin, and that would be counted")
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    # Vanishing gradients are full of denormals, which take a CPU many times longer.
    torch.set_flush_denormal(True)

    # One row a backbone, printed as soon as it is measured.
    rows = []
    print(
        f"torch {torch.__version__}, {counted(options.threads, 'thread')}, batch {options.batch_size}; images/s, best "
        "(median)"
    )
    print(f"{'backbone:size:width':28} {'params':>8} {'MMACs':>7}  " + "  ".join(f"{mode:>30}" for mode in modes))
    for spec in options.backbones:
        row = measure_backbone(spec, modes, options, clock)
        rows.append(row)
        speeds = (row["images_per_second"][mode] for mode in modes)
        cells = "  ".join(format(f"{s['best']:.0f} ({s['median']:.0f})", ">20") for s in speeds)
        print(f"{spec:28} {row['parameters'] / 1e6:7.2f}M {row['macs'] / 1e6:7.1f}  {cells}", flush=True)
    if options.output:
        write_json(options.output, {"torch": torch.__version__, "threads": options.threads, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
