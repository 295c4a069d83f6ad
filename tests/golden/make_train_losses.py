"""Writes `train_losses.json`: run it only when a change is meant to alter what training computes, and say so.

    PYTHONPATH=. python tests/golden/make_train_losses.py

Each run is a few steps on generated faces by a thin network, and leaves a record: what it logged at every step, and how
far its weights and their average have moved. `mutations.py` lists bugs that a record must show.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.commands.config_files import parse_config
from facekd.data.config import open_training_data
from facekd.distributed import World
from facekd.images.model_input import to_model_input
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.logbook import read_log
from facekd.training.loop import train
from facekd.training.recognizer import build_recognizer

PATH = Path(__file__).with_name("train_losses.json")
ALONE = World(0, 1, torch.device("cpu"))
TEACHER = "arcface"  # the run whose model the distillations learn from

# Weight decay, momentum, warm-up, clipping and averaging are all strong enough here to show in six steps.
COMMON = (
    *("--data.train", "synthetic:6x6:1", "--data.image_size", "32", "--data.workers", "0", "--device", "cpu"),
    *("--tensorboard", "false", "--backbone.width", "0.25", "--backbone.embedding_size", "32", "--head.scale", "16"),
    *("--images", "96", "--global_batch_size", "16", "--log_every_images", "16", "--clip_norm", "1"),
    *("--schedule.lr", "0.02", "--schedule.warmup_images", "32", "--optimizer.weight_decay", "0.05"),
    *("--ema_half_life_images", "32", "--augmentation.crop", "0.3", "--augmentation.color_jitter", "0.3"),
)
ADAMW = ("--optimizer.name", "adamw", "--optimizer.weight_decay", "2", "--schedule.lr", "0.001")
SHORT = ("--images", "48")  # the margins differ in the loss alone, which three steps show
RUNS: dict[str, tuple[str, ...]] = {
    "arcface": ("--head.margin", "arcface"),
    "cosface": ("--head.margin", "cosface", *SHORT),
    "adaface": ("--head.margin", "adaface", *SHORT),
    "combined": ("--head.margin", "combined", "--head.m1", "1.0", "--head.m2", "0.3", "--head.m3", "0.1", *SHORT),
    "none": ("--head.margin", "none", *SHORT),
    "adamw": ADAMW,
    "th_kd": ("--share", "0.5", "--loss.kl", "1"),
    "embeddings": ("--loss.embedding_l2", "5", "--loss.rkd_distance", "250", "--loss.rkd_angle", "250"),
}
DISTILLATIONS = ("th_kd", "embeddings")


TIGHT_STEPS = 2  # later losses and gradients amplify how a CPU rounds


def tolerance(quantity: str, step: int) -> float:
    """Returns the relative deviation allowed; `test_train_losses.py` says by which noise it was chosen."""
    if quantity in ("lr", "trained_parameters"):
        return 1e-6
    if quantity.startswith("loss"):
        return 1e-3 if step < TIGHT_STEPS else 0.1
    if quantity.endswith("gradient_norm"):
        return 0.01 if step < TIGHT_STEPS else math.inf
    return 0.01 if quantity == "average_loss" else 2e-3


def deviations(found: Mapping[str, list[float]], recorded: Mapping[str, list[float]]) -> dict[str, float]:
    """Compares two records: the largest deviation of each quantity, as a multiple of its tolerance (1 is the limit)."""
    worst = {name: 0.0 if name in found and name in recorded else math.inf for name in {**found, **recorded}}
    for name in found.keys() & recorded.keys():
        for step, (ours, theirs) in enumerate(zip(found[name], recorded[name], strict=True)):
            deviation = abs(ours - theirs) / abs(theirs) / tolerance(name, step)
            worst[name] = max(worst[name], deviation)
    return worst


def golden_record(name: str, folder: Path, extra: Iterable[str] = ()) -> dict[str, list[float]]:
    """Trains the run `name` into `folder / name` and returns its record: a list of numbers for each quantity.

    Args:
        name: a key of `RUNS`. A distillation needs the run `TEACHER` in the same folder.
        folder: holds the folders of the runs.
        extra: words added to the command line.

    Returns:
        Losses, gradient norms and the learning rate of every step; and of the end, one number each: how many parameters
        were trained, the Euclidean norms of backbone and class centres and of how far both have moved, how far the
        average has moved and how far it lags behind the weights, and the loss of the averaged model on the training
        images.
    """
    output = folder / name
    words = [*COMMON, *RUNS[name], "--output", str(output), *extra]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if name in DISTILLATIONS:
            words += ["--teacher.model", str(folder / TEACHER), "--diagnostics", "false"]
            config = parse_config(DistillConfig, words, "facekd distill", "")
            train(config, ALONE, make_recognizer=build_distiller)
        else:
            config = parse_config(TrainConfig, words, "facekd train", "")
            train(config, ALONE)
        return {**_logged(output), **_at_the_end(config, output)}
    finally:
        torch.set_num_threads(threads)


def _logged(output: Path) -> dict[str, list[float]]:
    entries = read_log(output, "train")
    names = [name for name in entries[0] if name == "lr" or name.startswith("loss") or name.endswith("gradient_norm")]
    return {name: [entry[name] for entry in entries] for name in names}


def _at_the_end(config: TrainConfig, output: Path) -> dict[str, list[float]]:
    dataset = open_training_data(config.data)
    content = load_checkpoint(output)
    start = build_recognizer(config, ALONE, dataset)  # a distilled student starts as in training alone
    weights = {name: content["backbone"][name] for name, _ in start.backbone.named_parameters()}
    first = dict(start.backbone.named_parameters())
    averages = {name: content["ema"][name] for name in weights}
    centres, first_centres = content["head"]["weight"], start.head.weight
    moments = content["training"]["optimizer"]["state"].values()
    return {
        "trained_parameters": [sum(next(m for m in one.values() if m.ndim).numel() for one in moments)],
        "backbone_norm": [_norm(weights.values())],
        "backbone_moved": [_distance(weights, first)],
        "head_norm": [_norm([centres])],
        "head_moved": [_norm([centres - first_centres.detach()])],
        "average_moved": [_distance(averages, first)],
        "average_lag": [_distance(averages, weights)],
        "average_loss": [_loss_of_average(config, output, centres)],
    }


def _norm(values: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(value.detach().double().square().sum()) for value in values))


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return _norm(one[name] - other[name].detach() for name in one)


@torch.no_grad()
def _loss_of_average(config: TrainConfig, output: Path, centres_CD: Tensor) -> float:
    """Returns the cross-entropy, without margin, of the averaged backbone on the training images as they are."""
    dataset = open_training_data(config.data)
    images = torch.from_numpy(dataset.load(np.arange(len(dataset)))[0])
    backbone, preprocessing = load_backbone(output, ema=True)
    flip = torch.zeros(len(images), dtype=torch.bool)
    embedding_BD = backbone(to_model_input(images, flip, preprocessing.mean, preprocessing.std))
    cosine_BC = functional.normalize(embedding_BD) @ functional.normalize(centres_CD).T
    return float(functional.cross_entropy(config.head.scale * cosine_BC, torch.tensor(dataset.labels)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        records = {name: golden_record(name, Path(folder)) for name in RUNS}
    PATH.write_text(json.dumps(records, indent=1) + "\n")
