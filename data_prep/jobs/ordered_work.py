"""Work spread over threads or processes, with the results in the order of the tasks.

Both are for `with` statements: the pool ends where the block is left. That of a generator that was left half-way would
end wherever Python collects it, and there waiting for its threads may be for ever (`facekd/utils/processes.py`).
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
    """Results of `work` in order, computed by threads a little ahead of their use; only a few wait in memory.

    Threads, because decoding, encoding and networks release Python's lock. An exception of `work` is raised by
    `result()` of its future, so that the caller knows which task it belongs to. At the end of the block, however it is
    left, no thread is at work any more.

    Args:
        work: called with each task.
        tasks: what to do; consumed no faster than the work is.
        workers: threads.
        read_ahead: tasks per worker that may be done before they are asked for.
    """
    pool = ThreadPoolExecutor(workers)

    def results() -> Iterator[Future[Result]]:
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= workers * read_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def by_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, start: Callable[[], object]
) -> Iterator[Iterator[Result]]:
    """Results of `work` in order, computed by processes; all of them may wait in memory.

    An exception of `work` is raised where its result is asked for. At the end of the block, however it is left, tasks
    that have not begun are dropped, and no process is left; nor is one where this process is killed.

    Args:
        work: called with each task; a function of a module, as processes find it by name.
        tasks: what to do.
        workers: processes; with at most 1 the work is done in this one, as results are asked for.
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
