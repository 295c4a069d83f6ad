"""Reads labelled images from record packs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.encoded_dataset import Encoded, EncodedDataset
from facekd.data.datasets.face_dataset import OnBadRecord
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.datasets.sharded_records import ShardedRecords, find_shards
from facekd.data.recordio.read_ahead import read_ahead


class RecordDataset(EncodedDataset):
    """Reads a RecordIO pack in InsightFace or im2rec layout, without mxnet.

    Args:
        path: a folder that holds train.rec or the shards of a data set, or a .rec file.
        image_size: S, side in pixels.
        on_bad_record: see `EncodedDataset`; with "skip", records whose headers are lost (the end of a truncated file,
            an overwritten part) are left out of the data set, and `warnings` says how many.
        resize: see `EncodedDataset`.
        center_crop: see `EncodedDataset`.

    Raises:
        DataError: labels do not fit the number of classes, there are too many of those for the images (see
            `ClassCounts`), or images have another size.
        RecordError: there is no pack, or it is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_size: int,
        on_bad_record: OnBadRecord = "fail",
        resize: bool = False,
        center_crop: float = 0.0,
    ) -> None:
        self.pack: ShardedRecords | RecordPack = (
            ShardedRecords(path, on_bad_record) if find_shards(path) else open_record_pack(path, on_bad_record)
        )
        super().__init__(str(path), image_size, self.pack.num_classes, on_bad_record, resize, center_crop)
        is_usable = self.pack.labels() >= 0
        # The images of the pack that are in the data set; None, which costs nothing, if all are.
        self._kept = None if is_usable.all() else np.flatnonzero(is_usable)
        self.check()
        self.pack.class_counts.check(self.name, self.advice_on_labels())
        self.warnings: list[str] = [*self.pack.warnings, *self.pack.class_warnings()]

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`. The pack keeps them; a worker reads its own instead of being sent them."""
        labels = self.pack.labels()
        return labels if self._kept is None else labels[self._kept]

    def __len__(self) -> int:
        return self.pack.num_images if self._kept is None else len(self._kept)

    def read_encoded(self, index: int) -> tuple[bytes, int]:
        """See `EncodedDataset.read_encoded`."""
        return self.pack.read_image(self._in_pack(index))

    def read_many(self, indices: NDArray[np.int64]) -> tuple[Sequence[Encoded], NDArray[np.int64]]:
        """See `EncodedDataset.read_many`: returns views of the mapped file, without copying."""
        return self.pack.read_images(indices if self._kept is None else self._kept[indices])

    def read_ahead(self, first: int, end: int) -> None:
        """See `facekd.data.recordio.read_ahead`."""
        images = np.arange(first, end) if self._kept is None else self._kept[first:end]
        for place in self.pack.locations(images):
            read_ahead(*place)

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return self.pack.describe_image(self._in_pack(index))

    def images_in_pack(self) -> NDArray[np.int64]:
        """Returns for each image (N,) of the data set its number in the pack."""
        return np.arange(self.pack.num_images) if self._kept is None else self._kept

    def _in_pack(self, index: int) -> int:
        return index if self._kept is None else int(self._kept[index])

    def advice_on_labels(self) -> str:
        """See `EncodedDataset.advice_on_labels`."""
        source = "of the highest label, plus one"
        if len(self.pack.identity_keys):
            source = "of the pack's identity records"
        elif self.pack.property is not None:
            source = "in the `property` file beside it"
        return (
            f"The number of classes, {self.num_classes:,}, is that {source}: correct it there, or make the pack again "
            f"(`facekd data convert {self.name} OUT --renumber` makes the labels consecutive); `facekd data inspect "
            f"{self.name}` shows what is in it"
        )

    def advice_on_one_class(self) -> str:
        """See `EncodedDataset.advice_on_one_class`."""
        return self.pack.advice_on_one_class()
