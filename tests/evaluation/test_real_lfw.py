"""Tests the third-party model on the first two folds of LFW, whose figures and embeddings are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.evaluate_lfw import main
from evaluation.sets.embedding_rows import NpyRows
from evaluation.sets.pair_set import PairSet, load_pair_set
from facekd.embedder import embed_with_flip, open_embedder
from facekd.verification.measures import measure_pairs

# Torchvision's ImageNet statistics in grey levels: what this model was trained with.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MODEL = "models/mobilefacenet_128_fixed_batch.onnx"
PACK, NAMES = "lfw_pairs/lfw_folds12.bin", "lfw_pairs/lfw_folds12_pairs.txt"
EMBEDDINGS = "lfw_pairs/lfw_folds12_embeddings_128.npz"
RealData = Callable[[str], Path]


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first.astype(np.float64), second.astype(np.float64)
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def load(real_data: RealData) -> PairSet:
    return load_pair_set(real_data(PACK), folds=2, names=real_data(NAMES))


def check_known_figures(result: dict) -> None:
    assert result["accuracy"]["mean"] == pytest.approx(0.9925, abs=1e-9)
    assert result["accuracy"]["folds"] == pytest.approx([0.990, 0.995], abs=1e-9)
    assert result["eer"] == pytest.approx(0.010, abs=1e-9)
    points = {point["far"]: point for point in result["tar_at_far"]}
    assert points[1e-2]["tar"] == pytest.approx(0.990, abs=1e-9)
    assert points[1e-2]["false_accepts"] == 6
    assert points[1e-3]["tar"] is None  # 600 impostor pairs cannot show it
    assert points[1e-2]["interval"] == "subject bootstrap"


def test_golden_embeddings_give_the_known_figures(real_data: RealData):
    pair_set = load(real_data)
    plain = np.load(real_data(EMBEDDINGS))["plain"]
    scores = cosines(plain[0::2], plain[1::2])
    check_known_figures(measure_pairs(scores, pair_set.is_same, 2, subjects=pair_set.subjects))


def test_our_embeddings_of_some_images_are_the_golden_ones(real_data: RealData):
    golden = np.load(real_data(EMBEDDINGS))
    embedder = open_embedder(real_data(MODEL), mean=MEAN, std=STD, color="rgb")
    some = slice(1190, 1206)
    plain, flipped = embed_with_flip(embedder, load(real_data).decode(some.start, some.stop))
    assert cosines(plain, golden["plain"][some]).min() >= 0.999
    assert cosines(flipped, golden["flipped"][some]).min() >= 0.999


@pytest.mark.slow
def test_the_verb_gives_the_known_figures_and_embeddings(real_data: RealData, tmp_path: Path):
    preprocessing = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)), "--color", "rgb"]
    source = ["--model", str(real_data(MODEL)), "--pairs", str(real_data(PACK)), "--names", str(real_data(NAMES))]
    common = [*source, *preprocessing, "--folds", "2", "--output", str(tmp_path)]
    assert main([*common, "--no-flip"]) == 0
    check_known_figures(json.loads((tmp_path / "results.json").read_text()))

    assert main(common) == 0  # with the mirror images, which adds their embeddings to the cache
    golden = np.load(real_data(EMBEDDINGS))
    for golden_name, ending in (("plain", "plain"), ("flipped", "mirrored")):
        [file] = (tmp_path / "embeddings").glob(f"*-{ending}.npy")
        assert cosines(np.load(file), golden[golden_name]).min() >= 0.999


def test_embeddings_made_elsewhere_are_recognised_and_give_the_known_figures(
    real_data: RealData, tmp_path: Path
) -> None:
    with np.load(real_data(EMBEDDINGS)) as kept:
        plain, flipped = (kept[name].astype(np.float32) for name in ("plain", "flipped"))
    rows = {
        "both": np.hstack([plain, flipped]),
        "both, never negative": np.maximum(np.hstack([plain, flipped]), 0),
        "one": plain,
        "one, never negative": np.maximum(plain, 0),
    }
    for name, some in rows.items():
        np.save(tmp_path / "rows.npy", some)
        assert NpyRows(tmp_path / "rows.npy", holds_flipped=None).has_flipped is name.startswith("both"), name
    np.save(tmp_path / "rows.npy", rows["both"])
    arguments = ["--pairs", str(real_data(PACK)), "--folds", "2", "--no-flip", "--no-pictures", "--bootstrap", "0"]
    assert main([*arguments, "--embeddings", str(tmp_path / "rows.npy"), "--output", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["accuracy"]["folds"] == [0.99, 0.995] and found["eer"] == 0.01
    assert found["embeddings"]["holds"] == "plain+flipped" and found["protocol"]["flip"] is False
