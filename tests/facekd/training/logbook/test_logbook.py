"""The log of a run reads as if it had never stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from facekd.errors import DataError
from facekd.training.logbook import Logbook, Stopwatch, read_log, train_line
from facekd.training.logbook.trackers import TensorBoard, _silence_threads_of_tensorboard
from facekd.utils.progress import format_duration
from tests.no_waiting import failing_if_it_waits


def test_entries_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    with Logbook(tmp_path, total_images=100, trackers=()) as logbook:
        for images_seen in (10, 20, 30):
            logbook.record("train", images_seen, {"loss": 0.1 * images_seen})
        logbook.record("validation", 30, {"accuracy": 0.5})
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "images_se')  # as a kill leaves it
    with Logbook(tmp_path, total_images=100, images_seen=20, trackers=()) as logbook:
        logbook.record("train", 25, {"loss": 1 / 3})
    assert [(entry["images_seen"], entry["loss"]) for entry in read_log(tmp_path, "train")] == [
        (10, 1.0),
        (20, 2.0),
        (25, 1 / 3),
    ]
    assert read_log(tmp_path, "validation") == []


LINES = [b'{"kind": "train", "images_seen": %d, "loss": 1.50}' % images_seen for images_seen in (10, 20, 30)]
UNREADABLE = [
    b"\xff\xfe\xff",
    b"[1, 2]",
    b"7",
    b'{"images_seen": 15}',
    b'{"kind": "train", "images_seen": NaN}',
    b'{"kind": "train", "images_seen": Infinity}',
    b'{"kind": "train", "images_seen": 1' + b"0" * 400 + b"}",
    b'{"kind": "train", "images_seen": 1' + b"0" * 5000 + b"}",
    b'{"kind": "train"}',
    b'{"kind": "tr',
    b"[" * 9999,
]
ODD = '{"kind": "note", "images_seen": 12, "words": "a\u2028b\x85c"}'.encode()


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_line_that_cannot_be_read_costs_no_other(tmp_path: Path, bad: bytes, capsys: pytest.CaptureFixture) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join([LINES[0], bad, ODD, LINES[1], LINES[2], bad]))
    assert [entry["images_seen"] for entry in read_log(tmp_path, "train")] == [10, 20, 30]
    assert read_log(tmp_path, "note")[0]["words"] == "a\u2028b\x85c"
    with Logbook(tmp_path, total_images=100, images_seen=20, trackers=()) as logbook:
        logbook.record("train", 25, {"loss": 1.5})
    # All other lines stay byte for byte; the last one, cut, is gone.
    expected = [LINES[0], bad, ODD, LINES[1], b'{"kind": "train", "images_seen": 25, "loss": 1.5}', b""]
    assert log.read_bytes() == b"\n".join(expected)
    assert capsys.readouterr().err.count("and left out of reports: 1\n") == 1


def test_entries_without_the_numbers_asked_for_are_left_out(tmp_path: Path) -> None:
    other = b'{"kind": "train", "images_seen": 40, "loss": null}\n{"kind": "train", "images_seen": 50}\n'
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*LINES, other]))
    assert [entry["images_seen"] for entry in read_log(tmp_path, "train", ("loss",))] == [10, 20, 30]


def test_a_log_that_is_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    for use in (lambda: read_log(tmp_path), lambda: Logbook(tmp_path, total_images=100).__enter__()):
        with failing_if_it_waits(), pytest.raises(DataError, match=r"log\.jsonl: is a named pipe"):
            use()


def test_a_log_that_cannot_be_written_stops_no_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "log.jsonl").mkdir()
    (tmp_path / "tensorboard").write_text("a file in the way")
    with Logbook(tmp_path, total_images=100) as logbook:
        logbook.record("train", 10, {"loss": 1.0})
        logbook.record("train", 20, {"loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("log.jsonl cannot be written") == said.count("tensorboard/ cannot be written") == 1


def test_a_full_disk_costs_the_lines_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with Logbook(tmp_path, total_images=100, trackers=()) as logbook:
        logbook.record("train", 10, {"loss": 1.0})
        assert logbook._file._file is not None
        whole = logbook._file._file

        class Full:
            def write(self, line: bytes) -> int:
                return whole.write(line[:9])

            def close(self) -> None: ...

        logbook._file._file = Full()  # type: ignore[assignment]
        logbook.record("train", 20, {"loss": 1.0})
        logbook._file._file = whole
        logbook.record("train", 30, {"loss": 1.0})
    assert [entry["images_seen"] for entry in read_log(tmp_path)] == [10, 30]


def test_the_log_is_strict_json(tmp_path: Path) -> None:
    with Logbook(tmp_path, total_images=1, trackers=()) as logbook:
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
    monkeypatch.setattr("facekd.training.logbook.stopwatch.time.perf_counter", lambda: now[0])
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_disk_that_fills_up_ends_tensorboard_in_one_line_and_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not that of pytest, which collects
    said: list[str] = []
    _silence_threads_of_tensorboard.cache_clear()
    board = TensorBoard(tmp_path, 0, said.append)
    board.record(1, {"loss": 1.0})
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.unlink()
    events.symlink_to("/dev/full")
    for images_seen in range(2, 5):
        board.record(images_seen, {"loss": 1.0})
        time.sleep(0.05)
    board.close()
    assert said == ["warning: tensorboard/ cannot be written (No space left on device); training goes on without it"]
    assert "Traceback" not in capfd.readouterr().err
