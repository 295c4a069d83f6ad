"""Runs worker processes that fill slots of memory with batches; results come back in the order of the requests.

torch's DataLoader uses queues with a thread each, which costs the main process 5 microseconds per image for small faces
in batches of 128, a twentieth of what decoding takes; these workers cost 2 (docs/benchmarks.md).
"""

from __future__ import annotations

import multiprocessing.util
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
import torch.multiprocessing

from facekd.data.loading.batch_buffers import MEMORY_ADVICE
from facekd.errors import FacekdError, WorkerError
from facekd.images.decoding import one_decoder_thread, quiet_decoders
from facekd.utils.processes.bus_error import end_by_bus_errors
from facekd.utils.processes.children import describe_end, wait_for_worker
from facekd.utils.processes.stopping import STOP_SIGNALS


class TracebackInWorker(Exception):
    """Carries the traceback of an exception in a worker; it is the cause of the one raised in the main process."""


Fill = Callable[[int], Any]  # takes the number of a slot; what it returns goes back to the main process


class BatchWorkers:
    """Starts worker processes, and ends them when the context is left.

    Args:
        fill: called in a worker with the number of a slot. It is pickled unless workers are forked.
        count: number of processes, 1 or more; they take turns.
        start_method: how they start; None is the default of the platform.
    """

    def __init__(self, fill: Fill, count: int, start_method: str | None) -> None:
        context: Any = torch.multiprocessing.get_context(start_method)
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        self._asked: deque[int] = deque()  # the workers that owe a result, in order
        self._next = 0
        # Runs before Python, at exit, ends daemons by SIGTERM, which these ignore, and waits for them.
        self._end = multiprocessing.util.Finalize(self, _end, (self._processes, self._connections), exitpriority=10)
        forks = context.get_start_method() == "fork"
        for _ in range(count):
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            # A forked worker inherits our ends of the pipes. It closes them, or it would never notice that we are gone.
            inherited = list(self._connections) if forks else []
            process = context.Process(target=_work, args=(fill, theirs, inherited), daemon=True)
            with one_decoder_thread():
                process.start()
            self._processes.append(process)
            theirs.close()  # so that our reading ends when the worker does

    def __enter__(self) -> BatchWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, slot: int) -> None:
        """Has the next worker fill a slot.

        Raises:
            WorkerError: the worker is gone.
        """
        worker = self._next % len(self._processes)
        self._next += 1
        self._asked.append(worker)
        try:
            self._connections[worker].send(slot)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone(worker) from error

    def result(self) -> Any:
        """Waits for the oldest request, and returns what `fill` returned for it.

        Raises:
            WorkerError: the worker is gone, or has not answered for very long.
            Exception: whatever `fill` raised.
        """
        worker = self._asked.popleft()
        connection = self._connections[worker]
        try:
            wait_for_worker(connection.poll, self._name(worker), lambda: [self._processes[worker].pid])
            found = connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone(worker) from error
        if isinstance(found, FacekdError):
            raise found
        if isinstance(found, _Defect):
            raise found.error from TracebackInWorker(f"\n{found.traceback}")
        return found

    def _name(self, worker: int) -> str:
        return f"worker {worker} of the loader (process {self._processes[worker].pid})"

    def _gone(self, worker: int) -> WorkerError:
        process = self._processes[worker]
        process.join(5)
        who, code = self._name(worker), process.exitcode
        if code is not None and code >= 0:
            return WorkerError(f"{who} {describe_end(code)}; what it printed may say why")
        how = "stopped answering" if code is None else describe_end(code)
        return WorkerError(f"{who} {how}. {MEMORY_ADVICE}")


class _Defect:
    """Carries an exception that is a defect, not a message for the user, to the main process."""

    def __init__(self, error: Exception) -> None:
        self.traceback = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
            self.error = error
        except Exception:  # some cannot be pickled, or not unpickled
            self.error = RuntimeError(f"{type(error).__name__}: {error}")


def _work(fill: Fill, connection: Connection, inherited: list[Connection]) -> None:
    """Runs in a worker: fills slots as requested, until the main process is gone."""
    for end in inherited:
        end.close()
    quiet_decoders()
    end_by_bus_errors()
    torch.set_num_threads(1)  # the workers are the parallelism
    # Ctrl-C and a hang-up reach every process of the terminal, and a batch system sends SIGTERM to every process. The
    # main one ends the workers, and still needs batches until it has saved.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Answer each request with a result, a message for the user, or a defect.
    while True:
        try:
            slot = connection.recv()
        except (EOFError, ConnectionResetError):
            return  # the main process is gone
        try:
            said = fill(slot)
        except FacekdError as error:
            said = error
        except Exception as error:
            said = _Defect(error)
        try:
            connection.send(said)
        except (BrokenPipeError, ConnectionResetError):
            return


def _end(processes: list[Any], connections: list[Connection]) -> None:
    """Kills the workers: they only read, so nothing is lost."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()
