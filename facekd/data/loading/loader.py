"""Loads batches for the trainer: worker processes read, decode and augment a whole batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import torch

from facekd.data.datasets import FaceDataset
from facekd.data.datasets.face_dataset import ReadsAhead
from facekd.data.loading.batch import Batch
from facekd.data.loading.batch_buffers import BatchBuffers, BatchSlots
from facekd.data.loading.batch_workers import BatchWorkers
from facekd.data.loading.gpu_prefetch import GpuPrefetcher
from facekd.data.loading.orders import BlockOrder
from facekd.data.loading.sampler import PositionSampler, SampledBatch
from facekd.errors import TrainingError
from facekd.images.augmentation import Augmentation, augment
from facekd.images.crops import draw_resized_crops
from facekd.images.model_input import flip_mask
from facekd.utils.processes.threads import generator_threads


class BatchLoader:
    """Iterates over the batches of a sampler; made by `make_loader`.

    The memory of a batch is reused when nobody holds the batch or a view of its images any more. Callers may keep as
    many batches as they like: when the memory runs out, later batches are copies.
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
        """Returns the number of batches in one iteration."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Starts the workers and yields batches in order; the workers end with the iteration, however it ends.

        Raises:
            FacekdError: an error in a worker, raised here as if it had happened here.
            WorkerError: a worker was killed, or has not answered for very long.
        """
        # Memory for the batches in progress, the one handed out, and the one before it, which the caller's loop
        # variable still holds.
        under_way = max(1, self._workers * self._prefetch)
        slots = BatchSlots(
            under_way + 2, self.sampler.batch_size_per_rank, self._dataset.image_size, shared=self._workers > 0
        )
        # What fills a slot, and in which order the batches come.
        reader = _Reader(self._dataset, self._augmentation, self._seed, slots)
        order = in_reading_order(self.sampler, self._dataset)
        memory = BatchBuffers(slots)
        # Without workers, a batch is read when it is asked for.
        if not self._workers:
            yield from self._finished(_Batches(order, _NoWorkers(reader.fill), memory, under_way))
            return
        with BatchWorkers(reader.fill, self._workers, self._start_method) as workers:
            yield from self._finished(_Batches(order, workers, memory, under_way))

    def _finished(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches; for a GPU, each is sent there while the one before it is in use."""
        if self._device is None or self._device.type != "cuda":
            yield from batches
            return
        # One batch ahead, in a thread: sending waits for the worker that still decodes.
        sender = GpuPrefetcher(self._device)
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
    """Makes a loader of a data set in the order of a sampler. Batches do not depend on the number of workers.

    Args:
        dataset: the images.
        sampler: decides which images are in which batch; its `images_seen` resumes a run.
        augmentation: augmentation of the images; None is `Augmentation()`, the flip alone.
        seed: random seed of the augmentation, 0 <= seed < 2**64.
        workers: number of processes that read; 0 reads in this one.
        device: device that will use the batches. A GPU gets them one ahead, in `Batch.on_device`.
        prefetch: number of batches that each worker keeps ready.
        start_method: how workers start; None is the default of the platform.

    Raises:
        TrainingError: the number of workers is negative, or `prefetch` is 0.
    """
    # Fail here, not in the first iteration.
    if workers < 0 or (workers > 0 and prefetch < 1):
        raise TrainingError(f"workers must be 0 or more and prefetch 1 or more, found {workers} and {prefetch}")
    return BatchLoader(dataset, sampler, augmentation or Augmentation(), seed, workers, device, prefetch, start_method)


class _Batches:
    """Requests batches, `under_way` of them at any time, and returns them in order.

    It is not a generator, because a generator cannot be closed while a thread runs inside it.
    """

    def __init__(
        self, order: Iterator[SampledBatch], workers: BatchWorkers | _NoWorkers, memory: BatchBuffers, under_way: int
    ) -> None:
        self._order = order
        self._workers = workers
        self._memory = memory
        # Slots of the requests that are not answered yet, oldest first.
        self._asked: deque[int] = deque()
        self._ask_for(under_way)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        # The sampler has come to its end, and so have the requests.
        if not self._asked:
            raise StopIteration
        # The oldest request is answered first.
        bad_records = self._workers.result()
        batch = _take_out(self._asked.popleft(), bad_records, self._memory)
        self._ask_for(1)  # before this batch is handed over, so that no worker waits meanwhile
        return batch

    def _ask_for(self, count: int) -> None:
        for sampled in islice(self._order, count):
            # The worker finds in the slot which images to read.
            slot = self._memory.take()
            self._memory.slots.indices[slot] = sampled.indices
            self._memory.slots.positions[slot] = sampled.positions
            self._asked.append(slot)
            self._workers.ask(slot)


class _NoWorkers:
    """Takes the place of `BatchWorkers` in the main process: fills a slot when its result is asked for."""

    def __init__(self, fill: Callable[[int], list[str]]) -> None:
        self._fill = fill
        self._asked: deque[int] = deque()

    def ask(self, slot: int) -> None:
        self._asked.append(slot)

    def result(self) -> list[str]:
        return self._fill(self._asked.popleft())


def _take_out(slot: int, bad_records: list[str], memory: BatchBuffers) -> Batch:
    """Returns the batch in a slot; the slot is free again when the batch is no longer held."""
    slots = memory.slots
    # Labels, positions and flips are copied now: the slot may be free as soon as the images are handed out.
    small = (slots.labels, slots.positions, slots.flip)
    labels, positions, flip = (torch.from_numpy(array[slot].copy()) for array in small)
    return Batch(memory.hand_out(slot), labels, positions, flip, bad_records)


class _Reader:
    """Fills a slot with the images it asks for, in a worker or, without workers, in the main process."""

    def __init__(self, dataset: FaceDataset, augmentation: Augmentation, seed: int, slots: BatchSlots) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.slots = slots

    def fill(self, slot: int) -> list[str]:
        """Reads, decodes and augments; returns one line for each bad record."""
        # Everything random is a function of the seed and the position in the run.
        slots, augmentation = self.slots, self.augmentation
        positions = slots.positions[slot]
        min_area = augmentation.resized_crop
        crops = draw_resized_crops(min_area, self.seed, positions) if min_area else None
        # Read and decode straight into the shared memory.
        images, slots.labels[slot] = self.dataset.load(slots.indices[slot], crops, slots.images[slot])
        # Augment the pixels here; mirroring is left to the device.
        if augmentation.changes_pixels:
            augment(augmentation, images, self.seed, positions)
        slots.flip[slot] = flip_mask(self.seed, positions) & augmentation.flip
        return self.dataset.take_bad_records()


def in_reading_order(sampler: PositionSampler, dataset: FaceDataset) -> Iterator[SampledBatch]:
    """Yields the batches of a sampler; with a block shuffle, requests each window of images before it is needed."""
    order = sampler.order
    asked_for = -1  # the last window requested
    for sampled in sampler:
        if isinstance(order, BlockOrder) and isinstance(dataset, ReadsAhead):
            # The windows that this batch reads: one, or two where it straddles their border.
            here = order.windows_of(int(sampled.positions[0]), int(sampled.positions[-1]))
            asked_for = max(asked_for, here.start - 1)
            while asked_for < here.stop:  # including the next window, which is read while these are trained on
                asked_for += 1
                for stretch in order.stretches_of(asked_for):
                    dataset.read_ahead(*stretch)
        yield sampled
