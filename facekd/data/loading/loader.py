"""Batches for the trainer: read, decoded and augmented by worker processes, a whole batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import torch

from facekd.data.datasets import FaceDataset
from facekd.data.datasets.face_dataset import ReadsAhead
from facekd.data.loading.batch import Batch
from facekd.data.loading.batch_buffers import BatchMemory, BatchSlots
from facekd.data.loading.batch_workers import BatchWorkers
from facekd.data.loading.gpu_prefetch import CudaSender
from facekd.data.loading.sampler import PositionSampler, SampledBatch
from facekd.errors import TrainingError
from facekd.images.augmentation import Augmentation, augment
from facekd.images.crops import draw_resized_crops
from facekd.images.model_input import flip_mask
from facekd.utils.threads import generator_threads


class BatchLoader:
    """Iterates over the batches of a sampler; made by `make_loader`.

    Images lie in memory that is used again: once nobody holds a batch, nor a view of its images, another is written
    there. Whoever keeps many has the later ones copied, and nothing else.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        sampler: PositionSampler,
        augmentation: Augmentation,
        seed: int,
        workers: int,
        device: torch.device | None,
        prefetch: int,
        start_method: str | None,
    ) -> None:
        self.sampler = sampler
        self._dataset = dataset
        self._augmentation = augmentation
        self._seed = seed
        self._device = device
        self._workers = workers
        self._prefetch = prefetch
        self._start_method = start_method

    def __len__(self) -> int:
        """Batches an iteration gives."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Start the workers and yield batches in order; the workers end with the iteration, however it ends.

        Raises:
            FacekdError: what a worker met, as if it had been raised here.
            TrainingError: a worker was killed.
        """
        under_way = max(1, self._workers * self._prefetch)
        # What is under way, the batch handed out, and the one before it, which the caller's loop still names.
        slots = BatchSlots(
            under_way + 2, self.sampler.batch_size_per_rank, self._dataset.image_size, shared=self._workers > 0
        )
        reader = _Reader(self._dataset, self._augmentation, self._seed, slots)
        order = in_reading_order(self.sampler, self._dataset)
        memory = BatchMemory(slots)
        if not self._workers:
            yield from self._finished(_Batches(order, _NoWorkers(reader.fill), memory, under_way))
            return
        with BatchWorkers(reader.fill, self._workers, self._start_method) as workers:
            yield from self._finished(_Batches(order, workers, memory, under_way))

    def _finished(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        if self._device is None or self._device.type != "cuda":
            yield from batches
            return
        sender = CudaSender(self._device)
        with generator_threads(1) as thread:
            ahead = thread.submit(sender.send_next, batches)
            while (sent := ahead.result()) is not None:
                ahead = thread.submit(sender.send_next, batches)
                yield sender.arrived(*sent)
                del sent


def make_loader(
    dataset: FaceDataset,
    sampler: PositionSampler,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | None = None,
    prefetch: int = 2,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
) -> BatchLoader:
    """Batches of a data set in the order of a sampler. What they hold does not depend on the number of workers.

    Args:
        dataset: where images come from.
        sampler: which images, in which batches; `images_seen` in it resumes.
        augmentation: what is done to the images; None is `Augmentation()`, the flip alone.
        seed: seed of the augmentation, 0 <= seed < 2**64.
        workers: processes that read; 0 reads in this one.
        device: where batches will be used. To a GPU they are sent ahead, one at a time; `Batch.on_device` has them.
        prefetch: batches each worker keeps ready.
        start_method: how workers start; None is the default of the platform.

    Raises:
        TrainingError: a negative number of workers, or no prefetch.
    """
    if workers < 0 or (workers > 0 and prefetch < 1):
        raise TrainingError(f"workers must be 0 or more and prefetch 1 or more, found {workers} and {prefetch}")
    return BatchLoader(dataset, sampler, augmentation or Augmentation(), seed, workers, device, prefetch, start_method)


class _Batches:
    """Asks for batches, `under_way` of them at any time, and gives them in order.

    No generator, which could not be closed while a thread is inside.
    """

    def __init__(
        self, order: Iterator[SampledBatch], workers: BatchWorkers | _NoWorkers, memory: BatchMemory, under_way: int
    ) -> None:
        self._order = order
        self._workers = workers
        self._memory = memory
        self._asked: deque[int] = deque()
        self._ask_for(under_way)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._asked:
            raise StopIteration
        bad_records = self._workers.result()
        batch = _take_out(self._asked.popleft(), bad_records, self._memory)
        self._ask_for(1)  # before this one is handed over, so that no worker waits for that
        return batch

    def _ask_for(self, count: int) -> None:
        for sampled in islice(self._order, count):
            slot = self._memory.take()
            self._memory.slots.indices[slot] = sampled.indices
            self._memory.slots.positions[slot] = sampled.positions
            self._asked.append(slot)
            self._workers.ask(slot)


class _NoWorkers:
    """Stands for `BatchWorkers` in the main process: fills a slot when its result is asked for."""

    def __init__(self, fill: Callable[[int], list[str]]) -> None:
        self._fill = fill
        self._asked: deque[int] = deque()

    def ask(self, slot: int) -> None:
        self._asked.append(slot)

    def result(self) -> list[str]:
        return self._fill(self._asked.popleft())


def _take_out(slot: int, bad_records: list[str], memory: BatchMemory) -> Batch:
    slots = memory.slots
    small = (slots.labels, slots.positions, slots.flip)
    labels, positions, flip = (torch.from_numpy(array[slot].copy()) for array in small)  # before the slot may be free
    return Batch(memory.hand_out(slot), labels, positions, flip, bad_records)


class _Reader:
    """Fills a slot with the images it asks for; in a worker, or in the main process where there is none."""

    def __init__(self, dataset: FaceDataset, augmentation: Augmentation, seed: int, slots: BatchSlots) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.slots = slots

    def fill(self, slot: int) -> list[str]:
        """Read, decode and augment; returns a line for each bad record."""
        slots, augmentation = self.slots, self.augmentation
        positions = slots.positions[slot]
        min_area = augmentation.resized_crop
        crops = draw_resized_crops(min_area, self.seed, positions) if min_area else None
        images, slots.labels[slot] = self.dataset.load(slots.indices[slot], crops, slots.images[slot])
        if augmentation.changes_pixels:
            augment(augmentation, images, self.seed, positions)
        slots.flip[slot] = flip_mask(self.seed, positions) & augmentation.flip
        return self.dataset.take_bad_records()


def in_reading_order(sampler: PositionSampler, dataset: FaceDataset) -> Iterator[SampledBatch]:
    """The batches of a sampler; with a block shuffle each window of images is read ahead of its use."""
    reads_ahead = sampler.block_shuffle is not None and isinstance(dataset, ReadsAhead)
    asked_for = -1  # windows up to this one
    for sampled in sampler:
        if reads_ahead:
            here = sampler.windows_of(int(sampled.positions[0]), int(sampled.positions[-1]))
            asked_for = max(asked_for, here.start - 1)
            while asked_for < here.stop:  # the one after these as well: it is read while they are trained on
                asked_for += 1
                for stretch in sampler.stretches_of(asked_for):
                    dataset.read_ahead(*stretch)  # type: ignore[attr-defined]  # asked above
        yield sampled
