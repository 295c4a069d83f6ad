"""Measures how many images a second facekd's loader delivers, beside its limit and its peers on the same machine.

    limit         a bare loop of the fastest decoder over JPEGs in memory, in as many processes as there are workers
    facekd        batches ready for the device: uint8 images, which of them to flip, labels
    facekd float  the same, flipped and normalised on the CPU, as the two below deliver them
    per sample    the pipeline of InsightFace's `MXFaceDataset` and its descendants (`usual_loader.py`): one record at a
                  time to a PIL image, torchvision's flip, `ToTensor` and `Normalize`, and a collate of float tensors
    mxnet         `ImageRecordIter` with threads in C++, in an environment of its own (`make .venv-mxnet/.installed`)

All read one plain record pack from the page cache. The per-sample pipeline reads through facekd's record reader, so
that only the pipelines differ. The sides take turns, so that other load on the machine falls on all of them. Pixels are
compared before anything is timed.

Processor time is reported too and is more reliable on a busy machine. It includes the workers, but not the batches
they had ready when the clock started.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from generated_pack import write_generated_pack
from measuring import (
    MXNET_PYTHON,
    Seconds,
    Table,
    processor_seconds,
    ratios,
    report,
    spread,
    take_turns,
    timed,
)
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.io import decode_jpeg
from usual_loader import PerSampleDataset

from facekd.data.datasets import FaceDataset, RecordDataset
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.data.recordio import Header, RecordWriter, pack
from facekd.errors import FacekdError, run_verb
from facekd.images.augmentation import Augmentation
from facekd.images.model_input import to_model_input
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import counted

WARM_UP = 12  # batches
MAX_IN_MEMORY = 1024  # JPEGs that the limit and the decoders go through
MXNET_SIDE = Path(__file__).with_name("loader_mxnet_side.py")
COLUMNS = ["workers", "which", "speed, by the clock", "by the processor's time", "goal", "images/s", "of the peer"]
GOALS = {"limit": "at least 0.9", "per sample": "at least 3", "mxnet": "at least 1"}


def our_batches(dataset: FaceDataset, batch_size: int, workers: int, num_batches: int) -> Iterable[torch.Tensor]:
    """Yields uint8 images from facekd's loader."""
    sampler = PositionSampler(FullShuffle(len(dataset), 0), batch_size, total_images=num_batches * batch_size)
    for batch in make_loader(dataset, sampler, Augmentation(), 0, workers):
        yield batch.images


def our_float_batches(dataset: FaceDataset, batch_size: int, workers: int, num_batches: int) -> Iterable[torch.Tensor]:
    """Yields flipped and normalised images from facekd's loader."""
    sampler = PositionSampler(FullShuffle(len(dataset), 0), batch_size, total_images=num_batches * batch_size)
    for batch in make_loader(dataset, sampler, Augmentation(), 0, workers):
        yield to_model_input(batch.images, batch.flip)


def per_sample_batches(path: Path, batch_size: int, workers: int, num_batches: int) -> Iterable[torch.Tensor]:
    """Yields flipped and normalised images from the per-sample pipeline."""
    dataset = PerSampleDataset(path, flip=True)
    order = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=num_batches * batch_size)
    for images, _ in DataLoader(dataset, batch_size, sampler=order, num_workers=workers):
        yield images


def image_seconds(batches: Iterable[torch.Tensor], batch_size: int) -> Seconds:
    """Measures the seconds an image, not counting the first batches, in which workers start and touch memory."""
    iterator = iter(batches)
    for _ in range(WARM_UP):
        next(iterator)
    start, used = time.perf_counter(), processor_seconds()
    num_images = batch_size * sum(1 for _ in iterator)
    return (time.perf_counter() - start) / num_images, (processor_seconds() - used) / num_images


def decode_all(encoded: list[bytes], repeats: int) -> None:
    """Decodes all JPEGs `repeats` times."""
    for _ in range(repeats):
        for jpeg in encoded:
            simplejpeg.decode_jpeg(jpeg, "RGB")


