"""Measures a step of distillation beside a step of plain training, with the teacher cached and with it live.

The same student trains on the same batches by `facekd.training.train_step` in each form. The forms take turns batch by
batch, so that other load on the machine falls on all of them. Loading is the same for all and is left out. The figure
is the time of a form over that of plain training, turn by turn.

Weights are random, which does not change the time. The number of classes is written into the pack's `property` file, so
that a large head can be measured without that many people.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from generated_pack import write_generated_pack
from measuring import ratios

from facekd.backbones import count_parameters
from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.commands.config_files import parse_config
from facekd.data.datasets import FaceDataset, open_dataset
from facekd.data.datasets.identity_map import identity_map
from facekd.data.loading.loader import Batch, make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.distributed import World
from facekd.embedder import open_embedder
from facekd.errors import run_verb
from facekd.files.writing import write_json
from facekd.images.augmentation import Augmentation
from facekd.teacher.cache import write_teacher_cache
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.recognizer import build_recognizer
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step
from facekd.utils.wording import counted

EMBEDDING_SIZE = 512
FORMS = {
    "embedding": ("--loss.ce", "1", "--loss.embedding_cosine", "10"),
    "TH-KD, a = 1": ("--share", "1", "--loss.ce", "1"),
    "TH-KD, a = 1, KL": ("--share", "1", "--loss.ce", "1", "--loss.kl", "0.1"),
    "TH-KD, a = 0.5, KL": ("--share", "0.5", "--loss.ce", "1", "--loss.kl", "0.1"),
}


def make_teacher(path: Path, name: str, size: int, dataset: FaceDataset) -> None:
    """Writes a checkpoint of a teacher with random weights, including its classifier."""
    architecture: dict[str, Any] = {"name": name, "embedding_size": EMBEDDING_SIZE, "image_size": size}
    architecture |= {"width": 1.0, "dropout": 0.0}
    head = torch.randn(dataset.num_classes, EMBEDDING_SIZE)
    preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
    content = {"config": {"backbone": architecture}, "preprocessing": preprocessing, "head": {"weight": head}}
    backbone = build_backbone(**architecture)
    print(f"teacher {name}: {count_parameters(backbone) / 1e6:.1f} M parameters")
    save_checkpoint(path, {**content, "backbone": backbone.state_dict(), **identity_map(dataset)})


def build_states(arguments: argparse.Namespace, folder: Path, dataset: FaceDataset) -> dict[str, TrainingState]:
    """Builds plain training, and each form with its teacher cached and live."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world, teacher, cache = World(0, 1, device), folder / "teacher.pt", folder / "teacher.cache"

    # The teacher, and the cache of its embeddings.
    make_teacher(teacher, arguments.teacher, arguments.image_size, dataset)
    write_teacher_cache(cache, open_embedder(teacher, device=str(device)), dataset)

    # The options that plain training and all forms have in common.
    common = [
        *("--output", str(folder), "--data.train", str(folder), "--data.image_size", str(arguments.image_size)),
        *("--backbone.name", arguments.student, "--backbone.embedding_size", str(EMBEDDING_SIZE)),
        *("--global_batch_size", str(arguments.batch_size), "--precision", arguments.precision),
    ]
    plain = parse_config(TrainConfig, common, "", "")
    states = {"plain": build_state(plain, world, dataset, 10**6, build_recognizer(plain, world, dataset))}
    for form, options in FORMS.items():
        for source, place in (("cached", ("--teacher.cache", str(cache))), ("live", ())):
            words = [*common, "--teacher.model", str(teacher), *place, *options]
            config = parse_config(DistillConfig, words, "", "")
            states[f"{form}, {source}"] = build_state(
                config, world, dataset, 10**6, build_distiller(config, world, dataset)
            )
    return states


def seconds_of(state: TrainingState, batch: Batch) -> float:
    """Measures one step."""
    start = time.perf_counter()
    train_step(state, batch, 1e-3)  # reads numbers back, so a GPU is done when it returns
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example:\n  python benchmarks/distillation_step.py --classes 93431 --turns 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--student", default="mobilefacenet", help="backbone (default: %(default)s)")
    parser.add_argument("--teacher", default="iresnet18", help="backbone (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=112, help="in pixels (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=10_000, help="identities (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=8, help="steps of each form (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s")
    parser.add_argument("--json", "--output", dest="output", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        # A small pack that says it has as many identities as the head shall have classes.
        folder = Path(scratch)
        write_generated_pack(folder, 4 * arguments.batch_size, arguments.image_size)
        (folder / "property").write_text(f"{arguments.classes},{arguments.image_size},{arguments.image_size}\n")
        dataset = open_dataset(folder, arguments.image_size)
        states = build_states(arguments, folder, dataset)
        steps = arguments.turns + 1  # the first is a warm-up
        sampler = PositionSampler(
            FullShuffle(len(dataset), 0), arguments.batch_size, total_images=steps * arguments.batch_size
        )
        seconds: dict[str, list[float]] = {name: [] for name in states}
        for batch in make_loader(dataset, sampler, Augmentation(), 0, 0):
            for name, state in states.items():
                seconds[name].append(seconds_of(state, batch))

    # Print the ratios to plain training, without the warm-up.
    print(
        f"{arguments.student} at {arguments.image_size} pixels, {counted(arguments.classes, 'class')}, batch of ",
        end="",
    )
    threads, turns = counted(torch.get_num_threads(), "thread"), counted(arguments.turns, "turn")
    print(f"{arguments.batch_size}, {arguments.precision}, {threads}, {turns}")
    results = {}
    for name, own in seconds.items():
        over_plain = ratios(own[1:], seconds["plain"][1:])
        results[name] = {"seconds": own[1:], "ratios": over_plain}
        rate = arguments.batch_size / statistics.median(own[1:])
        spread = f"{min(over_plain):.2f} to {max(over_plain):.2f}"
        print(f"{name:<28}{rate:8,.0f} images/s   {statistics.median(over_plain):5.2f} of plain ({spread})")
    if arguments.output:
        write_json(
            arguments.output, {"torch": torch.__version__, "arguments": vars(arguments) | {"output": None}} | results
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
