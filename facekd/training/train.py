"""Verb `facekd train`: trains a backbone with a margin classifier.

    facekd train configs/debug.yaml
    facekd train configs/train/ms1mv3_mobilefacenet_arcface.yaml --data.train /data/ms1mv3 --output runs/mbf
    python -m torch.distributed.run --nproc_per_node 8 -m facekd train CONFIG.yaml

To resume, run the same command again. Progress is counted in images; the learning rate, the order of the images,
their augmentation and dropout are functions of the seed and of `images_seen`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facekd.commands.config_files import parse_config
from facekd.commands.config_help import show_short_help, take_switch
from facekd.errors import run_verb
from facekd.training.config import TrainConfig
from facekd.training.config.main_keys import TRAIN_KEYS, TRAIN_NOTES

if TYPE_CHECKING:
    from facekd.training.loop import MakeValidators


def main(argv: list[str] | None = None, make_validators: MakeValidators | None = None) -> int:
    """Parses the command line and trains.

    Args:
        argv: words after the verb; None takes the process's own.
        make_validators: turns the config into validators; the caller gives it, because training knows no benchmark.
    """
    description = "Trains a backbone with a margin classifier (ArcFace, CosFace, AdaFace)."
    argv = show_short_help(argv, TrainConfig, "facekd train", description, TRAIN_KEYS, TRAIN_NOTES)
    argv, is_dry = take_switch(argv, "--dry-run")
    config = parse_config(TrainConfig, argv, "facekd train", description)
    # After parsing, because they import torch, which takes seconds: `--help` and a mistyped key answer at once.
    from facekd.training.loop import run_training
    from facekd.training.recognizer import build_recognizer

    run = None
    if is_dry:
        from facekd.training.dry_run import dry_run as run
    return run_training(config, "facekd train", build_recognizer, make_validators, run=run)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
