"""Batches for the trainer: read, decoded and augmented by worker processes, a whole batch at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from facekd.data.batch_memory import BatchMemory, as_array
from facekd.data.crops import draw_resized_crops
from facekd.data.datasets import FaceDataset
from facekd.data.decoding import one_decoder_thread, quiet_decoders
from facekd.data.read_ahead import ReadsAhead
from facekd.data.sampler import PositionSampler, SampledBatch
from facekd.data.transforms import Augmentation, augment, flip_mask
from facekd.errors import FacekdError


class LoaderError(FacekdError):
    """The workers of a loader died, or were asked for in a way that cannot work."""


class Batch(NamedTuple):
    """One rank's images of one step, on the CPU. B images, S image size."""

    images: torch.Tensor  # (B, S, S, 3) uint8 RGB, augmented but not flipped
    labels: torch.Tensor  # (B,) int64
    positions: torch.Tensor  # (B,) int64, 0-based places in the run
    flip: torch.Tensor  # (B,) bool: mirror these on the device (`to_model_input`)
    bad_records: list[str]  # one line for each bad record that another image stands in for


class BatchLoader:
    """Iterates over the batches of a sampler; made by `make_loader`.

    Images lie in memory that is used again: once nobody holds a batch, nor a view of its images, another is written
    there. Whoever keeps many makes the later ones slower, and nothing else.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        sampler: PositionSampler,
        augmentation: Augmentation,
        seed: int,
        workers: int,
        pin_memory: bool,
        prefetch: int,
        start_method: str | None,
    ) -> None:
        self.sampler = sampler
        self._dataset = dataset
        self._augmentation = augmentation
        self._seed = seed
        self._pin_memory = pin_memory
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
            LoaderError: a worker was killed.
        """
        size = self._dataset.image_size
        # What workers have under way, the batch handed out and the one before it, which the caller's loop still names.
        num_slots = self._workers * self._prefetch + 2
        memory = BatchMemory(num_slots, (self.sampler.batch_size_per_rank, size, size, 3), shared=self._workers > 0)
        loader = self._torch_loader(memory)
        with one_decoder_thread():
            batches = iter(loader)
        try:
            for filled in batches:
                if isinstance(filled, FacekdError):
                    raise filled
                yield self._to_batch(filled, memory)
                del filled
        except RuntimeError as error:
            # torch reports a worker that was killed as a bare RuntimeError.
            if "DataLoader worker" not in str(error):
                raise
            raise LoaderError(
                f"{error}. A worker that is killed has usually run out of memory, or of shared memory (/dev/shm; in a "
                "container, start it with --ipc=host or a larger --shm-size). Fewer workers, less prefetch or smaller "
                "batches need less of either"
            ) from error
        finally:
            # torch ends the workers when the iterator is collected, which a traceback through it can put off.
            end_workers = getattr(batches, "_shutdown_workers", None)
            if end_workers is not None:
                end_workers()

    def _torch_loader(self, memory: BatchMemory) -> DataLoader[Any]:
        workers = self._workers
        return DataLoader(
            _Reader(self._dataset, self._augmentation, self._seed, memory.slots, self._pin_memory),
            batch_sampler=_SlottedSampler(self.sampler, memory, self._dataset),  # type: ignore[arg-type]  # any iterable does
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # `__getitems__` gives the batch, not a list
            num_workers=workers,
            pin_memory=self._pin_memory,
            prefetch_factor=self._prefetch if workers else None,
            worker_init_fn=_start_worker if workers else None,
            multiprocessing_context=self._start_method if workers else None,
            # A generator of its own: torch would draw from the global one at each start and shift every later draw.
            generator=torch.Generator().manual_seed(0),
        )

    def _to_batch(self, filled: _Filled, memory: BatchMemory) -> Batch:
        images = filled.images
        if filled.slot is not None and images is None:
            images = memory.hold(filled.slot)
        elif filled.slot is not None:
            assert images is not None
            # Torch has copied it to page-locked memory; where there is no such device it has not, and we do.
            images = images if images.is_pinned() else images.clone()
            memory.give_back(filled.slot)
        assert images is not None
        return Batch(
            images=images,
            labels=torch.from_numpy(filled.labels),
            positions=torch.from_numpy(filled.positions),
            flip=torch.from_numpy(filled.flip),
            bad_records=filled.bad_records,
        )


