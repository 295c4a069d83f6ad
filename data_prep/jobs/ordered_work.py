"""Spreads work over threads or processes and returns the results in the order of the tasks.

Both functions are for `with` statements, so that the pool ends where the block is left. In an abandoned generator it
would end wherever Python collects it, where waiting for threads may take forever (`facekd/utils/threads.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from facekd.utils.processes import end_with_pool

Task = TypeVar("Task")
Result = TypeVar("Result")
READ_AHEAD = 64  # tasks per worker in flight: enough to keep the threads busy, and little memory


@contextmanager
def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, read_ahead: int = READ_AHEAD
) -> Iterator[Iterator[Future[Result]]]:
    """Yields results of `work` in order, computed by threads slightly ahead of use, so that few wait in memory.

    Decoding, encoding and networks release Python's lock, so threads are enough. An exception of `work` is raised by
    `result()` of its future, so that the caller knows which task it belongs to. When the block ends, in whatever way,
    all threads have stopped.

    Args:
        work: called with each task.
        tasks: tasks, consumed no faster than the work is done.
        workers: number of threads.
        read_ahead: tasks per worker that may be done before they are asked for.
    """
    pool = ThreadPoolExecutor(workers)

    def results() -> Iterator[Future[Result]]:
        # Take a task only when the window has room; the oldest result leaves first.
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= workers * read_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    # A caller that leaves early must not wait for tasks that have not begun.
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def by_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, start: Callable[[], object]
) -> Iterator[Iterator[Result]]:
    """Yields results of `work` in order, computed by processes; all results may wait in memory.

    An exception of `work` is raised where its result is asked for. When the block ends, in whatever way, tasks that
    have not begun are dropped and no process is left. None is left either if this process is killed.

    Args:
        work: called with each task; a module's function, because processes find it by name.
        tasks: tasks to do.
        workers: number of processes; with 1 or less, this process does the work as results are asked for.
        start: called in each process first.
    """
    if workers <= 1:
        yield map(work, tasks)
        return
    # Spawned, not forked: OpenCV's thread pool does not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (start,))
    try:
        yield pool.map(work, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(start: Callable[[], object]) -> None:
    end_with_pool()
    start()
