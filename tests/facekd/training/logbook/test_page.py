"""The page of a training run, from its log alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from evaluation.compare_models import main as report
from facekd.errors import DataError
from facekd.training.logbook import write_run_page
from facekd.training.logbook.page import write_page_of_long_run


def line(kind: str, seen: int, **values: Any) -> str:
    return json.dumps({"kind": kind, "images_seen": seen, **values}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The log of a distillation that was validated twice, with a line that nothing can read."""
    folder = tmp_path / "student <1>"
    folder.mkdir()
    numbers = {"lr": 0.1, "gradient_norm": 3.0, "head_gradient_norm": 0.7, "data_wait": 0.5, "images_per_second": 250.0}
    lines = [
        line("train", 1000, loss=4.0, loss_ce=3.0, loss_th_kl=1.0, seconds_left=9.0, **numbers),
        line("validation", 1000, **{"lfw/accuracy": 0.9, "lfw/accuracy_std": 0.1, "lfw/eer": 0.12, "seconds": 3.0}),
        "nothing\n",
        line("train", 2000, loss=None, loss_ce=2.0, loss_th_kl=None, seconds_left=0.0, **{**numbers, "lr": 0.025}),
        line("validation", 2000, **{"lfw/accuracy": 0.8, "lfw/accuracy_std": 0.1, "lfw/eer": 0.1, "seconds": 3.0}),
    ]
    (folder / "log.jsonl").write_text("".join(lines))
    return folder


def test_numbers_that_no_curve_can_show_are_left_out(tmp_path: Path) -> None:
    losses = (4.0, 1e308, -1e308, 3.0, 10**400)
    lines = [line("train", seen, loss=loss, lr=0.1) for seen, loss in zip((9, 19, 29, 39, 49), losses, strict=True)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    write_run_page(tmp_path)
    assert "1e+308" not in (tmp_path / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:No artists with labels")
def test_of_very_many_numbers_the_first_are_shown_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Axes, "plot", lambda *_, label, **__: drawn.append(label))  # 30,000 lines would take hours
    names = {f"loss_{number}": 0.5 for number in range(10_000)}
    norms = {f"{number}_gradient_norm": 0.5 for number in range(10_000)}
    shares = {f"{number}/accuracy": 0.5 for number in range(10_000)}
    lines = [line("train", 1, loss=1.0, lr=0.1, **names, **norms), line("validation", 1, **shares)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    page = write_run_page(tmp_path).read_text()
    assert len(drawn) == 32 + 1 + 32 + 32 + 2  # losses, the rate, norms, validation, throughput and waiting
    for said in ("10,000 parts of the loss; the first 31", "10,000 gradient norms; the first 32", "in the table; the"):
        assert said in page
    assert "199/accuracy" in page and "200/accuracy" not in page


def test_the_page_has_every_number_of_the_log(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    # Losses, rate and norms, validation, throughput.
    for text in (
        "loss, ce, th kl",
        "gradient norm, head gradient norm",
        "lfw/accuracy, lfw/eer",
        "images/s over images",
    ):
        assert text.replace("th kl", "th_kl") in page
    assert page.count("<img") == 4
    # The best accuracy is the highest, the best error rate the lowest.
    row = '<td class="text">{}</td><td class="number">{}</td><td class="number">{}</td><td class="number">{}</td>'
    assert row.format("lfw/accuracy %", "80.00", "90.00", "1,000") in page
    assert row.format("lfw/eer %", "10.00", "10.00", "2,000") in page
    assert "accuracy_std" not in page
    assert "not finite, and not drawn: 1 of 2" in page and "waiting for data" in page and "Not complete" not in page
    assert "<code>facekd export &#39;" in page and "student &lt;1&gt;" in page


def test_a_frozen_classifier_has_no_line_of_gradient_norms(run: Path) -> None:
    log = run / "log.jsonl"
    entries = [json.loads(each) for each in log.read_text().splitlines() if each != "nothing"]
    log.write_text("".join(json.dumps({**one, "head_gradient_norm": 0.0}) + "\n" for one in entries))
    assert report([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "gradient norms" in page and "head gradient norm" not in page


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(run: Path) -> None:
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text(lines[0])
    cv2.imwrite(str(run / "diagnostics.png"), np.zeros((8, 8, 3), np.uint8))
    page = write_run_page(run).read_text()
    assert "Not complete" in page and "<h2>Validation</h2>" not in page and page.count("<img") == 4
    # A link of that name could lead anywhere.
    (run / "diagnostics.png").rename(run / "other.png")
    (run / "diagnostics.png").symlink_to(run / "other.png")
    assert write_run_page(run).read_text().count("<img") == 3


def test_a_log_without_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(line("validation", 3, seconds=1.0))
    with pytest.raises(DataError, match="has no line about training yet"):
        report([str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_only_a_long_run_gets_its_page_by_itself_and_a_full_disk_does_not_matter(run: Path) -> None:
    said: list[str] = []
    write_page_of_long_run(run, 59, said.append)
    assert said == [] and not (run / "report.html").exists()
    write_page_of_long_run(run, 60, said.append)
    assert said == [f"page: {run / 'report.html'}"] and (run / "report.html").exists()
    write_page_of_long_run(run / "gone", 60, said.append)
    assert "the training is complete" in said[1]
