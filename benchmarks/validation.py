"""Measures the share of wall time that validation during training takes at the cadence of published recipes.

That cadence is seven verification packs of 6,000 pairs, each image and its mirror image, every 2,000 steps of 512
images. With v and t, the seconds that an image of a pack (both forms of it) and a training image take:

    P = 7 x 6,000 x 2 = 84,000 images of packs        T = 2,000 x 512 = 1,024,000 images of training
    share = P v / (P v + T t)                         if every rank does its part of both
    share = R P v / (R P v + T t)                     if one rank of R validates while the others wait

v and t are measured here in turns:

    facekd  `PairSetValidator` and `TorchEmbedder` as `facekd train` calls them, including decoding and folding of the
            batch normalisations
    usual   restated: batches of 10 float images decoded beforehand, torch's PReLU and memory layout
    train   forward and backward of facekd's backbone alone; loading, head and optimiser would only lower the shares
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import Table, ratios, report, spread, take_turns, wait_for
from torch import nn
from usual_model import replace_prelu

from evaluation.validators import PairSetValidator
from facekd.backbones import fold_batch_norms
from facekd.backbones.building import build_backbone
from facekd.data.datasets import open_dataset
from facekd.data.pair_packs.pair_pack import decode_images, write_pair_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.distributed import AMP_DTYPES
from facekd.embedder import TorchEmbedder
from facekd.errors import run_verb
from facekd.images.model_input import to_model_input
from facekd.images.preprocessing import Preprocessing
from facekd.training.validation import BATCH_SIZE
from facekd.utils.wording import counted

PACK_IMAGES, TRAIN_IMAGES, RANKS, USUAL_BATCH = 7 * 6_000 * 2, 2_000 * 512, 8, 10
LFW_DISTINCT = 0.66  # share of the images of two folds of LFW that are distinct
COLUMNS = (
    "backbone",
    "which",
    "share of wall time, every rank its part",
    f"one rank of {RANKS} for all",
    "a pack's image over a training image",
)


def write_pack(path: Path, num_pairs: int, distinct: float, size: int) -> Path:
    """Writes pairs of generated faces, of whose images the share `distinct` is distinct."""
    count = max(2, round(2 * num_pairs * distinct))
    images, _ = open_dataset(f"synthetic:{-(-count // 2)}x2", size).load(np.arange(count))
    encoded = [cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes() for image in images]
    write_pair_pack(path, [encoded[number % count] for number in range(2 * num_pairs)], np.arange(num_pairs) % 2 == 0)
    return path


def share(pack_image: float, train_image: float, ranks: int = 1) -> float:
    """Returns the share of wall time that validation takes, in percent."""
    validation = ranks * PACK_IMAGES * pack_image
    return 100 * validation / (validation + TRAIN_IMAGES * train_image)


def validate_with_facekd(
    validator: PairSetValidator, backbone: nn.Module, size: int, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Validates as `facekd train` does."""
    embedder = TorchEmbedder(
        fold_batch_norms(backbone),
        Preprocessing(image_size=size),
        device,
        batch_size=BATCH_SIZE.get(device.type),
        autocast=dtype,
    )
    validator(embedder.embed)


@torch.no_grad()
def embed_as_usual(backbone: nn.Module, images: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> None:
    """Embeds decoded images and their mirror images in batches of 10."""
    for part in images.split(USUAL_BATCH):
        for form in (part, part.flip(3)):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                embedding = backbone(form.to(device))
            embedding.float().cpu()


def train_backbone(backbone: nn.Module, batch: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> None:
    """Runs forward and backward of a batch."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        embedding = backbone(batch)
    embedding.backward(torch.ones_like(embedding))


def seconds_an_image(work: Callable[[], None], num_images: int, device: torch.device) -> float:
    """Measures the seconds an image that some work on `num_images` takes."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return (time.perf_counter() - start) / num_images


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """Measures one backbone; returns the seconds an image of each side by turn."""
    dtype, size = AMP_DTYPES[arguments.precision], arguments.image_size

    # Two packs: all images distinct, and as many repeated as in LFW.
    with tempfile.TemporaryDirectory() as scratch:
        every = write_pack(Path(scratch) / "distinct.bin", arguments.pairs, 1.0, size)
        some = write_pack(Path(scratch) / "repeated.bin", arguments.pairs, LFW_DISTINCT, size)
        distinct, repeated = (PairSetValidator(path, folds=2, fars=(0.1,)) for path in (every, some))
        pixels = decode_images(read_pair_pack(every).images)

    # The same weights in facekd's form, in training mode, and in the usual form.
    torch.manual_seed(0)
    backbone: nn.Module = build_backbone(name, embedding_size=512, image_size=size, width=1.0, dropout=0.0).to(device)
    usual = copy.deepcopy(backbone)
    replace_prelu(usual)
    usual = usual.to(device).eval()
    backbone = backbone.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    floats = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    batch = to_model_input(torch.from_numpy(pixels[: arguments.batch_size]).to(device))

    # All take turns, after one turn to warm up.
    images = 2 * arguments.pairs
    sides: dict[str, tuple[Callable[[], None], int]] = {
        "facekd, no image twice": (lambda: validate_with_facekd(distinct, backbone, size, device, dtype), images),
        "facekd, 66 % distinct, as in LFW": (
            lambda: validate_with_facekd(repeated, backbone, size, device, dtype),
            images,
        ),
        "usual": (lambda: embed_as_usual(usual, floats, device, dtype), len(floats)),
        "train": (lambda: train_backbone(backbone, batch, device, dtype), len(batch)),
    }
    timed = {side: lambda work=work: seconds_an_image(*work, device) for side, work in sides.items()}
    take_turns(timed, 1)
    return take_turns(timed, arguments.turns)


def rows_of(name: str, seconds: dict[str, list[float]]) -> list[list[str]]:
    """Formats the results of one backbone as rows under COLUMNS."""
    rows = []
    for side in [side for side in seconds if side != "train"]:
        cost = ratios(seconds[side], seconds["train"])
        every_rank = spread([share(one, 1.0) for one in cost], 1)
        one_rank = spread([share(one, 1.0, RANKS) for one in cost], 1)
        rows.append([name, side, f"{every_rank} %", f"{one_rank} %", spread(cost)])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/validation.py --backbones iresnet50 --precision bf16 --pairs 600",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet"], help="default: mobilefacenet")
    parser.add_argument(
        "--pairs", type=int, default=3000 if is_gpu else 40, help="pairs of the pack (3,000; on a CPU 40)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=128 if is_gpu else 16, help="training images a batch (128; on a CPU 16)"
    )
    parser.add_argument("--image-size", type=int, default=112, help="in pixels (default: 112)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all sides (default: fp32)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    torch.set_flush_denormal(True)

    # Measure and report every backbone.
    figures = {name: measure(name, arguments, device) for name in arguments.backbones}
    rows = [row for name, seconds in figures.items() for row in rows_of(name, seconds)]
    where = torch.cuda.get_device_name() if is_gpu else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    title = (
        f"Validation at the published cadence ({PACK_IMAGES:,} images every {TRAIN_IMAGES:,}): {where}, "
        f"{arguments.precision}, {counted(arguments.turns, 'turn')}"
    )
    report([Table(title, COLUMNS, rows)], arguments.json, seconds_per_image=figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
