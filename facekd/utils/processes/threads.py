"""Provides a thread pool that is safe inside a generator that may be abandoned before it is exhausted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def generator_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a pool of threads; leaving the block drops work that has not begun and does not wait for the rest.

    An abandoned generator, say after an error in the loop over it, ends wherever Python collects it. That may be in a
    thread that is just being started and holds the interpreter's lock on its list of threads. Waiting for a thread
    there takes the same lock, so it would wait forever (seen on Python 3.11).
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
