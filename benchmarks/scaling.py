"""Measures how training scales from one process to two, and calculates what the head would cost on many GPUs.

Measured: a training step (backbone, head of --classes, optimiser; no loading) by one process and by two, with the same
global batch. The head is copied to both, which exchange its gradient, or shared out over them. Each process has one
thread, so two processes have twice the cores. Configurations take turns, and each turn starts new processes.

Calculated: memory, exchange and time of the head on 8, 64 and 512 GPUs, from the sizes alone. The speeds of a GPU are
assumptions that options can change; they are printed above the table. Nothing in that table was measured. It counts:

    memory   of the shared-out head on a process: weight, gradient, momentum in float32, one chunk of scores, and the
             embeddings of all processes with their gradients, raw and normalised; not the copy of the gradient to
             which an optimiser that is not fused adds the weight decay
    copied   weight, gradient and momentum if every process holds the whole head
    exchange bytes that one process sends a step. Shared out: its embeddings to all and their gradients back, and a few
             numbers a row; copied: the gradient of the whole head. Both need the backbone's gradient as well
    products four of 2 B D C / n operations: forward, again in backward, and two for the gradients. The assumed rate is
             that of half-precision types (`head.product: autocast`)
    traffic  the head's weight read twice, its gradient written; then gradient read, weight and momentum updated by SGD

    python benchmarks/scaling.py
    python benchmarks/scaling.py --simulate-only --matrix-rate 400e12 --bandwidth 3e12 --network 50e9
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from head_memory import head_bytes
from measuring import Table, ratios, report, spread, take_turns

from facekd.backbones.building import build_backbone
from facekd.distributed import World, join_world, replicate, wait_for_all
from facekd.errors import FacekdError, run_verb
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.training.recognizer import Recognizer
from facekd.utils.wording import counted

CONFIGURATIONS = {
    "1 process": (1, "copied"),
    "2 processes, head copied": (2, "copied"),
    "2 processes, head shared out": (2, "shared"),
}
# Identities and batch a GPU of published recipes; no public data set has 10 or 100 million identities.
IDENTITIES = {"MS1MV3": 93_431, "Glint360K": 360_232, "WebFace42M": 2_059_906, "10 M": 10**7, "100 M": 10**8}
GPUS = (8, 64, 512)
EMBEDDING_SIZE, BATCH_PER_GPU = 512, 128


def one_process(world: World, arguments: argparse.Namespace) -> float:
    """Trains in this process; returns the images a second of all processes, after a step to warm up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = build_classifier(
        HeadConfig(sharded=arguments.head == "shared"), arguments.embedding_size, arguments.classes, world
    )
    backbone = build_backbone("mobilefacenet", embedding_size=arguments.embedding_size, width=0.5, image_size=64)
    recognizer = Recognizer(backbone, head).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = ("head.weight",) if arguments.head == "shared" else ()
    replica = replicate(recognizer, world, own=own)
    optimizer = torch.optim.SGD(recognizer.parameters(), lr=1e-3, momentum=0.9)
    count = arguments.batch_size // world.size
    images = torch.randn(count, 3, 64, 64).to(memory_format=torch.channels_last)
    labels = torch.randint(arguments.classes, (count,))
    started = 0.0
    for step in range(arguments.steps + 1):
        if step == 1:
            wait_for_all(world)
            started = time.perf_counter()
        optimizer.zero_grad()
        replica(images, labels).sum().backward()
        optimizer.step()
    wait_for_all(world)
    return arguments.batch_size * arguments.steps / (time.perf_counter() - started)


