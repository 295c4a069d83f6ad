"""The log of a run reads as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.training.logbook import Logbook, Stopwatch, read_log, train_line
from facekd.utils.progress import format_duration


def test_entries_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    with Logbook(tmp_path, total_images=100, tensorboard=False) as logbook:
        for images_seen in (10, 20, 30):
            logbook.record("train", images_seen, {"loss": 0.1 * images_seen})
        logbook.record("validation", 30, {"accuracy": 0.5})
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "images_se')  # as a kill leaves it
    with Logbook(tmp_path, total_images=100, images_seen=20, tensorboard=False) as logbook:
        logbook.record("train", 25, {"loss": 1 / 3})
    assert [(entry["images_seen"], entry["loss"]) for entry in read_log(tmp_path, "train")] == [
        (10, 1.0),
        (20, 2.0),
        (25, 1 / 3),
    ]
    assert read_log(tmp_path, "validation") == []


def test_the_log_is_strict_json(tmp_path: Path) -> None:
    with Logbook(tmp_path, total_images=1, tensorboard=False) as logbook:
        logbook.record("train", 1, {"loss": 1.0, "gradient_norm": float("inf")})
    assert "Infinity" not in (tmp_path / "log.jsonl").read_text()
    assert read_log(tmp_path) == [{"kind": "train", "images_seen": 1, "loss": 1.0, "gradient_norm": None}]


def test_an_inactive_logbook_writes_nothing(tmp_path: Path) -> None:
    with Logbook(tmp_path, total_images=1, active=False) as logbook:
        logbook.record("train", 1, {"loss": 1.0})
        logbook.advance(1)
        logbook.say("unheard")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logbook(tmp_path, total_images=20) as logbook:
        logbook.record("train", 10, {"loss": 2.5, "note": "not a number"})
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()  # before the end: a kill must not lose what was recorded
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 2.5)]


def test_the_stopwatch_leaves_out_what_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("facekd.training.logbook.time.perf_counter", lambda: now[0])
    stopwatch = Stopwatch()
    now[0] += 7.5
    with stopwatch.paused():  # validation: not training
        now[0] += 20
    with stopwatch.waiting():
        now[0] += 2.5
    assert stopwatch.read(50, 500) == {"images_per_second": 5.0, "data_wait": 0.25, "seconds_left": 100.0}
    now[0] += 1
    assert stopwatch.read(50, 0)["data_wait"] == 0


def test_lines_for_people() -> None:
    values = {"loss": 1.5, "lr": 0.1, "images_per_second": 1234.0, "data_wait": 0.031, "seconds_left": 3725.0}
    line = train_line(5_000, 10_000, values)
    for part in ("5,000 / 10,000 ( 50.0%)", "1.5000", "1.00e-01", "1,234 images/s", "3.1%", "1h02m left"):
        assert part in line
    assert [format_duration(s) for s in (5, 75, 3_600, 90_000)] == ["5s", "1m15s", "1h00m", "1d01h"]
