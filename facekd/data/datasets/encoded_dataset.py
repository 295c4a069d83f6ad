"""Checks and decodes images, for all data sets that hold them encoded."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import OnBadRecord
from facekd.errors import DataError, ImageError, ImageSizeError, RecordError, is_device_failure
from facekd.images.crops import ResizedCrop, cut_and_scale, middle_box
from facekd.images.decoding import decode_into, decode_rgb
from facekd.utils.wording import agreeing, counted

Encoded: TypeAlias = bytes | memoryview
# With "skip": this many bad images in a row mean that the whole file is broken.
MAX_BAD_IN_A_ROW = 100


class EncodedDataset(ABC):
    """Reads, decodes and checks images that are stored encoded; fails at bad ones or skips them.

    A subclass calls `check` when it is ready.

    Args:
        name: name for messages and logs.
        image_size: S, side in pixels.
        num_classes: number of classes; every label is below it.
        on_bad_record: "fail" raises at an image that cannot be read or decoded, or has another size; "skip" puts the
            next good image in its place, and records it for `take_bad_records`.
        resize: whether to scale images of another size to S x S instead of treating them as bad.
        center_crop: if it is not 0, images may have any size, and the square in the middle of each, this share of the
            shorter side, is scaled to S x S.

    Raises:
        DataError: an argument is out of range.
    """

    has_labels = True
    stand_ins: NDArray[np.int64] | None = None  # ascending, which images may take the place of a bad one; None: all

    def __init__(
        self,
        name: str,
        image_size: int,
        num_classes: int,
        on_bad_record: OnBadRecord,
        resize: bool,
        center_crop: float = 0.0,
    ) -> None:
        if on_bad_record not in ("fail", "skip"):
            raise DataError(f"on_bad_record must be fail or skip, found {on_bad_record!r}")
        if image_size < 1:
            raise DataError(f"image_size must be positive, found {image_size}")
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.on_bad_record: OnBadRecord = on_bad_record
        self.resize = resize
        self.center_crop = center_crop
        self.warnings: list[str] = []
        self._bad_records: list[str] = []

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""

    @abstractmethod
    def read_encoded(self, index: int) -> tuple[Encoded, int]:
        """Returns the encoded bytes of image `index` and its label.

        Raises:
            RecordError, OSError: they cannot be read.
        """

    def read_many(self, indices: NDArray[np.int64]) -> tuple[Sequence[Encoded], NDArray[np.int64]]:
        """Returns what `read_encoded` returns, for images (B,). Subclasses with a faster way for many override it.

        Raises:
            RecordError, OSError: one of them cannot be read.
        """
        found = [self.read_encoded(index) for index in indices.tolist()]
        return [encoded for encoded, _ in found], np.array([label for _, label in found], dtype=np.int64)

    @abstractmethod
    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""

    @abstractmethod
    def advice_on_labels(self) -> str:
        """Returns a sentence on labels and `num_classes` that do not fit: where the number is from, what to correct."""

    @abstractmethod
    def advice_on_one_class(self) -> str:
        """Returns a sentence on what to do if all images have one label."""

    def check(self) -> None:
        """Checks the labels of all images and the pixels of the first, so that errors come before the first batch.

        Raises:
            DataError: there are no images, a label is outside 0..num_classes-1 (the first such image is named), or
                `load` refuses the first image.
        """
        labels = self.labels
        if len(labels) == 0:
            raise DataError(f"{self.name} holds no images")
        is_outside = (labels < 0) | (labels >= self.num_classes)
        if is_outside.any():
            first, num_outside = int(is_outside.argmax()), int(is_outside.sum())
            raise DataError(
                f"{num_outside:,} of {counted(len(labels), 'label')} {agreeing(num_outside, 'is', 'are')} not from 0 "
                f"to {self.num_classes - 1}; the first is {labels[first]}, of {self.describe(first)}. "
                f"{self.advice_on_labels()}"
            )
        self.load(np.zeros(1, dtype=np.int64))
        self.take_bad_records()  # they will be read and counted again

    def __len__(self) -> int:
        return len(self.labels)

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See `FaceDataset.load`. The image that replaces a bad one depends on the number of the bad one alone.

        Raises:
            DataError: an image is bad with `on_bad_record="fail"`, or a hundred in a row with "skip".
        """
        # Read all of them; if one cannot be read, `_load_good` below reads them one by one.
        if out is None:
            out = np.empty((len(indices), self.image_size, self.image_size, 3), dtype=np.uint8)
        try:
            encoded, labels = self.read_many(indices)
        except (RecordError, OSError):
            encoded, labels = (), np.empty(len(indices), dtype=np.int64)
        # Decode, and remember the slots of those that fail.
        is_plain = crops is None and not self.center_crop
        bad = list(range(len(encoded), len(indices)))
        for slot, (data, image) in enumerate(zip(encoded, out, strict=False)):
            try:
                if is_plain:
                    decode_into(image, data, self.resize)
                else:
                    self._decode(data, image, crops[slot] if crops else None)
            except ImageError:
                bad.append(slot)
        # Raise for a bad image, or put another in its place.
        for slot in bad:
            labels[slot] = self._load_good(int(indices[slot]), out[slot], crops[slot] if crops else None)
        return out, labels

    def take_bad_records(self) -> list[str]:
        """See `FaceDataset.take_bad_records`."""
        taken, self._bad_records = self._bad_records, []
        return taken

    def _load_good(self, index: int, out: NDArray[np.uint8], crop: ResizedCrop | None = None) -> int:
        """Puts image `index`, or the next good one after it, into `out`; returns the label of the one taken."""
        for candidate in itertools.islice(self._with_stand_ins(index), MAX_BAD_IN_A_ROW):
            try:
                encoded, label = self.read_encoded(candidate)
                self._decode(encoded, out, crop)
            except (ImageError, RecordError, OSError) as error:
                problem = self._explain(candidate, error)
                if is_device_failure(error):
                    raise DataError(f"{problem}; look at the disk or the network mount") from error
                if self.on_bad_record == "fail":
                    raise DataError(f"{problem}{self._advice(error)}") from error
                self._bad_records.append(problem)
            else:
                return label
        raise DataError(
            f"{MAX_BAD_IN_A_ROW} images in a row cannot be used, so this is more than a few bad ones; the last: "
            f"{self._bad_records[-1]}"
        )

    def _with_stand_ins(self, index: int) -> Iterator[int]:
        """Yields an image, and then those that may take its place, the next one first, for ever."""
        yield index
        if self.stand_ins is None:
            yield from (other % len(self) for other in itertools.count(index + 1))
        else:
            place = int(np.searchsorted(self.stand_ins, index, "right"))
            yield from (int(self.stand_ins[other % len(self.stand_ins)]) for other in itertools.count(place))

    def _decode(self, encoded: Encoded, out: NDArray[np.uint8], crop: ResizedCrop | None) -> None:
        if crop is None and not self.center_crop:
            decode_into(out, encoded, self.resize)
            return
        image = decode_rgb(encoded)
        height, width = image.shape[:2]
        box = crop.box(height, width) if crop else middle_box(height, width, self.center_crop)
        out[:] = cut_and_scale(image, box, self.image_size)

    def _explain(self, index: int, error: Exception) -> str:
        if isinstance(error, RecordError):
            return str(error)  # it names the file, the key and the offset
        if isinstance(error, OSError):
            return f"{self.describe(index)}: {error.strerror or error}"
        return f"{self.describe(index)}: {error}"

    def _advice(self, error: Exception) -> str:
        if isinstance(error, ImageSizeError):
            return (
                f"; set the image size to that of the data, or have the data resized to {self.image_size} pixels. "
                "Photographs have to be aligned first, by `facekd data align` (for classification, data.center_crop "
                "takes images of any size)"
            )
        return "; to go on without such images, set on_bad_record to skip"
