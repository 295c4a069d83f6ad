"""Evaluations into a folder that holds results: no moment at which old numbers lie beside new files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.compare_models import main as report
from evaluation.evaluate_classification import main as evaluate_classification
from evaluation.evaluate_folder import main as evaluate_folder
from evaluation.evaluate_ijbc import main as evaluate_ijbc
from evaluation.evaluate_lfw import main as evaluate_lfw
from facekd.errors import DataError, FacekdError, run_verb
from tests.evaluation.conftest import make_model, make_pack
from tests.evaluation.ijb_layout import make_layout
from tests.evaluation.test_evaluate_folder import face, write


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop(*_args: object, **_named: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def lfw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Evaluate packs `easy` and `hard`, or one of them, into one folder; pictures are drawn as text, to save time."""
    monkeypatch.setattr("evaluation.evaluate_lfw.draw_pair_sets", lambda path, sets, _: path.write_text(str(sets)))
    monkeypatch.setattr(
        "evaluation.evaluate_lfw.draw_hardest_pairs",
        lambda path, _, scores, *rest, model: path.write_text(f"{scores} {rest}"),
    )
    model = make_model(tmp_path / "quarters.onnx")
    packs = {name: make_pack(tmp_path, noise=noise, name=name) for name, noise in (("easy", 20), ("hard", 90))}

    def run(*names: str, extra: tuple[str, ...] = (), output: str = "out") -> int:
        chosen = [str(packs[name]) for name in names]
        fixed = ["--model", str(model), "--bootstrap", "0", "--output", str(tmp_path / output)]
        return run_verb(lambda: evaluate_lfw([*fixed, "--pairs", *chosen, *extra]))

    return run


@pytest.mark.parametrize("drawing", ["draw_pair_sets", "draw_hardest_pairs"])
def test_a_stop_while_pictures_are_drawn_leaves_no_results(
    lfw: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: str
) -> None:
    out = tmp_path / "out"
    assert lfw("hard") == 0
    expected = content(out)
    assert lfw("hard", extra=("--no-flip",)) == lfw("hard", output="other") == 0
    with monkeypatch.context() as patch:
        patch.setattr(f"evaluation.evaluate_lfw.{drawing}", stop)
        assert lfw("hard") == 130
    # Neither the old numbers nor the old pictures are left beside the new scores, and nothing is compared.
    assert (out / "scores.npy").read_bytes() == expected["scores.npy"] and not (out / "results.json").exists()
    assert not (out / "hardest_pairs.png").exists()
    with pytest.raises(DataError, match="stopped before all files were written; run the evaluation again"):
        report([str(out), str(tmp_path / "other"), "--output", str(tmp_path / "comparison")])
    assert lfw("hard") == 0
    assert content(out) == expected


