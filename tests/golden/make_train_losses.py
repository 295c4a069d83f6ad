"""Write `train_losses.json`: run this only when a change is meant to alter what training computes, and say so.

python tests/golden/make_train_losses.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from facekd.distributed import World
from facekd.training.config import TrainConfig
from facekd.training.logbook import read_log
from facekd.training.loop import train
from facekd.utils.config_files import parse_config

PATH = Path(__file__).with_name("train_losses.json")
MARGINS = {
    "arcface": [],
    "cosface": [],
    "adaface": [],
    "combined": ["--head.m1", "1.0", "--head.m2", "0.3", "--head.m3", "0.1"],
    "none": [],
}


def golden_losses(margin: str, output: Path) -> list[float]:
    """The losses of eight steps on generated faces, by a thin MobileFaceNet at 32 pixels."""
    arguments = [
        *("--data.train", "synthetic:6x6:1", "--data.image_size", "32", "--data.workers", "0", "--device", "cpu"),
        *("--output", str(output), "--tensorboard", "false", "--backbone.width", "0.25"),
        *("--backbone.embedding_size", "32", "--head.margin", margin, "--head.scale", "16"),
        *("--schedule.lr", "0.003", "--images", "128", "--global_batch_size", "16", "--log_every_images", "16"),
        *("--augmentation.crop", "0.3", "--augmentation.color_jitter", "0.3"),
        *MARGINS[margin],
    ]
    train(parse_config(TrainConfig, arguments, "facekd train", ""), World(0, 1, torch.device("cpu")))
    return [entry["loss"] for entry in read_log(output, "train")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = {margin: golden_losses(margin, Path(folder) / margin) for margin in MARGINS}
    PATH.write_text(json.dumps(losses, indent=1) + "\n")
