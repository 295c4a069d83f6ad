"""`facekd describe` finds how a model wants its pixels, and every command then uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from evaluation.sets.pair_set import load_pair_set
from evaluation.sets.preprocessing_trials import IMAGENET, WAYS, separation, some_pairs, try_ways
from facekd.cli import main
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.embedder.sidecar import Sidecar, sidecar_path, write_sidecar
from facekd.errors import ModelError
from tests.pooling_model import write_pooling_model

SIZE = 16


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """60 pairs of coloured pictures; the two of a genuine pair differ by noise."""
    rng = np.random.default_rng(0)
    images = []
    for pair in range(60):
        first = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        second = first if pair % 2 == 0 else rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for coarse in (first, second):
            noisy = cv2.resize(coarse, (SIZE, SIZE)) + rng.normal(0, 25, (SIZE, SIZE, 3))
            images.append(cv2.imencode(".png", np.clip(noisy, 0, 255).astype(np.uint8))[1].tobytes())
    write_pair_pack(tmp_path / "pairs.bin", images, [pair % 2 == 0 for pair in range(60)])
    return tmp_path / "pairs.bin"


class FakeEmbedder:
    """Embeds by tiles, with noise that is small for one mean, std and color alone."""

    embedding_size = 48

    def __init__(self, noise: float) -> None:
        self._noise, self._rng = noise, np.random.default_rng(1)

    def embed(self, images: np.ndarray) -> np.ndarray:
        tiles = images.reshape(len(images), 4, 4, 4, 4, 3).mean((2, 4)).reshape(len(images), -1) - 127.5
        return tiles + self._rng.normal(0, self._noise, tiles.shape)


def test_the_way_that_separates_best_comes_first_and_what_cannot_be_tried_last(pack: Path) -> None:
    def open_with(mean: Any, std: Any, color: str) -> Any:
        if std == (1.0,) * 3:
            raise ModelError("takes no raw pixels")
        return FakeEmbedder(5 if ((mean, std), color) == (IMAGENET, "bgr") else 80)

    pair_set = load_pair_set(pack, 2)
    trials = try_ways(open_with, pair_set, some_pairs(pair_set, 40))
    assert (trials[0].name, trials[0].color, trials[0].behind) == ("ImageNet", "bgr", (0, 0))
    assert [trial.problem for trial in trials[-2:]] == ["takes no raw pixels"] * 2
    assert len(trials) == 2 * len(WAYS) and [trial.is_as_good for trial in trials] == [True] + [False] * 9
    separations = [trial.separation for trial in trials[:-2]]
    assert separations == sorted(separations, reverse=True) and trials[1].behind[0] > 0


def test_separation_is_the_distance_of_the_means_in_units_of_the_spread() -> None:
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(0.6, 0.2, 50_000), rng.normal(0.0, 0.1, 50_000)
    assert separation(genuine, impostor) == pytest.approx(0.6 / np.sqrt((0.04 + 0.01) / 2), rel=0.02)
    assert separation(np.ones(3), np.zeros(3)) == 0  # no spread: nothing to measure by


def test_pairs_are_of_both_kinds_ascending_and_no_more_than_there_are(pack: Path) -> None:
    pair_set = load_pair_set(pack, 2)
    some = some_pairs(pair_set, 20)
    assert len(some) == 20 and pair_set.is_same[some].sum() == 10 and (np.diff(some) > 0).all()
    assert len(some_pairs(pair_set, 1000)) == 60


def test_a_model_is_described_tried_and_from_then_on_used_as_found(
    tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_pooling_model(tmp_path / "m.onnx", SIZE, tile=4)
    assert main(["describe", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "input     x: float [b, 3, 16, 16]" in printed and "1 AveragePool, 1 Flatten" in printed
    assert "y, 48 values\n            assumed, as neither the file nor its graph says: mean, std, color;" in printed
    # Around the mean of its tiles, cosines separate; as raw pixels they hardly do.
    assert main(["describe", str(model), "--verify-with", str(pack), "--pairs", "60"]) == 0
    printed = capsys.readouterr().out
    assert "60 pairs of pairs, 30 genuine" in printed and "recommended: --mean" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith(tuple(WAYS))]
    assert len(rows) == 10 and rows[-1][0] in ("raw", "0..1")
    content = json.loads(sidecar_path(model).read_text())
    embedder = OnnxEmbedder(model)
    assert list(embedder.preprocessing.mean) == content["preprocessing"]["mean"] and not embedder.assumed
    assert "m.onnx.facekd.json says how it is used: best of 10 tried on 60 pairs" in embedder.remarks[0]
    # With --no-write nothing changes.
    before = sidecar_path(model).read_bytes()
    assert main(["describe", str(model), "--verify-with", str(pack), "--pairs", "40", "--no-write"]) == 0
    assert sidecar_path(model).read_bytes() == before


def test_a_type_that_this_onnx_does_not_know_is_shown_by_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_pooling_model(tmp_path / "m.onnx", SIZE, tile=4)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = 99
    model.graph.initializer.add(name="w", dims=[0], data_type=98)
    path.write_bytes(model.SerializeToString())
    assert main(["describe", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "output    y: type 99 [b, 48]" in printed and "use       onnxruntime cannot open it" in printed


def test_options_win_over_a_sidecar_and_a_sidecar_over_what_is_assumed(tmp_path: Path) -> None:
    model = write_pooling_model(tmp_path / "m.onnx", SIZE, tile=4)
    facts = Preprocessing(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), color="bgr", image_size=SIZE)
    write_sidecar(read_onnx_file(model), Sidecar(facts, "y", "by hand"))
    assert OnnxEmbedder(model).preprocessing == facts
    given = OnnxEmbedder(model, mean=127.5, std=127.5).preprocessing
    assert (given.mean, given.std, given.color) == ((127.5,) * 3, (127.5,) * 3, "bgr")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: {**c, "sha256": "0"}, "was written for another file than m.onnx now is"),
        (lambda c: {**c, "version": 2}, "is no sidecar that this facekd knows"),
        (lambda c: {**c, "preprocessing": {"mean": 3}}, "has the keys color, image_size, mean, std"),
        (lambda c: {**c, "preprocessing": {**c["preprocessing"], "size": 3}}, "is no sidecar of a model"),
        (
            lambda c: {**c, "preprocessing": {**c["preprocessing"], "image_size": -3}},
            "m.onnx.facekd.json: is no sidecar",
        ),
        (lambda c: {**c, "output": 3}, "is no sidecar of a model"),
        (lambda c: [c], "m.onnx.facekd.json"),
    ],
)
def test_a_sidecar_that_does_not_belong_is_refused_with_what_to_do(
    tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    model = write_pooling_model(tmp_path / "m.onnx", SIZE, tile=4)
    path = write_sidecar(read_onnx_file(model), Sidecar(Preprocessing(image_size=SIZE), "y", "by hand"))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ModelError, match=said):
        OnnxEmbedder(model)


@pytest.mark.slow
def test_the_real_model_wants_imagenet_statistics_in_rgb(real_data: Callable[[str], Path]) -> None:
    """Accuracy is 98 % or more for several ways; only the spread of the cosines tells them apart."""
    path = real_data("models/mobilefacenet_128_fixed_batch.onnx")
    pair_set = load_pair_set(real_data("lfw_pairs/lfw_folds12.bin"), 2)
    trials = try_ways(lambda **way: OnnxEmbedder(path, **way), pair_set, some_pairs(pair_set, 200))
    assert (trials[0].name, trials[0].color) == ("ImageNet", "rgb")
    assert not trials[1].is_as_good and trials[1].accuracy >= 0.98