def test_files_that_a_run_does_not_write_are_gone(lfw: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lfw("easy") == 0
    (out / "notes.txt").write_text("mine")
    assert lfw("easy", extra=("--no-pictures", "--no-report")) == 0
    left = {"results.json", "scores.npy", "notes.txt"}
    assert {name for name in content(out) if not name.startswith("embeddings/")} == left


def test_packs_of_an_earlier_run_are_gone(
    lfw: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert lfw("easy", "hard", extra=("--no-pictures",)) == 0
    (out / "easy" / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "results.json").write_text('{"format": "facekd-verification"}')
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.evaluate_lfw.write_arrays", stop)
        assert lfw("hard", extra=("--no-pictures",)) == 130
    assert lfw("hard", extra=("--no-pictures", "--no-report")) == 0
    left = {"results.json", "scores.npy", "easy/notes.txt", "mine/results.json"}
    assert {name for name in content(out) if not name.startswith("embeddings/")} == left


def test_a_stop_between_two_packs_leaves_no_summary(
    lfw: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, quick = tmp_path / "out", ("--no-pictures",)
    assert lfw("easy", "hard", extra=quick) == 0
    expected = content(out)
    assert lfw("easy", "hard", extra=(*quick, "--no-flip")) == 0
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.evaluate_lfw._write_summary", stop)
        assert lfw("easy", "hard", extra=quick) == 130
    assert not (out / "results.json").exists() and not (out / "table.md").exists()
    assert lfw("easy", "hard", extra=quick) == 0
    assert content(out) == expected


def test_an_evaluation_that_fails_leaves_the_results_it_found(
    lfw: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lfw("easy") == 0
    before = content(tmp_path / "out")
    for mistake in (("--image-size", "112"), ("--model", "nowhere.onnx"), ("--folds", "41")):
        assert lfw("easy", extra=mistake) == 2
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("found", ['{"format": "facekd-study"}', '{"results": []}'])
def test_results_of_something_else_are_refused_before_the_work(
    lfw: Callable[..., int], tmp_path: Path, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facekd.embedder.OnnxEmbedder.embed", stop)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(found)
    (tmp_path / "out" / "report.html").write_text("mine")
    assert lfw("easy") == 2
    assert (tmp_path / "out" / "results.json").read_text() == found
    assert (tmp_path / "out" / "report.html").read_text() == "mine"
    words = ["--output", str(tmp_path / "out"), "--model", "nowhere.onnx"]
    (tmp_path / "data").mkdir()
    for evaluate, option in (
        (evaluate_folder, "--images"),
        (evaluate_ijbc, "--root"),
        (evaluate_classification, "--data"),
    ):
        with pytest.raises(DataError, match=r"out/results.json: is not of an evaluation .*; choose another --output"):
            evaluate([*words, option, str(tmp_path / "data")])
    # A folder of the name of a pack that holds something else.
    shutil.copytree(tmp_path / "out", tmp_path / "several" / "hard")
    assert lfw("easy", "hard", output="several") == 2
    assert set(content(tmp_path / "several")) == {"hard/results.json", "hard/report.html"}


def test_an_ijb_set_evaluated_by_1n_alone_keeps_no_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_layout(0).write(tmp_path / "set"), tmp_path / "out"
    words = ["--root", str(root), "--embeddings", str(root / "embeddings.npy"), "--embeddings-flipped"]

    def evaluate(*extra: str) -> int:
        return run_verb(lambda: evaluate_ijbc([*words, "--bootstrap", "0", "--output", str(out), *extra]))

    assert evaluate() == 0
    assert set(content(out)) == {"scores.npy", "curves.npz", "results.json", "results.csv", "report.md", "report.html"}
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.evaluate_ijbc.write_report", stop)
        assert evaluate() == 130
    with pytest.raises(DataError, match="stopped before"):
        report([str(out)])
    assert evaluate("--protocol", "1:N", "--no-report") == 0
    assert set(content(out)) == {"curves.npz", "results.json"}
    with np.load(out / "curves.npz") as curves:
        assert not any(name.startswith("roc") for name in curves)


def test_a_folder_evaluated_by_identification_keeps_no_curves(tmp_path: Path, model: Path) -> None:
    for person in range(3):
        for number in range(2):
            write(tmp_path / "people", f"{person}/{number}.png", face(person, number))
            write(tmp_path / "found", f"{('gallery', 'probe')[number]}/{person}/{number}.png", face(person, number))
    fixed = ["--model", str(model), "--output", str(tmp_path / "out"), "--no-cache", "--bootstrap", "0"]
    assert evaluate_folder([*fixed, "--images", str(tmp_path / "people")]) == 0
    assert (tmp_path / "out" / "curves.npz").exists() and (tmp_path / "out" / "report.html").exists()
    assert evaluate_folder([*fixed, "--images", str(tmp_path / "found"), "--no-report"]) == 0
    assert set(content(tmp_path / "out")) == {"results.json"}


def test_a_comparison_that_is_stopped_is_none(
    lfw: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, out = ("--no-pictures",), tmp_path / "comparison"
    assert lfw("hard", extra=quick) == lfw("hard", extra=(*quick, "--no-flip"), output="other") == 0
    change = json.loads((tmp_path / "other" / "results.json").read_text())
    change["protocol"]["flip"] = True  # so that the two can be compared
    (tmp_path / "other" / "results.json").write_text(json.dumps(change))
    words = [str(tmp_path / "out"), str(tmp_path / "other"), "--output", str(out), "--draws", "100"]
    assert report(words) == 0
    expected = content(out)
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.compare_models.write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            report(words)
    assert set(content(out)) == {"comparison.html", ".comparison.json.unfinished"}
    assert report(words) == 0 and content(out) == expected


def test_a_folder_with_no_results_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FacekdError, match="no results there"):
        report([str(tmp_path)])
