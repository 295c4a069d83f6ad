"""`facekd evaluate robustness` from the command line to its files, against degraded images scored by hand."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.evaluate_robustness import main
from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.sets.pair_set import PairSet, load_pair_set
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
from facekd.errors import run_verb
from facekd.verification import equal_error_rate, kfold_accuracy, tar_at_far, wilson_interval
from tests.evaluation.conftest import make_model, quarters

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def evaluate(model: Path, pack: Path, tmp_path: Path) -> Run:
    """Run the verb; returns its exit status and the results, if any."""

    def run(*extra: str, output: str = "out", models: tuple[Path, ...] = (model,)) -> tuple[int, dict[str, Any]]:
        folder = tmp_path / output
        words = ["--model", *map(str, models), "--pairs", str(pack), "--output", str(folder), "--folds", "2"]
        status = run_verb(lambda: main([*words, "--bootstrap", "0", *extra]))
        return status, json.loads((folder / "results.json").read_text()) if status == 0 else {}

    return run


def units(images: np.ndarray) -> np.ndarray:
    embeddings = quarters(images).astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def degraded(pair_set: PairSet, name: str, strength: float, seed: int) -> np.ndarray:
    """All images degraded, each with the generator that its content and the seed give."""
    found = []
    for place, image in enumerate(pair_set.decode(0, 80)):
        content = hashlib.sha256(pair_set.images[place]).digest()
        drawn = hashlib.sha256(content + f"{name} {seed}".encode()).digest()[:16]
        rng = np.random.default_rng(int.from_bytes(drawn, "little"))
        found.append(DEGRADATIONS[name].apply(image, strength, rng))
    return np.stack(found)


@pytest.mark.parametrize("sides", ["probe", "both"])
def test_measures_are_those_of_images_degraded_by_hand(evaluate: Run, pack: Path, sides: str) -> None:
    kinds, draws = (("noise",), "100") if sides == "probe" else (("noise", "shift"), "0")
    words = ("--degradations", *kinds, "--no-flip", "--degrade", sides, "--seed", "5", "--bootstrap", draws)
    status, result = evaluate(*words)
    assert status == 0
    pair_set = load_pair_set(pack, 2)
    clean = units(pair_set.decode(0, 80))
    same = pair_set.is_same
    clean_scores = (clean[::2] * clean[1::2]).sum(axis=1)
    (model,) = result["models"]
    assert tuple(model["degradations"]) == kinds
    for name, levels in model["degradations"].items():
        assert [one["strength"] for one in levels] == list(DEGRADATIONS[name].strengths)
        for one in levels[::2]:
            changed = units(degraded(pair_set, name, one["strength"], 5))
            first = clean if sides == "probe" else changed
            scores = (first[::2] * changed[1::2]).sum(axis=1)
            assert one["eer"] == pytest.approx(equal_error_rate(scores[same], scores[~same]), abs=1e-9)
            assert one["accuracy"]["mean"] == kfold_accuracy(scores, same, pair_set.fold_of).mean
            assert one["tar_at_far"][0]["tar"] == tar_at_far(scores[same], scores[~same], [0.1])[0].tar
            (fixed,) = one["at_clean_threshold"]
            threshold = tar_at_far(clean_scores[same], clean_scores[~same], [0.1])[0].threshold
            assert threshold is not None and fixed["threshold"] == pytest.approx(threshold, abs=1e-6)
            assert fixed["tar"] == np.mean(scores[same] >= threshold)
            assert fixed["achieved_far"] == np.mean(scores[~same] >= threshold)
            assert fixed["tar_ci95"][0] <= fixed["tar"] <= fixed["tar_ci95"][1]
            if sides == "both":
                assert one["eer_change"] is one["accuracy"]["ci95"] is None
                continue
            assert one["eer_change"]["difference"] == pytest.approx(one["eer"] - model["clean"]["eer"], abs=1e-12)
            assert one["eer_change"]["ci95"][0] <= one["eer_change"]["ci95"][1]
            low, high = one["accuracy"]["ci95"]
            # As wide as Wilson's at least: a model without an error among 40 pairs is not known to make none.
            right = round(one["accuracy"]["mean"] * len(same))
            assert low <= wilson_interval(right, len(same))[0] and high >= wilson_interval(right, len(same))[1]


def test_the_channels_exchanged_are_a_control(evaluate: Run, pack: Path) -> None:
    _, result = evaluate("--degradations", "jpeg", "--no-flip")
    images = load_pair_set(pack, 2).decode(0, 80)
    right, wrong = units(images), units(images[..., ::-1])
    same = load_pair_set(pack, 2).is_same
    controls = {(one["name"], one["degraded"]): one for one in result["models"][0]["controls"]}
    for sides, first in (("probe", right), ("both", wrong)):
        scores = (first[::2] * wrong[1::2]).sum(axis=1)
        found = controls["red and blue exchanged", sides]["eer"]
        assert found == pytest.approx(equal_error_rate(scores[same], scores[~same]), abs=1e-9)
    assert {name for name, _ in controls} == {"red and blue exchanged", *(f"normalised as {way}" for way in
                                              ("ImageNet", "0..1", "raw pixels"))}  # fmt: skip


def test_a_second_run_embeds_nothing_and_a_lost_strength_alone(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = evaluate("--degradations", "noise", "--no-flip")
    counts: list[int] = []
    embed = OnnxEmbedder.embed
    monkeypatch.setattr(OnnxEmbedder, "embed", lambda self, images: counts.append(len(images)) or embed(self, images))
    _, again = evaluate("--degradations", "noise", "--no-flip")
    assert not counts and again["models"] == first["models"]
    # 40 probes of one strength, which is kept in one file.
    rows = {file: len(np.load(file)) for file in (tmp_path / "out" / "embeddings").iterdir()}
    next(file for file, count in rows.items() if count == 40).unlink()
    _, again = evaluate("--degradations", "noise", "--no-flip")
    assert sum(counts) == 40 and again["models"] == first["models"]


def test_two_models_on_drawn_pairs_are_on_one_page(
    evaluate: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = make_model(tmp_path / "other" / model.name)
    status, result = evaluate("--degradations", "eyes", "--sample", "22", models=(model, other))
    assert status == 0 and result["format"] == "facekd-robustness"
    names = [f"quarters.onnx ({folder.name})" for folder in (model.parent, other.parent)]
    assert [one["name"] for one in result["models"]] == names
    assert result["protocol"]["num_pairs"] == 22 and "22 drawn of 40 pairs" in result["protocol"]["text"]
    assert result["models"][0]["clean"]["num_genuine"] == 11
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('src="data:image/jpeg') == 6 and page.count('src="data:image/png') == 3
    assert "A grey band across the eyes" in page and "red and blue exchanged" in page
    lines = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    (cell,) = [one for one in lines if (one["model"], one["strength"], one["metric"]) == (names[1], "0.2", "eer")]
    assert float(cell["value"]) == result["models"][1]["degradations"]["eyes"][2]["eer"]
    printed = capsys.readouterr().out
    assert "Covered eyes (share of the height)" in printed and "written to" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--degradations", "fog"), "invalid choice: 'fog'"),
        (("--sample", "3"), "--sample: expected a whole number from 4"),
        (("--bootstrap", "5"), "give 0, or at least 100 draws"),
    ],
)
def test_mistakes_are_one_line(model: Path, words: tuple[str, ...], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(model), "--pairs", "no.bin", "--output", "out", *words])
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_there_is_said_before_the_first_is_run(
    evaluate: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = evaluate("--degradations", "jpeg", models=(model, tmp_path / "no.onnx"))
    assert status == 2 and "no.onnx: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out" / "embeddings").exists()
