"""What validation during training costs, as a share of wall time at the cadence published recipes use.

That cadence: seven verification packs of 6,000 pairs, each image and its mirror image, every 2,000 steps of 512 images.

    P = 7 x 6,000 x 2 = 84,000 images of packs        T = 2,000 x 512 = 1,024,000 images of training
    share = P v / (P v + T t)                         every rank does its part of both
    share = R P v / (R P v + T t)                     one rank of R validates, and the others wait

v and t, the seconds a pack's image (both forms of it) and a training image take, are measured here in turns:

    facekd  `PairSetValidator` and `TorchEmbedder` as `facekd train` calls them, decoding and the folding of the
            normalisations included
    usual   restated: batches of 10 float images that were decoded beforehand, torch's PReLU and memory layout
    train   forward and backward of facekd's backbone alone; loading, head and optimiser would only lower the shares
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from backbones import replace_prelu
from measuring import Table, ratios, report, spread, take_turns
from torch import nn

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
from facekd.training.validation import IMAGES_AT_ONCE

PACK_IMAGES, TRAIN_IMAGES, RANKS, USUAL_BATCH = 7 * 6_000 * 2, 2_000 * 512, 8, 10


def write_pack(path: Path, num_pairs: int, distinct: float, size: int) -> Path:
    """Pairs of generated faces, of which this share of the images is distinct."""
    count = max(2, round(2 * num_pairs * distinct))
    images, _ = open_dataset(f"synthetic:{-(-count // 2)}x2", size).load(np.arange(count))
    encoded = [cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes() for image in images]
    write_pair_pack(path, [encoded[number % count] for number in range(2 * num_pairs)], np.arange(num_pairs) % 2 == 0)
    return path


def share(pack_image: float, train_image: float, ranks: int = 1) -> float:
    """Of wall time, in percent."""
    validation = ranks * PACK_IMAGES * pack_image
    return 100 * validation / (validation + TRAIN_IMAGES * train_image)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> int:
    """Parse, measure in turns, print and write."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/validation.py --backbones iresnet50 --precision bf16 --pairs 600",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet"], help="default: mobilefacenet")
    parser.add_argument("--pairs", type=int, default=3000 if is_gpu else 40, help="in the pack (3,000; on a CPU 40)")
    parser.add_argument("--batch-size", type=int, default=128 if is_gpu else 16, help="of training (128; on a CPU 16)")
    parser.add_argument("--image-size", type=int, default=112, help="in pixels (default: 112)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all three (default: fp32)")
    parser.add_argument("--turns", type=int, default=5, help="default: 5")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    dtype, size = AMP_DTYPES[arguments.precision], arguments.image_size
    rows, figures = [], {}
    for name in arguments.backbones:
        with tempfile.TemporaryDirectory() as scratch:
            every = write_pack(Path(scratch) / "distinct.bin", arguments.pairs, 1.0, size)
            some = write_pack(Path(scratch) / "repeated.bin", arguments.pairs, 0.66, size)
            validators = {path: PairSetValidator(path, folds=2, fars=(0.1,)) for path in (every, some)}
            pixels = decode_images(read_pair_pack(every).images)
        torch.manual_seed(0)
        backbone = build_backbone(name, embedding_size=512, image_size=size, width=1.0, dropout=0.0).to(device)
        plain: nn.Module = copy.deepcopy(backbone)
        replace_prelu(plain)
        plain = plain.to(device).eval()
        backbone = backbone.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        floats = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        batch = to_model_input(torch.from_numpy(pixels[: arguments.batch_size]).to(device))

        def of_ours(path: Path, backbone=backbone, validators=validators) -> float:
            start = time.perf_counter()
            embedder = TorchEmbedder(
                fold_batch_norms(backbone),
                Preprocessing(image_size=size),
                device,
                batch_size=IMAGES_AT_ONCE.get(device.type),
                autocast=dtype,
            )
            validators[path](embedder.embed)
            return (time.perf_counter() - start) / (2 * arguments.pairs)

        @torch.no_grad()
        def of_usual(plain: nn.Module = plain, floats: torch.Tensor = floats) -> float:
            start = time.perf_counter()
            for part in floats.split(USUAL_BATCH):
                for form in (part, part.flip(3)):
                    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                        embedding = plain(form.to(device))
                    embedding.float().cpu()
            return (time.perf_counter() - start) / len(floats)

        def of_training(backbone: nn.Module = backbone, batch: torch.Tensor = batch) -> float:
            wait_for(device)
            start = time.perf_counter()
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                embedding = backbone(batch)
            embedding.backward(torch.ones_like(embedding))
            wait_for(device)
            return (time.perf_counter() - start) / len(batch)

        sides = {
            "facekd, no image twice": lambda path=every, of_ours=of_ours: of_ours(path),
            "facekd, 66 % distinct, as in LFW": lambda path=some, of_ours=of_ours: of_ours(path),
            "usual": of_usual,
            "train": of_training,
        }
        take_turns(sides, 1)
        seconds = take_turns(sides, arguments.turns)
        train = seconds["train"]
        for side in [side for side in sides if side != "train"]:
            cost = ratios(seconds[side], train)
            spread_out = spread([share(one, 1.0) for one in cost], 1)
            alone = spread([share(one, 1.0, RANKS) for one in cost], 1)
            rows.append([name, side, f"{spread_out} %", f"{alone} %", spread(cost)])
        figures[name] = seconds
    where = torch.cuda.get_device_name() if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    title = (
        f"Validation at the published cadence ({PACK_IMAGES:,} images every {TRAIN_IMAGES:,}): {where}, "
        f"{arguments.precision}, {arguments.turns} turns"
    )
    columns = [
        "backbone",
        "which",
        "share of wall time, every rank its part",
        f"one rank of {RANKS} for all",
        "a pack's image over a training image",
    ]
    report([Table(title, columns, rows)], arguments.json, seconds_per_image=figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
