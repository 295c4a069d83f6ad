"""Threads for the use of a generator, which may be left half-way and end anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def generator_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose end does not wait for them; work that has not begun is dropped.

    A generator that was left half-way, say by an error in the loop over it, ends wherever Python collects it. That may
    be in a thread which is just being started and holds the lock of all threads: to wait for a thread there takes the
    same lock, and waits for ever (seen on Python 3.11).
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
