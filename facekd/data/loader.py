"""Batches for the trainer: read, decoded and augmented by worker processes, a whole batch at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from facekd.data.crops import draw_resized_crops
from facekd.data.datasets import FaceDataset
from facekd.data.decoding import one_decoder_thread, quiet_decoders
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
    """Iterates over the batches of a sampler; made by `make_loader`."""

    def __init__(self, loader: DataLoader[Any], sampler: PositionSampler) -> None:
        self._loader = loader
        self.sampler = sampler

    def __len__(self) -> int:
        """Batches an iteration gives."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Start the workers and yield batches in order; the workers end with the iteration, however it ends.

        Raises:
            FacekdError: what a worker met, as if it had been raised here.
            LoaderError: a worker was killed.
        """
        with one_decoder_thread():
            batches = iter(self._loader)
        try:
            for batch in batches:
                if isinstance(batch, FacekdError):
                    raise batch
                yield batch
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
    loader = DataLoader(
        _Reader(dataset, augmentation or Augmentation(), seed),
        batch_sampler=sampler,  # type: ignore[arg-type]  # any iterable does
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # `__getitems__` gives the batch, not a list
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context=start_method if workers else None,
        # A generator of its own: torch would draw from the global one at each start and shift every later draw.
        generator=torch.Generator().manual_seed(0),
    )
    return BatchLoader(loader, sampler)


class _Reader(Dataset[Any]):
    """Turns a `SampledBatch` into a `Batch`, in a worker."""

    def __init__(self, dataset: FaceDataset, augmentation: Augmentation, seed: int) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, sampled: SampledBatch) -> Batch | FacekdError:
        try:
            return self._read(sampled)
        except FacekdError as error:
            # Returned and raised again in the main process: torch would bury the message in a worker's traceback.
            return error

    def _read(self, sampled: SampledBatch) -> Batch:
        min_area = self.augmentation.resized_crop
        if min_area:
            crops = draw_resized_crops(min_area, self.seed, sampled.positions)
            images, labels = self.dataset.load(sampled.indices, crops)
        else:
            images, labels = self.dataset.load(sampled.indices)
        if self.augmentation.changes_pixels:
            augment(self.augmentation, images, self.seed, sampled.positions)
        flip = flip_mask(self.seed, sampled.positions) & self.augmentation.flip
        return Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels),
            positions=torch.from_numpy(sampled.positions),
            flip=torch.from_numpy(flip),
            bad_records=self.dataset.take_bad_records(),
        )


def _as_it_is(batch: Batch | FacekdError) -> Batch | FacekdError:
    return batch


def _start_worker(worker: int) -> None:
    quiet_decoders()
    # Ctrl-C reaches every process of the terminal; the main one ends the workers, without a traceback from each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A batch system sends SIGTERM to every process as well; the main one still needs batches until it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def usable_cores() -> int:
    """CPU cores this process may run on, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
