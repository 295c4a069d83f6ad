"""Images a second of facekd's loader, beside the per-sample pipeline of its peers, in one run on one machine.

Both read the same record pack with the same number of worker processes and end in the same place: a normalised float
batch (B, 3, S, S), half of the images mirrored, ready for a backbone. The other pipeline is the one of InsightFace's
`MXFaceDataset` and its descendants, written out below: one record at a time to a PIL image, torchvision's flip,
`ToTensor` and `Normalize`, and a collate of float tensors. It is given facekd's own record reader, so that the
difference is the pipeline alone.

The two take turns, so that whatever else the machine does falls on both. Before anything is timed, their pixels are
compared: a fast loader of other images would prove nothing.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from facekd.data.datasets import FaceDataset, RecordDataset, open_dataset
from facekd.data.loader import make_loader, usable_cores
from facekd.data.record_pack import open_record_pack
from facekd.data.recordio import Header, RecordWriter, pack
from facekd.data.sampler import PositionSampler
from facekd.data.transforms import Augmentation, to_model_input
from facekd.errors import run_verb
from facekd.files import write_json
from facekd.progress import track

JPEG_QUALITY = 90


class PerSampleDataset(Dataset):
    """The peers' way: one record, one PIL image, one float tensor at a time."""

    def __init__(self, path: Path, flip: bool) -> None:
        self.pack = open_record_pack(path)
        steps = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])]
        )

    def __len__(self) -> int:
        return self.pack.num_images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        encoded, label = self.pack.read_image(index)
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        return self.transform(image), torch.tensor(label)


def our_batches(dataset: FaceDataset, batch_size: int, workers: int, num_batches: int) -> Iterable[torch.Tensor]:
    sampler = PositionSampler(len(dataset), 0, batch_size, total_images=num_batches * batch_size)
    for batch in make_loader(dataset, sampler, Augmentation(), 0, workers):
        yield to_model_input(batch.images, batch.flip)


def per_sample_batches(path: Path, batch_size: int, workers: int, num_batches: int) -> Iterable[torch.Tensor]:
    dataset = PerSampleDataset(path, flip=True)
    order = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=num_batches * batch_size)
    for images, _ in DataLoader(dataset, batch_size, sampler=order, num_workers=workers):
        yield images


def images_per_second(batches: Iterable[torch.Tensor], batch_size: int) -> float:
    """Rate after the first batch, so that starting the workers is not part of it."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    num_batches = sum(1 for _ in iterator)
    return num_batches * batch_size / (time.perf_counter() - start)


def largest_difference(path: Path, dataset: RecordDataset, num_images: int = 256) -> float:
    """Largest difference of a value between the two pipelines, flips aside."""
    indices = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).astype(np.int64)
    ours = to_model_input(torch.from_numpy(dataset.load(indices)[0]))
    others = PerSampleDataset(path, flip=False)
    return float((ours - torch.stack([others[int(index)][0] for index in indices])).abs().max())


def write_generated_pack(folder: Path, num_images: int, size: int) -> Path:
    """A plain pack of generated faces, so that the benchmark runs without data."""
    dataset = open_dataset(f"synthetic:{-(-num_images // 4)}x4", size)
    with RecordWriter(folder / "train.rec") as writer:
        for start in track(range(0, num_images, 64), "rendering faces"):
            images, labels = dataset.load(np.arange(start, min(start + 64, num_images)))
            for key, image, label in zip(range(start, num_images), images, labels, strict=False):
                _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                writer.write(key, pack(Header(0, float(label), key, 0), encoded.tobytes()))
    return folder / "train.rec"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure in turns, print and write."""
    parser = argparse.ArgumentParser(
        description="Compare the loader with a per-sample PIL pipeline.",
        epilog="example:\n  python benchmarks/loader.py --data ms1m-retinaface-t1 --workers 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="record pack to read; generated faces where it is left out")
    parser.add_argument("--image-size", type=int, default=112, help="side of its images in pixels (default: 112)")
    parser.add_argument("--num-images", type=int, default=1024, help="generated images (default: 1024)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a batch (default: 128)")
    parser.add_argument("--num-batches", type=int, default=40, help="batches a turn (default: 40)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each pipeline (default: 5)")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0, usable_cores()],
        help="worker processes (default: 0 and all cores)",
    )
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # what happens on the device is no part of this

    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.data or write_generated_pack(Path(scratch), arguments.num_images, arguments.image_size)
        dataset = RecordDataset(path, arguments.image_size)
        difference = largest_difference(path, dataset)
        if difference > 1e-6:
            print(f"the two pipelines disagree by up to {difference:g}: nothing to compare", file=sys.stderr)
            return 1
        print(f"{dataset.name}: {len(dataset):,} images; pixels agree within {difference:.1g}")
        results = []
        for workers in arguments.workers:
            rates: dict[str, list[float]] = {"facekd": [], "per_sample": []}
            size, count = arguments.batch_size, arguments.num_batches + 1
            for _ in range(arguments.turns):
                rates["facekd"].append(images_per_second(our_batches(dataset, size, workers, count), size))
                rates["per_sample"].append(images_per_second(per_sample_batches(path, size, workers, count), size))
            ours, others = (statistics.median(values) for values in rates.values())
            ratios = [ours / other for ours, other in zip(*rates.values(), strict=True)]
            print(
                f"workers {workers}: facekd {ours:,.0f} images/s, per sample {others:,.0f} images/s; "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns)"
            )
            results.append({"workers": workers, "images_per_second": rates, "ratios": ratios})
    if arguments.output:
        machine = {"cores": usable_cores(), "torch": torch.__version__, "opencv": cv2.__version__}
        write_json(arguments.output, {"machine": machine, "batch_size": arguments.batch_size, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
