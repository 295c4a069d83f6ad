"""Reads the images of a data set once, in order and without augmentation, to embed or classify all of them."""

from __future__ import annotations

from collections.abc import Iterator

from facekd.data.datasets import FaceDataset
from facekd.data.loading.batch import Batch
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import DatasetOrder
from facekd.data.loading.sampler import PositionSampler
from facekd.images.augmentation import Augmentation


def read_in_order(dataset: FaceDataset, start: int, stop: int, batch_size: int, workers: int) -> Iterator[Batch]:
    """Yields images `start` to `stop` in batches, the last of which may be smaller.

    Args:
        dataset: the data set, with at least one image.
        start: the first image.
        stop: one past the last image.
        batch_size: images per batch.
        workers: reading processes; 0 reads in this process.

    Yields:
        Batches whose positions are the numbers of the images; their memory is not reused.
    """
    sampler = PositionSampler(DatasetOrder(len(dataset)), batch_size, images_seen=start, total_images=stop)
    for batch in make_loader(dataset, sampler, Augmentation(flip=False), workers=workers):
        keep = batch.positions < stop  # the sampler fills the last batch from the start again
        yield Batch(batch.images[keep], batch.labels[keep], batch.positions[keep], batch.flip[keep], batch.bad_records)