def launch(size: int, head: str, arguments: argparse.Namespace) -> float:
    """Starts the processes of a configuration; returns the images a second that the first prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    names = ("classes", "batch_size", "steps", "embedding_size")
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--head", head, *words],
            stdout=subprocess.PIPE,
            env={**common, "WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
        )
        for rank in range(size)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise FacekdError(f"one of {counted(size, 'process')} with the head {head} failed; its message is above")
    return float(printed[0].split()[-1])


def measured(arguments: argparse.Namespace) -> Table:
    """Measures all configurations in turns."""
    found = take_turns(
        {name: lambda c=c: launch(*c, arguments) for name, c in CONFIGURATIONS.items()},
        arguments.turns,  # type: ignore[misc]
    )
    alone = found["1 process"]
    rows = [[name, spread(ratios(rates, alone)), f"{statistics.median(rates):,.0f}"] for name, rates in found.items()]
    title = (
        f"A step of {counted(arguments.batch_size, 'image')}, MobileFaceNet of width 0.5 at 64 pixels, "
        f"{counted(arguments.classes, 'class')}, D = {arguments.embedding_size}; speed over that of one process, "
        f"median (range) of {counted(arguments.turns, 'turn')}"
    )
    return Table(title, ["", "speed over 1 process", "images/s"], rows)


def simulated(arguments: argparse.Namespace) -> Table:
    """Calculates memory, exchange and time of the head for each number of identities and GPUs."""
    rows = []
    size, batch = EMBEDDING_SIZE, BATCH_PER_GPU
    for name, classes in IDENTITIES.items():
        for gpus in GPUS:
            everyone, own = batch * gpus, -(-classes // gpus)
            # Bytes sent, and seconds of products and memory traffic.
            shared = (gpus - 1) * batch * (2 * size * 4 + 8 + 3 * 4)
            copied = 2 * (gpus - 1) / gpus * classes * size * 4
            products = 4 * 2 * everyone * size * own / arguments.matrix_rate
            traffic = 9 * own * size * 4 / arguments.bandwidth
            rows.append(
                [
                    name,
                    str(gpus),
                    f"{head_bytes(classes, gpus, batch, size) / 1e9:,.2f}",
                    f"{3 * classes * size * 4 / 1e9:,.1f}",
                    f"{shared / 1e6:,.1f}",
                    f"{copied / 1e6:,.0f}",
                    f"{1e3 * (products + traffic):,.2f}",
                    f"{1e3 * shared / arguments.network:,.2f}",
                    f"{1e3 * copied / arguments.network:,.1f}",
                ]
            )
    columns = [
        "identities",
        "GPUs",
        "memory, GB",
        "copied, GB",
        "exchange, MB",
        "copied, MB",
        "products and traffic, ms",
        "exchange, ms",
        "copied, ms",
    ]
    title = (
        f"Calculated, not measured: D = {size}, {counted(batch, 'image')} a GPU, {arguments.matrix_rate / 1e12:g} T "
        f"operations/s in products, {arguments.bandwidth / 1e12:g} TB/s of memory, {arguments.network / 1e9:g} GB/s "
        "of network a GPU"
    )
    return Table(title, columns, rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=20_000, help="of the measured head (default: 20,000)")
    parser.add_argument("--embedding-size", type=int, default=128, help="of the measured head (default: 128)")
    parser.add_argument("--batch-size", type=int, default=32, help="images of all processes together (default: 32)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn (default: 6)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each configuration (default: 3)")
    parser.add_argument("--simulate-only", action="store_true", help="only calculate, measure nothing")
    parser.add_argument("--matrix-rate", type=float, default=400e12, help="operations a second that products reach")
    parser.add_argument("--bandwidth", type=float, default=2.5e12, help="bytes a second of a GPU's memory")
    parser.add_argument("--network", type=float, default=40e9, help="bytes a second that a GPU sends to others")
    parser.add_argument(
        "--head", choices=("copied", "shared"), help=argparse.SUPPRESS
    )  # given to the processes started here
    parser.add_argument("--json", type=Path, help="write the tables to this JSON file")
    arguments = parser.parse_args(argv)
    if arguments.head:
        with join_world("cpu") as world:
            print(one_process(world, arguments))
        return 0
    tables = [simulated(arguments)] if arguments.simulate_only else [measured(arguments), simulated(arguments)]
    report(tables, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
