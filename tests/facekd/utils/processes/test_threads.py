"""Checks that an abandoned generator ends without waiting for its threads, wherever that happens."""

from __future__ import annotations

import threading
import time

import pytest

from facekd.utils.processes.threads import generator_threads


def numbers(finished: list[int], seconds: float = 0.0):
    def work(number: int) -> int:
        time.sleep(seconds)
        finished.append(number)
        return number

    with generator_threads(1) as pool:
        for future in [pool.submit(work, number) for number in range(5)]:
            yield future.result()


def test_results_come_as_from_any_pool():
    assert list(numbers([])) == [0, 1, 2, 3, 4]


def test_work_that_has_not_begun_is_dropped():
    finished: list[int] = []
    generator = numbers(finished, seconds=0.05)
    next(generator)
    generator.close()
    time.sleep(0.3)
    assert len(finished) <= 2


def test_one_left_half_way_may_end_where_a_thread_is_being_started():
    lock = getattr(threading, "_shutdown_locks_lock", None)
    if lock is None:
        pytest.skip("this Python keeps no list of the locks of its threads")
    generator = numbers([])
    next(generator)

    def collect() -> None:
        nonlocal generator
        with lock:  # as while a thread registers itself
            del generator

    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    collector.join(10)
    stuck = collector.is_alive()
    if stuck:
        lock.release()  # or every later thread of this process waits as well
    assert not stuck
