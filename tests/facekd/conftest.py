"""A data set small enough to train on in a second, and the configuration that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd.commands.config_files import parse_config
from facekd.training.config import TrainConfig


@pytest.fixture(scope="session")
def tiny_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: 6 identities, each a pattern of its own, 7 noisy images of 32 pixels; 42 images in all."""
    folder = tmp_path_factory.mktemp("tiny_faces")
    generator = np.random.default_rng(0)
    for identity in range(6):
        (folder / f"person_{identity}").mkdir()
        pattern = generator.integers(40, 216, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for number in range(7):
            image = np.clip(pattern + generator.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"person_{identity}" / f"{number}.png"), image)
    return folder


def tiny_words(faces: Path, output: Path) -> list[str]:
    """The command line of a run of 10 steps of 12 images (2.9 epochs), logged at every step."""
    return [
        *("--data.train", str(faces), "--data.image_size", "32", "--data.workers", "0"),
        *("--output", str(output), "--tensorboard", "false", "--device", "cpu"),
        *("--backbone.name", "mobilefacenet", "--backbone.width", "0.125", "--backbone.embedding_size", "16"),
        *("--backbone.dropout", "0.2", "--head.scale", "16", "--head.margin_value", "0.2"),
        *("--schedule.lr", "0.05", "--schedule.warmup_images", "24", "--images", "120", "--global_batch_size", "12"),
        *("--log_every_images", "12", "--checkpoint.every_images", "24", "--seed", "7"),
    ]


@pytest.fixture
def tiny_arguments(tiny_faces: Path, tmp_path: Path) -> list[str]:
    return tiny_words(tiny_faces, tmp_path / "run")


@pytest.fixture
def tiny_config(tiny_arguments: list[str]) -> Callable[..., TrainConfig]:
    """Builds the configuration of the tiny run; keyword arguments with `__` for dots override it."""

    def build(**overrides: Any) -> TrainConfig:
        extra = [word for key, value in overrides.items() for word in (f"--{key.replace('__', '.')}", str(value))]
        return parse_config(TrainConfig, [*tiny_arguments, *extra], "facekd train", "")

    return build
