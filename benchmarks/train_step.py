"""Measures training steps, loading included, in images a second, beside a restatement of the usual training loop.

Both train the same backbone under an ArcFace head of as many classes, and take turns in one process, step by step. With
--workers a turn is as many steps as there are workers, after the steps on batches loaded during the others' turns:

    facekd  `facekd.training.train_step` fed by facekd's loader: the configuration's defaults, and variants of them
    usual   restated below: PIL and float tensors one at a time, (B, C) cosines with the margin on them, cross-entropy,
            torch's PReLU and memory layout, SGD; on a CPU fp32; on a GPU fp16 (the head's product too) and a gradient
            scaler, for which the matching variant of facekd is "fp16 half-head"

The parts of facekd's step are measured as shares of the whole step: waiting for the loader, forward and backward of the
backbone, of the head from given embeddings, and the optimiser. Memory on a GPU is that of torch's allocator from the
second step on; on a CPU the peak of resident memory minus that before the model was built, in a process for each side.

The defaults are small on a CPU; on a GPU:

    python benchmarks/train_step.py --batch-size 128 --turns 50 --workers 8 \
        --variants bf16 "fp16 half-head" foreach "bf16 compile"
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from generated_pack import write_generated_pack
from measuring import Table, ratios, report, reset_peak, spread, status_bytes
from torch.utils.data import DataLoader, RandomSampler
from usual_loader import PerSampleDataset
from usual_model import replace_prelu, usual_cross_entropy

from facekd.backbones.building import build_backbone
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.data.loading.loader import Batch, make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.distributed import AMP_DTYPES, World
from facekd.errors import run_verb
from facekd.images.augmentation import Augmentation
from facekd.images.model_input import to_model_input
from facekd.training.config import TrainConfig
from facekd.training.optim import set_learning_rate
from facekd.training.recognizer import build_recognizer
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step
from facekd.utils.progress import track
from facekd.utils.wording import counted

BACKBONES = ("mobilefacenet", "iresnet50", "iresnet100")
EMBEDDING_SIZE, SCALE, MARGIN, CLIP_NORM, LR, SEED = 512, 64.0, 0.5, 5.0, 1e-3, 0
VARIANTS = {
    "bf16": ("--precision", "bf16"),
    "fp16": ("--precision", "fp16"),
    "half-head": ("--head.product", "autocast"),
    "contiguous": ("--channels_last", "false"),
    "foreach": ("--optimizer.implementation", "foreach"),
    "loop": ("--optimizer.implementation", "loop"),
    "compile": ("--compile", "true"),
}


class UsualLoop:
    """Loads and trains as published training scripts do."""

    def __init__(self, backbone: str, arguments: argparse.Namespace, device: torch.device) -> None:
        size, self.device = arguments.image_size, device
        torch.manual_seed(SEED)
        net = build_backbone(backbone, embedding_size=EMBEDDING_SIZE, image_size=size, width=1.0, dropout=0.0)
        replace_prelu(net)
        self.backbone = net.to(device).train()
        self.weight = torch.nn.Parameter(torch.randn(arguments.classes, EMBEDDING_SIZE, device=device) * 0.01)
        parameters = [*self.backbone.parameters(), self.weight]
        self.optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=5e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        dataset = PerSampleDataset(arguments.data, flip=True)
        order = RandomSampler(dataset, replacement=True, num_samples=10**9)
        self.loader = DataLoader(
            dataset,
            arguments.batch_size,
            sampler=order,
            num_workers=arguments.workers,
            pin_memory=device.type == "cuda",
        )
        self.batches = iter(self.loader)

    def step(self) -> None:
        """Loads a batch and takes a step."""
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in next(self.batches))
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            embedding = self.backbone(images)
        half = torch.float16 if self.device.type == "cuda" else None
        loss = usual_cross_entropy(embedding, self.weight, labels, MARGIN, SCALE, half)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        loss.item()  # the scripts log it


class OurLoop:
    """Loads and trains by facekd."""

    def __init__(self, backbone: str, variant: str, arguments: argparse.Namespace, device: torch.device) -> None:
        words = [
            *("--output", str(arguments.data.parent), "--data.train", str(arguments.data.parent), "--seed", str(SEED)),
            *("--data.image_size", str(arguments.image_size), "--backbone.name", backbone),
            *("--backbone.embedding_size", str(EMBEDDING_SIZE), "--global_batch_size", str(arguments.batch_size)),
            *("--head.margin", "arcface", "--head.margin_value", str(MARGIN), "--head.scale", str(SCALE)),
            *(word for name in variant.split() for word in VARIANTS[name]),
        ]
        config, world = parse_config(TrainConfig, words, "", ""), World(0, 1, device)
        dataset = open_dataset(arguments.data.parent, arguments.image_size)
        self.state: TrainingState = build_state(config, world, dataset, 10**9, build_recognizer(config, world, dataset))
        sampler = PositionSampler(FullShuffle(len(dataset), SEED), arguments.batch_size)
        self.batches: Iterator[Batch] = iter(
            make_loader(dataset, sampler, Augmentation(), SEED, arguments.workers, device)
        )
        self.waited: list[float] = []

    def step(self) -> None:
        """Takes a step and notes how long it waited for the loader."""
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited.append(time.perf_counter() - start)
        train_step(self.state, batch, LR)

    def parts(self, turns: int) -> dict[str, list[float]]:
        """Measures the seconds of backbone, head and optimiser, each on its own."""
        # One batch on the device, and embeddings for the head.
        state = self.state
        batch, device = next(self.batches), state.world.device
        layout = torch.channels_last if state.config.channels_last else torch.contiguous_format
        images = to_model_input(batch.images.to(device), batch.flip.to(device), memory_format=layout)
        labels, recognizer = batch.labels.to(device), state.recognizer
        dtype = AMP_DTYPES[state.config.precision]
        given = torch.randn(len(labels), EMBEDDING_SIZE, device=device).requires_grad_()

        def of_backbone() -> None:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                embedding = recognizer.backbone(images)
            embedding.backward(torch.ones_like(embedding))

        def of_head() -> None:
            kept, recognizer.backbone = recognizer.backbone, torch.nn.Identity()
            try:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                    loss = recognizer(given, labels)[0]
                loss.backward()
            finally:
                recognizer.backbone = kept

        def of_optimizer() -> None:
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)

        # Measure the parts in turns; a learning rate of 0 keeps the weights.
        set_learning_rate(state.optimizer, 0.0)
        found: dict[str, list[float]] = {"backbone": [], "head": [], "optimiser": []}
        for turn in range(turns + 1):  # the first is a warm-up; the optimiser uses the gradients of the two before it
            for name, part in (("backbone", of_backbone), ("head", of_head), ("optimiser", of_optimizer)):
                seconds = seconds_of(part, device)
                if turn:
                    found[name].append(seconds)
        return found


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """Measures some work by the clock on a CPU, and by events around it on a GPU."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def seconds_of_turn(loop: UsualLoop | OurLoop, workers: int, device: torch.device) -> float:
    """Measures a step, after using up the batches (two a worker) that were loaded during the others' turns."""
    for _ in range(2 * workers):
        loop.step()
    steps = max(1, workers)  # workers finish in bursts

    def work() -> None:
        for _ in range(steps):
            loop.step()

    return seconds_of(work, device) / steps


