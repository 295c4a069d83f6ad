"""Files that facekd wrote at commit a00aed3 (`old_files/`, README.md there) do today what they did then."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.checkpoints.shared_head import load_shared_head
from facekd.cli import main
from facekd.data.datasets import open_dataset
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.embedder import OnnxEmbedder, open_embedder
from facekd.teacher.cache import TeacherCache

OLD = Path(__file__).with_name("old_files")
# What differs between two evaluations of the same model: where and when they ran, and with which versions of what.
OF_THE_MOMENT = {"command", "software", "images", "root", "conditions", "seconds"}
RELATIVE = 1e-3  # the kernels of another CPU round otherwise, and training amplifies that


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, and the folder that commands run in: paths in the files are relative to it."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def facekd(*words: str) -> None:
    assert main(list(words)) == 0


def read_log(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == "train"]


def structure(value: Any) -> Any:
    """The fields of a checkpoint, with types and shapes instead of values."""
    if isinstance(value, Mapping) and all(isinstance(entry, int) for entry in value.values()):
        return "numbers by name"  # of files, as many as there were processes
    if isinstance(value, Mapping):
        return {name: structure(entry) for name, entry in value.items()}
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape)
    if isinstance(value, list | tuple):
        return [structure(entry) for entry in value[:1]]
    return type(value).__name__


def require_fields(old: Any, new: Any, where: str = "") -> None:
    """The fields of an old checkpoint are what they were; there may be new ones."""
    if not isinstance(old, dict):
        assert new == old, where
        return
    for name in old:
        assert name in new, f"{where}.{name}"
        require_fields(old[name], new[name], f"{where}.{name}")


def require_same(old: Any, new: Any, where: str = "") -> None:
    """Every field of the old results is among the new ones, with the same value."""
    if isinstance(old, dict):
        missing = old.keys() - new.keys()
        assert not missing, f"{where}: no {missing}"
        for key in old.keys() - OF_THE_MOMENT:
            require_same(old[key], new[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), where
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            require_same(before, after, f"{where}[{number}]")
    elif isinstance(old, float) and math.isfinite(old):
        assert new == pytest.approx(old, rel=1e-3, abs=1e-5), where
    elif isinstance(old, str) and len(old.split()) > 20:
        assert isinstance(new, str) and new, where  # an explanation, which may be reworded
    else:
        assert new == old, where


@pytest.mark.parametrize("run", ["arcface", "ema", "linear", "sharded", "distilled"])
def test_a_run_goes_on_as_it_did(run: str, old: Path) -> None:
    recorded = read_log(old / run)
    before = load_checkpoint(old / run)
    assert before["training"]["images_seen"] == 24
    facekd("distill" if run == "distilled" else "train", f"{run}/config.yaml")
    found = read_log(old / run)
    assert [entry["images_seen"] for entry in found] == [entry["images_seen"] for entry in recorded]
    assert [entry.keys() for entry in found] == [entry.keys() for entry in recorded]
    for key in ("loss", "lr", "gradient_norm", "head_gradient_norm"):
        after = slice(2, None)  # written by the code of today
        expected, values = ([entry[key] for entry in log[after]] for log in (recorded, found))
        np.testing.assert_allclose(values, expected, rtol=10 * RELATIVE if "norm" in key else RELATIVE, err_msg=key)
    require_fields(structure(before), structure(load_checkpoint(old / run)))


def test_a_student_learns_from_an_old_cache_and_head(old: Path) -> None:
    recorded = read_log(old / "cached")
    facekd("distill", "cached/config.yaml", "--output", "again")
    found = read_log(old / "again")
    np.testing.assert_allclose(
        [entry["loss"] for entry in found], [entry["loss"] for entry in recorded], rtol=10 * RELATIVE
    )


@pytest.mark.parametrize("model", ["arcface", "ema", "linear", "distilled", "sharded", "imported.pt", "ema.onnx"])
def test_a_model_embeds_as_it_did(model: str, old: Path) -> None:
    images = open_dataset("data/train.rec", 32).load(np.arange(5))[0]
    recorded = np.load("embeddings.npz")[model]
    np.testing.assert_allclose(open_embedder(model).embed(images), recorded, rtol=1e-3, atol=1e-4)


def test_a_run_is_exported_as_it_was(old: Path) -> None:
    facekd("export", "ema", "--output", "new.onnx")
    recorded, found = OnnxEmbedder("ema.onnx").metadata, OnnxEmbedder("new.onnx").metadata
    assert found.pop("facekd_version") and found.pop("precision") == "fp32"  # an old file does not name it
    assert found == {name: value for name, value in recorded.items() if name != "facekd_version"}


def test_a_teachers_head_and_cache_are_made_again_alike(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset("data/train.rec", 32)
    facekd("cache-teacher", "ema.onnx", "--data", "data/train.rec", "--output", "teacher.cache")  # takes it as it is
    assert "24 images" in capsys.readouterr().out
    cache = TeacherCache("teacher.cache")
    facekd("rebuild-head", "ema.onnx", "--data", "data/train.rec", "--output", "new.pt", "--cache", "new.cache")
    again = TeacherCache("new.cache")
    assert (again.teacher, again.data) == (cache.teacher, cache.data)
    np.testing.assert_allclose(again.lookup_both(range(24)), cache.lookup_both(range(24)), rtol=2e-3, atol=1e-3)
    head, new = load_shared_head("head.pt", dataset), load_shared_head("new.pt", dataset)
    torch.testing.assert_close(new.weight_CD, head.weight_CD, rtol=1e-3, atol=1e-3)
    assert structure(load_checkpoint("new.pt")) == structure(load_checkpoint("head.pt"))
    require_same(json.loads(Path("head.json").read_text()), json.loads(Path("new.json").read_text()))


EVALUATIONS = {
    "lfw": "lfw --model ema.onnx --pairs data/test.bin --names data/test_pairs.txt --bootstrap 100 --no-pictures",
    "npz": "lfw --model arcface --pairs pairs.npz --bootstrap 100 --folds 2 --no-pictures",
    "folder": "folder --model ema.onnx --images people --bootstrap 100",
    "ijbc": "ijbc --model ema.onnx --root ijb --bootstrap 100 --no-report",
    "classification": "classification --model linear --data cifar --workers 0",
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_gives_the_same_results(name: str, old: Path) -> None:
    facekd("evaluate", *EVALUATIONS[name].split(), "--output", "new")
    recorded, found = (
        json.loads((folder / "results.json").read_text()) for folder in (old / "results" / name, Path("new"))
    )
    require_same(recorded, found)


@pytest.mark.parametrize("name", ["folder", "ijbc"])
def test_old_results_are_reported(name: str, old: Path) -> None:
    facekd("report", f"results/{name}")


def test_old_and_new_results_are_compared(old: Path) -> None:
    facekd("evaluate", *EVALUATIONS["lfw"].split(), "--output", "new")
    facekd("report", "results/lfw", "new", "--output", "comparison", "--draws", "100")
    assert (old / "comparison" / "comparison.json").exists()


def test_a_study_is_reported(old: Path) -> None:
    recorded = json.loads((old / "study" / "results.json").read_text())
    facekd("study", "study.yaml", "--report-only")
    require_same(recorded, json.loads((old / "study" / "results.json").read_text()))


def test_records_and_pair_packs_are_read(old: Path) -> None:
    dataset = open_dataset("data/train.rec", 32)
    assert (len(dataset), dataset.num_classes) == (24, 6)
    assert list_checkpoints(old / "sharded")[0].with_suffix(".head").is_dir()
    for path, pairs in (("data/test.bin", 20), ("pairs.npz", 12)):
        assert len(read_pair_pack(path).is_same) == pairs
