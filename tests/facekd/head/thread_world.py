"""Lets threads of one process stand for the processes that train together, so that exchanges are tested in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from facekd.distributed import World

SECONDS = 60.0  # until a thread that waits for one that failed is given up


class ThreadExchanges:
    """Stands for the module `torch.distributed` within facekd.distributed: each thread is a rank."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.place = threading.local()
        self._offered: list[Any] = [None] * size

    def _exchanged(self, value: Any) -> list[Any]:
        """Returns what each rank offers, in their order."""
        self._offered[self.place.rank] = value
        self.barrier.wait()
        found = list(self._offered)
        self.barrier.wait()  # before the next exchange writes over them
        return found

    def all_reduce(self, values: Tensor, op: Any = torch.distributed.ReduceOp.SUM) -> None:
        stacked = torch.stack(self._exchanged(values.clone()))
        values.copy_(stacked.amax(0) if op == self.ReduceOp.MAX else stacked.sum(0))

    def all_gather(self, gathered: list[Tensor], values: Tensor) -> None:
        for own, given in zip(gathered, self._exchanged(values), strict=True):
            own.copy_(given)
        self.barrier.wait()  # nobody changes what others still copy

    def reduce_scatter(self, summed: Tensor, parts: list[Tensor]) -> None:
        summed.copy_(sum(given[self.place.rank] for given in self._exchanged([part.clone() for part in parts])))

    def all_gather_object(self, gathered: list[Any], value: Any) -> None:
        gathered[:] = self._exchanged(value)

    def broadcast_object_list(self, values: list[Any], src: int = 0) -> None:
        values[:] = self._exchanged(list(values))[src]


def run_ranks(size: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[World], None]) -> None:
    """Runs `work` once for each rank of a world on the CPU, all at once; raises the first error of any."""
    exchanges = ThreadExchanges(size)
    monkeypatch.setattr("facekd.distributed.dist", exchanges)

    def run(rank: int) -> None:
        exchanges.place.rank = rank
        try:
            work(World(rank, size, torch.device("cpu")))
        except BaseException:
            exchanges.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        errors = [error for future in [pool.submit(run, r) for r in range(size)] if (error := future.exception())]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in causes or errors:
        raise error