def limit_seconds(encoded: list[bytes], processes: int, num_images: int) -> Seconds:
    """Measures the seconds an image that decoding alone takes, in `processes` at once; 0 means in this one."""
    repeats = max(1, round(num_images / max(1, processes) / len(encoded)))
    if processes == 0:
        clock, used = timed(lambda: decode_all(encoded, repeats))
        return clock / (repeats * len(encoded)), used / (repeats * len(encoded))

    # Two barriers: all processes are ready before the clock starts, and start decoding together.
    context = multiprocessing.get_context("fork")
    ready, go = context.Barrier(processes + 1), context.Barrier(processes + 1)

    def work() -> None:
        ready.wait()
        go.wait()
        decode_all(encoded, repeats)

    workers = [context.Process(target=work) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()
    go.wait()
    clock, used = timed(lambda: [worker.join() for worker in workers])
    done = repeats * len(encoded) * processes
    return clock / done, used / done


def mxnet_seconds(path: Path, size: int, batch_size: int, workers: int, num_batches: int) -> Seconds:
    """Measures the seconds an image of mxnet's iterator in its environment."""
    words = [path, size, batch_size, max(1, workers), num_batches]
    finished = subprocess.run(
        [str(MXNET_PYTHON), "-W", "ignore", str(MXNET_SIDE), *map(str, words)], capture_output=True, text=True
    )
    if finished.returncode:
        raise FacekdError(f"mxnet's side failed: {finished.stderr.strip()[-600:]}")
    clock, used = json.loads(finished.stdout.splitlines()[-1])
    return clock, used


def largest_difference(path: Path, dataset: RecordDataset, num_images: int = 256) -> float:
    """Returns the largest difference of a value between facekd's pipeline and the per-sample one, without flips."""
    indices = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).astype(np.int64)
    ours = to_model_input(torch.from_numpy(dataset.load(indices)[0]))
    others = PerSampleDataset(path, flip=False)
    return float((ours - torch.stack([others[int(index)][0] for index in indices])).abs().max())


def compare_decoders(encoded: list[bytes], turns: int) -> tuple[Table, dict[str, list[float]]]:
    """Measures the images a processor second of each decoder on one thread, after comparing their pixels."""

    def by_torchvision(jpeg: bytes) -> np.ndarray:
        pixels: Any = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
        return pixels.permute(1, 2, 0).numpy()

    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        f"simplejpeg {simplejpeg.__version__}": lambda jpeg: simplejpeg.decode_jpeg(jpeg, "RGB"),
        f"OpenCV {cv2.__version__}": lambda jpeg: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),  # type: ignore
        "torchvision": by_torchvision,
        "PIL": lambda jpeg: np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")),
    }
    warnings.simplefilter("ignore")  # torchvision announces the end of its JPEG functions
    first_decoder = next(iter(decoders.values()))
    same = {
        name: all(np.array_equal(decode(jpeg), first_decoder(jpeg)) for jpeg in encoded[:200])
        for name, decode in decoders.items()
    }

    # Rates are by processor time.
    sides = {
        name: lambda decode=decode: timed(lambda: [decode(jpeg).size for jpeg in encoded])
        for name, decode in decoders.items()
    }
    seconds = take_turns(sides, turns)
    rates = {name: [len(encoded) / used for _, used in found] for name, found in seconds.items()}
    first = next(iter(rates.values()))
    rows = [
        [name, spread(ratios(found, first)), f"{statistics.median(found):,.0f}", "yes" if same[name] else "no"]
        for name, found in rates.items()
    ]
    title = f"Decoders, one thread, {counted(turns, 'turn')}, by the processor's time"
    return Table(title, ["decoder", "speed over the first", "images/s", "the same pixels"], rows), rates


def copy_pack(source: Path, folder: Path, num_images: int) -> Path:
    """Copies images from all over a pack into a plain one, as mxnet's iterator fails on InsightFace's empty records."""
    images = open_record_pack(source)
    numbers = np.unique(np.linspace(0, images.num_images - 1, num_images).astype(np.int64))
    with RecordWriter(folder / "train.rec") as writer:
        for key, number in enumerate(numbers.tolist()):
            encoded, label = images.read_image(number)
            writer.write(key, pack(Header(0, float(label), key, 0), bytes(encoded)))
    return folder / "train.rec"


def make_pack(arguments: argparse.Namespace, folder: Path) -> Path:
    """Writes the pack that all sides read: images of --data, or generated faces."""
    if arguments.data:
        return copy_pack(arguments.data, folder, arguments.num_images)
    return write_generated_pack(folder, arguments.num_images, arguments.image_size)