def make_loader(
    dataset: FaceDataset,
    sampler: PositionSampler,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
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
        pin_memory: place batches in page-locked memory, for `.to(device, non_blocking=True)`.
        prefetch: batches each worker keeps ready.
        start_method: how workers start; None is the default of the platform.

    Raises:
        LoaderError: a negative number of workers, or no prefetch.
    """
    if workers < 0 or (workers > 0 and prefetch < 1):
        raise LoaderError(f"workers must be 0 or more and prefetch 1 or more, found {workers} and {prefetch}")
    return BatchLoader(
        dataset, sampler, augmentation or Augmentation(), seed, workers, pin_memory, prefetch, start_method
    )


class _Filled(NamedTuple):
    """What comes back from a worker. Arrays, for of a tensor torch would send a file descriptor."""

    slot: int | None  # where in the memory the images are
    images: torch.Tensor | None  # themselves, where they are in no slot, or torch is to copy them out of it
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    flip: NDArray[np.bool_]
    bad_records: list[str]


class _SlottedSampler:
    """Gives each batch a slot to be decoded into; in the main process, just before a worker is sent the batch."""

    def __init__(self, sampler: PositionSampler, memory: BatchMemory, dataset: FaceDataset) -> None:
        self.sampler = sampler
        self.memory = memory
        self.dataset = dataset

    def __iter__(self) -> Iterator[tuple[SampledBatch, int | None]]:
        reads_ahead = self.sampler.block_shuffle is not None and isinstance(self.dataset, ReadsAhead)
        asked_for = -1  # windows up to this one
        for sampled in self.sampler:
            if reads_ahead:
                here = self.sampler.windows_of(int(sampled.positions[0]), int(sampled.positions[-1]))
                asked_for = max(asked_for, here.start - 1)
                while asked_for < here.stop:  # the one after these as well: it is read while they are trained on
                    asked_for += 1
                    for stretch in self.sampler.stretches_of(asked_for):
                        self.dataset.read_ahead(*stretch)  # type: ignore[attr-defined]  # asked above
            yield sampled, self.memory.take()


class _Reader(Dataset[Any]):
    """Fills slots with the images of a `SampledBatch`, in a worker."""

    def __init__(
        self, dataset: FaceDataset, augmentation: Augmentation, seed: int, slots: torch.Tensor, sends_images: bool
    ) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.slots = slots
        self.sends_images = sends_images

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, asked: tuple[SampledBatch, int | None]) -> _Filled | FacekdError:
        try:
            return self._read(*asked)
        except FacekdError as error:
            # Returned and raised again in the main process: torch would bury the message in a worker's traceback.
            return error

    def _read(self, sampled: SampledBatch, slot: int | None) -> _Filled:
        min_area = self.augmentation.resized_crop
        crops = draw_resized_crops(min_area, self.seed, sampled.positions) if min_area else None
        images, labels = self.dataset.load(sampled.indices, crops, as_array(self.slots, slot))
        if self.augmentation.changes_pixels:
            augment(self.augmentation, images, self.seed, sampled.positions)
        flip = flip_mask(self.seed, sampled.positions) & self.augmentation.flip
        sent = None
        if slot is None:
            sent = torch.from_numpy(images)
        elif self.sends_images:
            sent = self.slots[slot]  # a view of memory that the main process has: what travels is where
        return _Filled(slot, sent, labels, sampled.positions, flip, self.dataset.take_bad_records())


def _as_it_is(filled: _Filled | FacekdError) -> _Filled | FacekdError:
    return filled


def _start_worker(worker: int) -> None:
    quiet_decoders()
    # Ctrl-C reaches every process of the terminal; the main one ends the workers, without a traceback from each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A batch system sends SIGTERM to every process as well; the main one still needs batches until it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def usable_cores() -> int:
    """CPU cores this process may run on, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
