"""Work over threads: results in order, a bounded number ahead, and nobody at work after the block."""

from __future__ import annotations

import threading
import time

import pytest

from data_prep.ordered_work import in_order


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
