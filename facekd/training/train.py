"""Verb: fit a backbone with a margin classifier.

    facekd train configs/debug.yaml
    facekd train configs/train/ms1mv3_mobilefacenet_arcface.yaml --data.train /data/ms1mv3 --output runs/mbf
    python -m torch.distributed.run --nproc_per_node 8 -m facekd train CONFIG.yaml

To resume, run the same command again. Progress is counted in images; the learning rate, the order of the images,
their augmentation and dropout are functions of the seed and of `images_seen`.
"""

from __future__ import annotations

from facekd.errors import run_verb
from facekd.training.config import TrainConfig
from facekd.training.loop import MakeValidators, run_training
from facekd.training.recognizer import build_recognizer


def main(
    argv: list[str] | None = None,
    make_validators: MakeValidators | None = None,
) -> int:
    """Parse, build, train. `make_validators` turns a configuration into validators: the caller's to give."""
    description = "Train a backbone with a margin classifier. Run the same command again to resume."
    return run_training(TrainConfig, argv, "facekd train", description, build_recognizer, make_validators)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
