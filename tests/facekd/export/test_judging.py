"""What counts as a loss, on a pack whose cosines are chosen: models that look numbers up instead of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.embedder import Preprocessing
from facekd.export.judging import Judgement, judge
from facekd.export.options import JudgingOptions

PAIRS, SIZE, VALUES = 200, 4, 64


class Table:
    """Embeds the image of each number by a row; of some genuine pairs, the second image shows somebody else."""

    def __init__(self, num_broken: int) -> None:
        self.preprocessing = Preprocessing(image_size=SIZE)
        self._rows = np.random.default_rng(0).normal(size=(4 * PAIRS, VALUES)).astype(np.float32)
        whole = slice(2 * num_broken, 2 * PAIRS, 2)
        self._rows[1:][whole] = self._rows[whole]

    def embed(self, images: np.ndarray) -> np.ndarray:
        return self._rows[images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """As many impostor as genuine pairs, each of two images that show their number."""
    numbers = np.arange(4 * PAIRS)
    pixels = np.stack([numbers // 256, numbers % 256, numbers * 0], axis=1).astype(np.uint8)
    images = [cv2.imencode(".png", np.tile(pixel[::-1], (SIZE, SIZE, 1)))[1].tobytes() for pixel in pixels]
    write_pair_pack(tmp_path / "numbers.bin", images, [True] * PAIRS + [False] * PAIRS)
    return tmp_path / "numbers.bin"


def judged(pack: Path, broken: int, broken_in_variant: int) -> Judgement:
    forms: dict[str, Any] = {"fp32": Table(broken), "int8": Table(broken_in_variant)}
    return judge(forms, None, JudgingOptions(judge=(pack,), allow_cosine=-1))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.export.judging.DRAWS", 100)


def test_a_loss_of_each_measure_counts_and_a_gain_of_none(pack: Path) -> None:
    lost = judged(pack, 0, 30).losses
    assert [line.split(" points of ")[1].split(" (")[0] for line in lost] == [
        "accuracy",
        "EER",
        "TAR at FAR 0.1",
        "TAR at FAR 0.01",
    ]
    assert all("on numbers.bin (400 pairs) int8 loses " in line for line in lost)
    assert judged(pack, 30, 0).losses == ()


def test_a_loss_that_may_be_chance_does_not_count_but_is_said(pack: Path) -> None:
    found = judged(pack, 0, 1)
    assert 100 * found.packs[0]["differences"]["tar@0.01"]["difference"] == pytest.approx(-0.5)
    assert found.losses == ()
    assert found.packs[0]["folds"] == {"number": 10, "kind": "balanced"}  # genuine pairs come first
    assert len(found.warnings) == 1 and "too few to exclude a loss of more than 0.2 points" in found.warnings[0]
