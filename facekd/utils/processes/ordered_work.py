"""Spreads work over threads or processes and returns the results in the order of the tasks.

Both functions are for `with` statements, so that the pool ends where the block is left. In an abandoned generator it
would end wherever Python collects it, where waiting for threads may take forever (`facekd/utils/processes/threads.py`).
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from facekd.errors import WorkerError, file_at_fault
from facekd.utils.processes.children import describe_end, end_with_pool, is_stopped, wait_for_worker

Task = TypeVar("Task")
Result = TypeVar("Result")
WHO = "a process that works for this one"
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

    An exception of `work` is raised where its result is asked for; a WorkerError, if a process was killed or none has
    answered for very long. When the block ends, in whatever way, tasks that have not begun are dropped and no process
    is left. None is left either if this process is killed.

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
    processes: dict[int, Any] = {}  # by id; the pool forgets those of a pool that broke

    def results() -> Iterator[Result]:
        try:
            futures = [pool.submit(_work_apart, work, task) for task in tasks]
            processes.update(pool._processes or {})
            for future in futures:
                wait_for_worker(partial(_is_done, future), WHO, lambda: [*processes])
                yield future.result()
        except BrokenProcessPool as error:
            raise _killed(list(processes.values())) from error

    try:
        yield results()
    finally:
        for process in processes.values():
            if is_stopped(process.pid):  # it would not end by itself
                process.kill()
        pool.shutdown(cancel_futures=True)


def _is_done(future: Future[Any], seconds: float) -> bool:
    return bool(wait([future], seconds).done)


def _killed(processes: list[Any]) -> WorkerError:
    """Returns an error that names the process by whose end a pool broke; the others were then told to end."""
    for process in processes:
        process.join(5)
    codes = {process.pid: process.exitcode for process in processes}
    first = next((pid for pid, code in codes.items() if code not in (None, 0, -signal.SIGTERM)), None)
    how = "has ended" if first is None else f"(process {first}) {describe_end(codes[first])}"
    return WorkerError(f"{WHO} {how}; run the same command again, with fewer --workers if memory is short")


def _work_apart(work: Callable[[Task], Result], task: Task) -> Result:
    """Calls `work` in a worker, and notes the file of a failed write: the main process gets no traceback to find it."""
    try:
        return work(task)
    except OSError as error:
        error.filename = error.filename or file_at_fault(error)
        raise


def _start_worker(start: Callable[[], object]) -> None:
    end_with_pool()
    start()
