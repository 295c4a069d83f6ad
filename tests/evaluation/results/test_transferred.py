"""`--thresholds-from`: the rates that thresholds of one set achieve on another, against counts of its scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.evaluate_folder import main as folder
from evaluation.evaluate_lfw import main as lfw
from evaluation.sets.pair_set import load_pair_set
from facekd.errors import ConfigError, DataError
from facekd.images.encoding import encode_png
from facekd.verification import wilson_interval
from tests.evaluation.conftest import SIZE, make_pack


def read(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def run(model: Path, pack: Path, out: Path, *extra: str) -> dict:
    options = ["--no-pictures", "--bootstrap", "100", "--fars", "0.2,0.05,1e-4"]
    assert lfw(["--model", str(model), "--pairs", str(pack), "--output", str(out), *options, *extra]) == 0
    return read(out)


def test_rates_on_another_pack_are_counts_of_its_scores(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(model, make_pack(tmp_path, 120, name="first"), tmp_path / "first")
    pack = make_pack(tmp_path, 120, noise=80, seed=1, name="second")
    options = ["--thresholds-from", str(tmp_path / "first"), "--names", str(tmp_path / "second.txt")]
    second = run(model, pack, tmp_path / "second", *options)
    scores, is_same = np.load(tmp_path / "second" / "scores.npy"), load_pair_set(pack).is_same
    found = second["transferred"]
    assert found["set"] == "first" and [point["far"] for point in found["points"]] == [0.2, 0.05]
    for point, measured in zip(found["points"], first["tar_at_far"], strict=False):
        assert point["threshold"] == measured["threshold"] and point["there"]["fmr"] == measured["achieved_far"]
        wrong = int((scores[~is_same] >= point["threshold"]).sum()), int((scores[is_same] < point["threshold"]).sum())
        assert (point["fmr"]["errors"], point["fnmr"]["errors"]) == wrong
        assert (point["fmr"]["num"], point["fnmr"]["num"]) == (60, 60)
        # People are known: the interval is over them, and no narrower than Wilson's.
        low, high = wilson_interval(wrong[1], 60)
        assert point["fnmr"]["interval"] == "subject bootstrap"
        assert point["fnmr"]["ci95"][0] <= low and point["fnmr"]["ci95"][1] >= high
        bounds = point["fmr"]["ci95"]
        expected = "exceeded" if bounds[0] > point["far"] else "kept" if bounds[1] <= point["far"] else "open"
        assert point["verdict"] == expected
    assert "Thresholds of another set: first" in capsys.readouterr().out


def test_all_pairs_of_a_folder(tmp_path: Path, model: Path) -> None:
    run(model, make_pack(tmp_path, 120, name="first"), tmp_path / "first")
    generator = np.random.default_rng(3)
    for person in range(12):
        colors = generator.uniform(40, 215, (2, 2, 3))
        for number in range(3):
            image = np.kron(colors + generator.normal(0, 40, (2, 2, 3)), np.ones((SIZE // 2, SIZE // 2, 1)))
            file = tmp_path / "people" / f"{person}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(np.clip(image, 0, 255).astype(np.uint8)))
    words = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    more = ["--thresholds-from", str(tmp_path / "first"), "--bootstrap", "100", "--fars", "0.2"]
    assert folder([*words, *more]) == 0
    result = read(tmp_path / "out")
    point = result["transferred"]["points"][0]
    assert (point["fmr"]["num"], point["fnmr"]["num"]) == (result["num_impostor"], result["num_genuine"])
    # The FMR at the other set's threshold lies on this set's ROC.
    curves = np.load(tmp_path / "out" / "curves.npz")
    reached = curves["roc_threshold"] >= point["threshold"]
    assert point["fmr"]["rate"] == pytest.approx(curves["roc_far"][reached].max(), abs=2 / result["num_impostor"])
    assert "Thresholds of another set" in (tmp_path / "out" / "report.html").read_text()


def test_thresholds_of_other_settings_are_refused(tmp_path: Path, model: Path) -> None:
    pack = make_pack(tmp_path, 120, name="first")
    run(model, pack, tmp_path / "first")
    thresholds = ["--thresholds-from", str(tmp_path / "first")]
    with pytest.raises(DataError, match="its thresholds are for embeddings with those of the mirror images"):
        run(model, pack, tmp_path / "again", *thresholds, "--no-flip")
    with pytest.raises(DataError, match="its thresholds were measured with the same file"):
        run(model, pack, tmp_path / "again", *thresholds, "--color", "bgr")
    np.save(tmp_path / "x.npy", np.ones((240, 4), np.float32))
    given = ["--embeddings", str(tmp_path / "x.npy"), "--pairs", str(pack), "--output", str(tmp_path / "x")]
    with pytest.raises(ConfigError, match="--thresholds-from needs --model"):
        lfw([*given, *thresholds])
