"""Reads several `.rec` files of one data set, `train-00000-of-00008.rec` to `train-00007-of-00008.rec`, as one."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facekd.data.datasets.class_counts import ClassCounts, count_classes
from facekd.data.datasets.record_pack import (
    RecordPack,
    advice_on_one_class,
    class_warnings,
    open_record_pack,
    read_property,
)
from facekd.errors import RecordError
from facekd.files.reading import allow_open_files
from facekd.utils.wording import agreeing, counted

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.rec")


def shard_path(folder: Path, number: int, count: int, stem: str = "train") -> Path:
    """Returns the path of a shard."""
    return folder / f"{stem}-{number:05d}-of-{count:05d}.rec"


def find_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the shards in a folder in order; none if it holds other `.rec` files or is not a folder.

    Raises:
        RecordError: some of the shards are missing, or those of two data sets lie together.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.rec")) if folder.is_dir() else []
    matches = [SHARD.fullmatch(file.name) for file in files if not file.name.startswith(".")]
    found = [match for match in matches if match is not None]
    if not found or len(found) != len(matches):
        return []
    sets = {(match["stem"], int(match["count"])) for match in found}
    if len(sets) > 1:
        raise RecordError(
            f"{folder} holds shards of {counted(len(sets), 'data set')}: {sorted(sets)}; keep one in the folder"
        )
    stem, count = next(iter(sets))
    missing = sorted(set(range(count)) - {int(match["number"]) for match in found})
    if missing:
        raise RecordError(
            f"{folder}: {len(missing)} of {counted(count, 'shard')} {agreeing(len(missing), 'is', 'are')} missing, "
            f"first {shard_path(folder, missing[0], count, stem).name}"
        )
    return [shard_path(folder, number, count, stem) for number in range(count)]


class ShardedRecords:
    """Numbers the images of all shards from 0 to N-1, shard by shard; it is used like a `RecordPack`.

    Args:
        folder: the folder of the shards, with the `property` file of the whole.
        on_bad_record: see `open_record_pack`.

    Raises:
        RecordError: there are no shards, some are missing, or one is damaged.
        DataError: there are more than the system lets a process open.
    """

    def __init__(self, folder: str | os.PathLike[str], on_bad_record: Literal["fail", "skip"] = "fail") -> None:
        self.folder: Path = Path(folder)
        self.on_bad_record: Literal["fail", "skip"] = on_bad_record
        paths = find_shards(folder)
        if not paths:
            raise RecordError(f"{folder} holds no shards named train-00000-of-0000N.rec")
        # Each is open, and mapped with its index and its labels.
        allow_open_files(len(paths), str(folder), most_each=4)
        self.packs: list[RecordPack] = [open_record_pack(path, on_bad_record) for path in paths]
        self._ends = np.cumsum([pack.num_images for pack in self.packs])
        self.property: dict[str, Any] | None = read_property(self.folder / "property", [])

    def __reduce__(self) -> tuple[type[ShardedRecords], tuple[Path, str]]:
        # A worker opens the shards again, as with a `RecordPack`.
        return ShardedRecords, (self.folder, self.on_bad_record)

    @property
    def num_images(self) -> int:
        return int(self._ends[-1])

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is unusual, each with the name of its shard."""
        return [f"{pack.reader.rec_path.name}: {what}" for pack in self.packs for what in pack.warnings]

    @property
    def identity_keys(self) -> np.ndarray:
        """An empty array: shards hold images only."""
        return np.zeros(0, dtype=np.int64)

    @cached_property
    def num_classes(self) -> int:
        """The number of identities: as `property` says, else the highest label plus one."""
        if self.property is not None:
            return int(self.property["num_classes"])
        return int(self.labels().max()) + 1

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.concatenate([pack.labels() for pack in self.packs])

    @cached_property
    def class_counts(self) -> ClassCounts:
        """See `RecordPack.class_counts`."""
        return count_classes(self.labels(), self.num_classes)

    def class_warnings(self) -> list[str]:
        """See `RecordPack.class_warnings`."""
        return class_warnings(self.class_counts, self.folder, self.advice_on_one_class)

    def advice_on_one_class(self) -> str:
        """See `RecordPack.advice_on_one_class`."""
        return advice_on_one_class(self.packs[0].reader.rec_path)

    def labels(self) -> np.ndarray:
        """See `RecordPack.labels`."""
        return self._labels

    def read_image(self, image: int) -> tuple[bytes, int]:
        """See `RecordPack.read_image`."""
        shard, number = self.locate(image)
        return self.packs[shard].read_image(number)

    def read_images(self, images: np.ndarray) -> tuple[list[memoryview], np.ndarray]:
        """See `RecordPack.read_images`."""
        # Check here: a negative number would be found in the first shard.
        images = np.asarray(images, dtype=np.int64)
        if len(images) and not (images.min() >= 0 and images.max() < self.num_images):
            raise IndexError(f"images {images.min()} to {images.max()} of {self.num_images}")
        shards = np.searchsorted(self._ends, images, side="right")
        # Read from each shard what it has, and put it back in the order asked for.
        encoded = [memoryview(b"")] * len(images)
        labels = np.empty(len(images), dtype=np.int64)
        for shard in np.unique(shards).tolist():
            slots = np.flatnonzero(shards == shard)
            first = int(self._ends[shard - 1]) if shard else 0
            found, labels[slots] = self.packs[shard].read_images(images[slots] - first)
            for slot, image in zip(slots.tolist(), found, strict=True):
                encoded[slot] = image
        return encoded, labels

    def locations(self, images: np.ndarray) -> list[tuple[Path, np.ndarray, np.ndarray]]:
        """See `RecordPack.locations`."""
        shards = np.searchsorted(self._ends, images, side="right")
        firsts = np.r_[0, self._ends]
        return [
            place
            for shard in np.unique(shards).tolist()
            for place in self.packs[shard].locations(images[shards == shard] - firsts[shard])
        ]

    def will_read(self, images: np.ndarray) -> None:
        """See `RecordPack.will_read`."""
        images = np.asarray(images, dtype=np.int64)
        shards = np.searchsorted(self._ends, images, side="right")
        for shard in np.unique(shards).tolist():
            first = int(self._ends[shard - 1]) if shard else 0
            self.packs[shard].will_read(images[shards == shard] - first)

    def describe_image(self, image: int) -> str:
        """See `RecordPack.describe_image`."""
        shard, number = self.locate(image)
        return self.packs[shard].describe_image(number)

    def locate(self, image: int) -> tuple[int, int]:
        """Returns which shard holds image number `image`, and its number there."""
        if not 0 <= image < self.num_images:
            raise IndexError(f"image {image} of {self.num_images}")
        shard = int(np.searchsorted(self._ends, image, side="right"))
        return shard, image - (int(self._ends[shard - 1]) if shard else 0)