def compare_loaders(path: Path, workers: int, arguments: argparse.Namespace) -> tuple[list[list[str]], dict]:
    """Measures all sides in turns; returns one row for each peer, and the seconds behind the rows."""
    size, batch_size, count = arguments.image_size, arguments.batch_size, arguments.num_batches + WARM_UP
    dataset = RecordDataset(path, size)
    encoded = [bytes(dataset.read_encoded(index)[0]) for index in range(min(len(dataset), MAX_IN_MEMORY))]
    sides: dict[str, Callable[[], Seconds]] = {
        "limit": lambda: limit_seconds(encoded, workers, count * batch_size),
        "facekd": lambda: image_seconds(our_batches(dataset, batch_size, workers, count), batch_size),
        "facekd float": lambda: image_seconds(our_float_batches(dataset, batch_size, workers, count), batch_size),
        "per sample": lambda: image_seconds(per_sample_batches(path, batch_size, workers, count), batch_size),
    }
    if MXNET_PYTHON.exists():
        sides["mxnet"] = lambda: mxnet_seconds(path, size, batch_size, workers, count)
    seconds = take_turns(sides, arguments.turns)
    clock = {name: [one[0] for one in found] for name, found in seconds.items()}
    used = {name: [one[1] for one in found] for name, found in seconds.items()}
    rows = []
    for peer, ours in (("limit", "facekd"), ("per sample", "facekd float"), ("mxnet", "facekd float")):
        if peer in seconds:
            rates = [f"{1 / statistics.median(clock[name]):,.0f}" for name in (ours, peer)]
            by_clock, by_processor = (spread(ratios(kind[peer], kind[ours])) for kind in (clock, used))
            rows.append([str(workers), f"{ours} / {peer}", by_clock, by_processor, GOALS[peer], *rates])
    return rows, seconds


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/loader.py --data ms1m-retinaface-t1 --workers 8 --json loader.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="record pack to take images from (default: generated faces)")
    parser.add_argument("--image-size", type=int, default=112, help="side of the images in pixels (default: 112)")
    parser.add_argument("--num-images", type=int, default=2048, help="images that all sides read (default: 2048)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a batch (default: 128)")
    parser.add_argument("--num-batches", type=int, default=40, help="batches a turn (default: 40)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0, usable_cores()],
        help="worker processes (default: 0 and all cores)",
    )
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # the loaders are measured, not torch's threads
    cv2.setNumThreads(1)

    with tempfile.TemporaryDirectory() as scratch:
        # Make the pack, and refuse to time pipelines that deliver other pixels.
        path = make_pack(arguments, Path(scratch))
        dataset = RecordDataset(path, arguments.image_size)
        difference = largest_difference(path, dataset)
        if difference > 1e-6:
            print(
                f"the two pipelines give pixels that differ by up to {difference:g}, so their speed is not compared",
                file=sys.stderr,
            )
            return 1
        encoded = [bytes(dataset.read_encoded(index)[0]) for index in range(min(len(dataset), MAX_IN_MEMORY))]
        kilobytes = statistics.mean(map(len, encoded)) / 1000
        print(f"{counted(len(dataset), 'image')} of {kilobytes:.1f} kB; pixels agree within {difference:.1g}")
        if not MXNET_PYTHON.exists():
            print(f"mxnet is left out: {MXNET_PYTHON} does not exist; create it by `make .venv-mxnet/.installed`")

        # Measure the decoders, then the loaders for each number of workers.
        decoders, decoder_rates = compare_decoders(encoded, arguments.turns)
        rows, seconds = [], {}
        for workers in arguments.workers:
            found, seconds[workers] = compare_loaders(path, workers, arguments)
            rows += found
    title = (
        f"Loading, {counted(len(dataset), 'JPEG')} of {arguments.image_size} pixels and {kilobytes:.1f} kB, batches of "
        f"{arguments.batch_size}, {arguments.num_batches} a turn, {counted(arguments.turns, 'turn')}"
    )
    report(
        [Table(title, COLUMNS, rows), decoders],
        arguments.json,
        kilobytes=kilobytes,
        seconds_per_image=seconds,
        decoder_images_per_second=decoder_rates,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
