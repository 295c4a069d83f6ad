"""Work spread over threads, with the results in the order of the tasks and only a few of them waiting in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
READ_AHEAD = 64  # tasks per worker in flight: enough to keep the threads busy, and little memory


@contextmanager
def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, read_ahead: int = READ_AHEAD
) -> Iterator[Iterator[Future[Result]]]:
    """Results of `work` in order, computed by threads a little ahead of their use; for a `with` statement.

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
