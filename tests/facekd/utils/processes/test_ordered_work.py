"""Checks that results come in order and that nothing is at work after the block."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from data_prep import make_ijb_layout, synthesize_faces
from facekd.errors import WorkerError
from facekd.utils.processes.children import end_with_pool
from facekd.utils.processes.ordered_work import by_processes, in_order


def test_results_come_in_the_order_of_the_tasks_however_long_each_takes():
    def work(task: int) -> int:
        time.sleep(0.02 if task % 3 == 0 else 0)
        return task * task

    with in_order(work, range(20), workers=4) as results:
        assert [result.result() for result in results] == [task * task for task in range(20)]


def test_tasks_are_taken_no_faster_than_results_are():
    taken: list[int] = []
    with in_order(abs, (taken.append(task) or task for task in range(100)), workers=2, read_ahead=3) as results:
        next(results)
        assert len(taken) == 6


def test_an_error_belongs_to_its_task():
    with in_order(lambda task: 1 / task, [1, 0, 2], workers=1) as results:
        assert next(results).result() == 1
        with pytest.raises(ZeroDivisionError):
            next(results).result()
        assert next(results).result() == 0.5


def test_when_the_block_is_left_by_an_error_nothing_is_at_work_and_nothing_begins():
    begun, ended = [], []
    started = threading.Event()

    def work(task: int) -> None:
        begun.append(task)
        started.set()
        time.sleep(0.1)
        ended.append(task)

    with pytest.raises(KeyboardInterrupt), in_order(work, range(50), workers=2) as results:
        next(iter(results), None)
        started.wait(5)
        raise KeyboardInterrupt
    assert begun and sorted(begun) == sorted(ended) and len(begun) < 50
    before = len(begun)
    time.sleep(0.3)
    assert len(begun) == before


def test_processes_give_results_in_order_and_are_gone_when_one_fails(tmp_path: Path) -> None:
    commands = [
        "exit 1",
        "exit 2",
        "no command: it holds a \0",
        *(f"sleep 0.1; touch {tmp_path}/{n}" for n in range(40)),
    ]
    for workers in (1, 2):
        found: list[int] = []
        with pytest.raises(ValueError), by_processes(os.system, commands, workers, end_with_pool) as results:
            found.extend(os.waitstatus_to_exitcode(status) for status in results)
        assert found == [1, 2] and not active_children()
        assert len(list(tmp_path.iterdir())) < 40  # what had not begun was dropped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "kill -KILL $PPID; sleep 9",
            r"\(process \d+\) was ended by SIGKILL, as the system does when memory has run out",
        ),
        ("kill -STOP $PPID", r"has not answered for \d+ s: it is stopped, and `kill -CONT \d+` lets it go on"),
    ],
)
def test_a_process_that_is_killed_or_stopped_is_named(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKD_SECONDS_UNTIL_GIVEN_UP", "20")
    tasks = ["true", command, *["true"] * 9]
    with pytest.raises(WorkerError, match=said), by_processes(os.system, tasks, 2, end_with_pool) as results:
        list(results)
    assert not active_children()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_met_by_a_worker_is_told_by_the_name_of_the_file() -> None:
    write = partial(Path.write_bytes, data=b"0")  # a fresh process can import this: it may not find the tests
    with pytest.raises(OSError) as met, by_processes(write, [Path("/dev/full")], 2, end_with_pool) as results:
        next(results)
    assert met.value.filename == "/dev/full"


def one_and_an_error(results: Iterator[Any], *_: Any) -> Iterator[Any]:
    """In the place of `track`: the loop over results is left half-way."""
    yield next(results)
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", [make_ijb_layout, synthesize_faces])
def test_verbs_left_half_way_leave_no_process(verb: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verb, "track", one_and_an_error)
    size = "ROWS_CHUNK" if verb is make_ijb_layout else "PART_SIZE"
    monkeypatch.setattr(verb, size, 2)
    words = ["synthetic:4x8", str(tmp_path / "out"), "--image-size", "32"]
    if verb is synthesize_faces:
        words = ["--identities", "2", "--images-per-identity", "4", "--pairs", "0", "--size", "32"]
        words += ["--output", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt) as interrupted:
        verb.main([*words, "--workers", "2"])
    assert interrupted.tb is not None and not active_children()  # although the traceback keeps what was suspended
