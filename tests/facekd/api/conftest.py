"""A model that needs no training, and a pack of pairs for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from tests.pooling_model import write_pooling_model


@pytest.fixture
def pooling_model(tmp_path: Path) -> Path:
    return write_pooling_model(tmp_path / "m.onnx", 32, 8)


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs of 32 pixels: genuine ones differ by noise."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    images[1::4] = np.clip(images[0::4] + generator.normal(0, 60, images[0::4].shape), 0, 255)
    encoded = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
    path = tmp_path_factory.mktemp("pack") / "pairs.bin"
    write_pair_pack(path, encoded, [True, False] * 10)
    return path