def build(side: str, backbone: str, arguments: argparse.Namespace, device: torch.device) -> UsualLoop | OurLoop:
    """Builds the loop of a side: `usual`, `facekd`, or the name of a variant."""
    if side == "usual":
        return UsualLoop(backbone, arguments, device)
    return OurLoop(backbone, "" if side == "facekd" else side, arguments, device)


def peak_bytes(side: str, backbone: str, arguments: argparse.Namespace, device: torch.device) -> int:
    """Returns the peak memory of two steps: model, gradients, momentum, activations and a batch."""
    gc.collect()  # compiled modules refer to themselves; without this, earlier ones could be freed meanwhile
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
    else:
        before = reset_peak()
    loop = build(side, backbone, arguments, device)
    loop.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the search for the best kernels may use much memory
    loop.step()
    return (torch.cuda.max_memory_allocated() if device.type == "cuda" else status_bytes("VmHWM")) - before


def peak_bytes_in_process(side: str, backbone: str, arguments: argparse.Namespace) -> int:
    """Returns `peak_bytes` measured in a fresh process."""
    words = {name: getattr(arguments, name) for name in ("data", "image_size", "classes", "batch_size", "workers")}
    options = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, __file__, "--measure", side, backbone, *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def compare(backbone: str, sides: list[str], arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measures the seconds of each side's steps in turns, of the parts of facekd's step, and peak memory."""
    loops = {side: build(side, backbone, arguments, device) for side in sides}
    for loop in loops.values():
        loop.step()  # the first step chooses kernels and starts workers

    # Time: all sides in turns, then the parts of facekd's step.
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    ours = loops["facekd"]
    assert isinstance(ours, OurLoop)
    waited = []
    for _ in track(range(arguments.turns), f"steps of {backbone}"):
        for side in sides:
            seconds[side].append(seconds_of_turn(loops[side], arguments.workers, device))
        waited.append(statistics.fmean(ours.waited[-max(1, arguments.workers) :]))
    parts = {"waiting for data": waited, **ours.parts(max(1, arguments.turns // 2))}

    # Memory: the loops above are freed first.
    loops.clear()
    del ours, loop
    memory = {}
    if not arguments.no_memory:
        for side in sides:
            is_cpu = device.type == "cpu"
            memory[side] = (
                peak_bytes_in_process(side, backbone, arguments)
                if is_cpu
                else peak_bytes(side, backbone, arguments, device)
            )
    return {"seconds": seconds, "parts": parts, "peak_bytes": memory}


def tables_of(found: dict[str, dict[str, Any]], arguments: argparse.Namespace, device: torch.device) -> list[Table]:
    """Formats the results of all backbones."""
    # One row a backbone and side of speed and memory, and one a backbone of shares.
    speed, shares = [], []
    for backbone, result in found.items():
        usual, ours = result["seconds"]["usual"], result["seconds"]["facekd"]
        for side, seconds in result["seconds"].items():
            memory = result["peak_bytes"]
            share = f"{memory[side] / memory['usual']:.2f}" if memory else "-"
            gigabytes = f"{memory[side] / 1e9:.2f}" if memory else "-"
            rate = arguments.batch_size / statistics.median(seconds)
            speed.append([backbone, side, spread(ratios(usual, seconds)), share, f"{rate:,.1f}", gigabytes])
        whole = statistics.median(ours)
        cells = [f"{100 * statistics.median(part) / whole:.1f} %" for part in result["parts"].values()]
        shares.append([backbone, *cells, f"{whole * 1000:,.0f}"])

    # The setting stands in the title.
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    )
    setting = (
        f"{where}, {counted(arguments.classes, 'class')}, batches of {arguments.batch_size}, "
        f"{counted(arguments.turns, 'turn')}"
    )
    return [
        Table(
            f"Training steps, loading included: {setting}",
            ["backbone", "loop", "speed over the usual", "memory over the usual", "images/s", "peak GB"],
            speed,
        ),
        Table(
            "Parts of facekd's step, measured on their own, as shares of the whole step",
            ["backbone", "waiting for data", "backbone", "head", "optimiser", "whole step, ms"],
            shares,
        ),
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/train_step.py --backbones mobilefacenet --variants bf16 --json step.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help=f"default: {' '.join(BACKBONES)}")
    parser.add_argument("--classes", type=int, default=93_431, help="identities (default: 93,431, as in MS1MV3)")
    parser.add_argument("--batch-size", type=int, default=128 if is_gpu else 8, help="images a batch (128; on a CPU 8)")
    parser.add_argument("--image-size", type=int, default=112, help="in pixels (default: 112)")
    parser.add_argument("--turns", type=int, default=50 if is_gpu else 3, help="turns of each side (50; on a CPU 3)")
    parser.add_argument(
        "--workers", type=int, default=8 if is_gpu else 0, help="processes of each loader (8; on a CPU 0)"
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        default=[],
        metavar="WORDS",
        help=f"further variants of facekd's step, each one or more of {', '.join(VARIANTS)} (quote several together)",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--data", type=Path, help="a .rec file alone in its folder (default: generated faces)")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for variant in arguments.variants:
        for name in variant.split():
            if name not in VARIANTS:
                parser.error(f"unknown variant {name!r}; known are {', '.join(VARIANTS)}")

    # Settings that both sides share.
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = is_gpu  # as training scripts set it, facekd's and the usual
    if arguments.measure:  # a process that `peak_bytes_in_process` started
        side, backbone = arguments.measure
        print(peak_bytes(side, backbone, arguments, device))
        return 0

    # Measure, with a generated pack if none is given; its `property` file states the number of classes.
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.data is None:
            arguments.data = write_generated_pack(Path(scratch), 256, arguments.image_size)
            size = arguments.image_size
            (Path(scratch) / "property").write_text(f"{arguments.classes},{size},{size}\n")
        sides = ["usual", "facekd", *arguments.variants]
        found = {name: compare(name, sides, arguments, device) for name in arguments.backbones}
    report(tables_of(found, arguments, device), arguments.json, results=found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
