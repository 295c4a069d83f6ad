"""What had to be assumed of a model stands beside every headline number: on the terminal, in tables and in pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.compare_models import main as report
from evaluation.evaluate_classification import main as evaluate_classification
from evaluation.evaluate_folder import main as evaluate_folder
from evaluation.evaluate_ijbc import main as evaluate_ijbc
from evaluation.evaluate_lfw import main as evaluate_lfw
from facekd.pages.figures import new_figure
from tests.evaluation.conftest import SIZE
from tests.evaluation.ijb_layout import make_layout
from tests.evaluation.test_evaluate_folder import face, write

SENTENCE = "preprocessing assumed, not recorded: mean 127.5, 127.5, 127.5; std 127.5, 127.5, 127.5; color rgb; if that"
NAME = "quarters.onnx (assumed: mean, std, color)"
GIVEN = ("--mean", "127.5", "--std", "127.5", "--color", "rgb")


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the figures that are drawn, small to save time."""
    monkeypatch.setattr("facekd.pages.figures.DPI", 30)
    found: list[str] = []

    def remember(*sizes: object, title: str = "", **counts: int):
        found.append(title)
        return new_figure(*sizes, title=title, **counts)  # type: ignore[arg-type]

    for module in ("figures", "hardest_pairs"):
        monkeypatch.setattr(f"evaluation.results.{module}.new_figure", remember)
    return found


def test_a_pack(model: Path, pack: Path, tmp_path: Path, titles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(model), "--pairs", str(pack), "--bootstrap", "0", "--output", str(tmp_path / "out")]
    assert evaluate_lfw(words) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = next(number for number, line in enumerate(lines) if line.startswith("accuracy"))
    assert lines[accuracy - 1].startswith(f"model     {SENTENCE}")
    assert titles[0] == f"{NAME} on pairs" and f"hardest pairs of {NAME}" in titles[1]
    titles.clear()
    assert evaluate_lfw([*words, *GIVEN]) == 0
    assert "assumed" not in capsys.readouterr().out and titles[0] == "quarters.onnx on pairs"


def test_several_packs_and_their_comparison(
    model: Path, pack: Path, tmp_path: Path, titles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    twin = pack.with_name("twin.bin")
    twin.write_bytes(pack.read_bytes())
    words = ["--model", str(model), "--pairs", str(pack), str(twin), "--no-pictures", "--bootstrap", "0"]
    assert evaluate_lfw([*words, "--output", str(tmp_path / "assumed")]) == 0
    assert evaluate_lfw([*words, *GIVEN, "--output", str(tmp_path / "given")]) == 0
    assert NAME in (tmp_path / "assumed" / "table.md").read_text()
    assert "assumed" not in (tmp_path / "given" / "table.md").read_text()
    capsys.readouterr()
    folders = [str(tmp_path / name / "pairs") for name in ("assumed", "given")]
    assert report([*folders, "--output", str(tmp_path / "out"), "--draws", "100"]) == 0
    shown = "quarters.onnx (pairs)" if "quarters.onnx (pairs)" in capsys.readouterr().out else folders[0]
    row = f"{shown} (assumed: mean, std, color)"
    assert f"| {row} |" in (tmp_path / "out" / "comparison.md").read_text()
    assert row in (tmp_path / "out" / "comparison.html").read_text()
    [compared] = json.loads((tmp_path / "out" / "comparison.json").read_text())["sets"]
    assert [one["assumed"] for one in compared["models"]] == [["mean", "std", "color"], []]


def test_a_folder(model: Path, tmp_path: Path, titles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(3):
        for number in range(2):
            write(tmp_path / "people", f"{person}/{number}.png", face(person, number))
    words = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    assert evaluate_folder([*words, "--bootstrap", "0"]) == 0
    reports = [(tmp_path / "out" / f"report.{end}").read_text() for end in ("html", "md")]
    for text in (capsys.readouterr().out, *reports):
        assert f". The {SENTENCE}" in text
    assert titles == [NAME, NAME]


def test_an_ijb_set(tmp_path: Path, titles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_layout(0).write(tmp_path / "set"), tmp_path / "out"
    words = ["--root", str(root), "--embeddings", str(root / "embeddings.npy"), "--embeddings-flipped"]
    assert evaluate_ijbc([*words, "--output", str(out), "--bootstrap", "0", "--no-report"]) == 0
    assert "assumed" not in capsys.readouterr().out
    # As if a model had made the embeddings.
    result = json.loads((out / "results.json").read_text())
    preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb", "image_size": 112}
    assumed = ["mean", "std", "color"]
    result["model"] = {"path": "quarters.onnx", "preprocessing": preprocessing, "assumed": assumed}
    (out / "results.json").write_text(json.dumps(result))
    assert report([str(out)]) == 0
    assert SENTENCE in (out / "report.html").read_text() and SENTENCE in (out / "report.md").read_text()
    assert titles == [NAME] * 3
    from evaluation.results.terminal import print_ijb_results

    print_ijb_results(result)
    lines = capsys.readouterr().out.splitlines()
    headline = next(number for number, line in enumerate(lines) if line.startswith("1:1  "))
    assert lines[headline - 1].startswith(SENTENCE)


def test_a_classifier(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(12):  # as many classes as the model has outputs
        write(tmp_path / "data" / "train", f"{person:02}/0.png", face(person, 0))
        write(tmp_path / "data" / "val", f"{person:02}/1.png", face(person, 1))
    words = ["--model", str(model), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert evaluate_classification([*words, "--workers", "0"]) == 0
    printed = capsys.readouterr()
    assert "quarters.onnx does not record its preprocessing; assumed: mean (127.5" in printed.err
    assert f"{model} (assumed: mean, std, color) on" in printed.out.replace("\n", "")
    found = json.loads((tmp_path / "out" / "results.json").read_text())["model"]
    assert found["assumed"] == ["mean", "std", "color"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_teacher(
    rank: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from facekd.data.datasets import open_dataset
    from facekd.data.loading.orders import FullShuffle
    from facekd.data.loading.sampler import PositionSampler
    from facekd.teacher.config import TeacherConfig
    from facekd.teacher.teacher import open_teacher

    write(tmp_path / "data", "a/0.png", face(0, 0))
    write(tmp_path / "data", "b/0.png", face(1, 0))
    dataset = open_dataset(tmp_path / "data", SIZE)
    monkeypatch.setenv("RANK", rank)

    def warning_of(**config: object) -> str:
        teacher = TeacherConfig(model=str(model), **config)  # type: ignore[arg-type]
        open_teacher(teacher, dataset, PositionSampler(FullShuffle(2, 0), 1), SIZE, None, torch.device("cpu"))
        return capsys.readouterr().err

    warning = f"{model} does not record its preprocessing; assumed: mean (127.5, 127.5, 127.5)"
    assert warning_of().startswith(warning if rank == "0" else "") and ("assumed" in warning_of()) == (rank == "0")
    assert warning_of(mean=[127.5] * 3, std=[127.5] * 3, color="rgb") == ""
