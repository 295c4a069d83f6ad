"""Finds the images, identities and labels in a RecordIO file.

There are two layouts. InsightFace's has, besides the images, a header record under key 0 and one empty record for each
identity; im2rec's holds images only. `docs/formats.md` has the details and their sources.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facekd.data.recordio import RecordReader
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS, unpack, unpack_labelled
from facekd.data.recordio.headers import RecordHeaders, gather_headers, read_headers
from facekd.data.recordio.index import MIN_ROWS
from facekd.errors import DataError, RecordError
from facekd.utils.array_cache import load_cached, save_cached
from facekd.utils.files import read_text_file, require_regular_file, stamp_of

Layout = Literal["insightface", "im2rec"]


class RecordPack:
    """Numbers the images of a record file from 0 to N-1 and gives their labels; made by `open_record_pack`.

    Attributes:
        reader: the `RecordReader` of the file.
        layout: `"insightface"` or `"im2rec"`.
        image_keys: int64 (N,), keys of the image records in the order of the index.
        identity_keys: int64 (C,), keys of InsightFace's identity records; empty in an im2rec pack.
        property: `{"num_classes", "height", "width"}` of the `property` file beside it, or None.
        warnings: sentences for people about what is unusual; `labels()` may add more.
    """

    def __init__(self, reader: RecordReader, on_bad_record: Literal["fail", "skip"] = "fail") -> None:
        self.reader = reader
        self.on_bad_record = on_bad_record
        # Warn about what the index already shows.
        self.warnings: list[str] = list(reader.index.damage)
        self.property = read_property(reader.rec_path.parent / "property", self.warnings)
        if reader.index.source is None:
            self.warnings.append(f"no .idx; the file was scanned (`facekd data index {reader.rec_path}` writes one)")
        if reader.num_beyond_end:
            self.warnings.append(f"the .rec is truncated: {reader.num_beyond_end:,} records lie beyond its end")
        num_repeated = len(reader) - reader.num_distinct_keys
        if num_repeated:
            self.warnings.append(f"{num_repeated:,} keys occur more than once in the .idx; each row counts as a record")
        # Tell images from other records.
        self._is_header_lost = False
        self.layout: Layout
        self.layout, self._image_rows, self._identity_rows, self._declared_classes = self._find_layout()
        if len(self._image_rows) == 0:
            raise RecordError(f"{reader.rec_path} holds no images")
        self._check_property()

    def __reduce__(self) -> tuple[type[RecordPack], tuple[RecordReader, str]]:
        # A worker finds the rows again from the index it maps, which is faster than sending them.
        return RecordPack, (self.reader, self.on_bad_record)

    @property
    def num_images(self) -> int:
        return len(self._image_rows)

    def __len__(self) -> int:
        return self.num_images

    def __repr__(self) -> str:
        return f"RecordPack({str(self.reader.rec_path)!r}, {self.layout}, {self.num_images:,} images)"

    @cached_property
    def image_keys(self) -> np.ndarray:
        return np.asarray(self.reader.keys)[self._image_rows]

    @cached_property
    def identity_keys(self) -> np.ndarray:
        return np.asarray(self.reader.keys)[self._identity_rows]

    @cached_property
    def num_classes(self) -> int:
        """The number of identities: declared by an InsightFace pack or `property`, else the highest label plus one."""
        if self._declared_classes:
            return self._declared_classes
        if self.property is not None:
            return int(self.property["num_classes"])
        return int(self.labels().max()) + 1

    def read_image(self, image: int) -> tuple[bytes, int]:
        """Returns the encoded bytes of image number `image`, and its label.

        Raises:
            RecordError: the record is damaged, holds no image, or its label is not a whole number from 0.
        """
        row = self._image_rows.item(image)
        try:
            label, image_bytes = unpack_labelled(self.reader.read_row(row))
        except RecordError as error:
            if error.key is not None and error.offset is not None:
                raise
            raise self._bad_record(row, str(error)) from error
        if not (label >= 0 and label.is_integer()):
            raise self._bad_record(row, f"its label is {label}, and labels are whole numbers from 0")
        if not image_bytes:
            raise self._bad_record(row, "it holds no image, only a header")
        return image_bytes, int(label)

    def read_images(self, images: np.ndarray) -> tuple[list[memoryview], np.ndarray]:
        """Returns what `read_image` returns, for images number `images`, int (B,), in a tenth of the time.

        Returns:
            `(encoded, labels)`: B views of the mapped file, so that nothing is copied (a split record is joined in new
            memory); they stay valid when the pack is closed. Labels are int64 (B,).

        Raises:
            RecordError: as `read_image`, for the first image that cannot be used.
        """
        # Read all headers at once from the mapped file.
        images = np.asarray(images, dtype=np.int64)
        rows = self._image_rows[images]
        index = self.reader.index
        offsets, extents = index.offsets[rows], index.extents[rows]
        content = self.reader.map_content(offsets, extents)
        words = np.frombuffer(content, dtype="<u4", count=len(content) // 4)
        headers, ends = gather_headers(words, offsets)
        labels, sizes = headers.labels, headers.image_sizes
        # Sound records are whole, as long as the index says, and have a label that is a whole number from 0.
        is_sound = headers.is_readable & (sizes > 0) & ((ends + 3) // 4 * 4 == offsets + extents)
        is_sound &= np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))
        starts = ends - sizes
        encoded = [content[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        if not is_sound.all():
            # Split, unusual or bad: read the record with every check, which says what is wrong.
            for slot in np.flatnonzero(~is_sound).tolist():
                image_bytes, labels[slot] = self.read_image(int(images[slot]))
                encoded[slot] = memoryview(image_bytes)
        return encoded, labels.astype(np.int64)

    def locations(self, images: np.ndarray) -> list[tuple[Path, np.ndarray, np.ndarray]]:
        """Returns where images (B,) are: for each file its path, offsets and lengths in bytes, int64, in any order."""
        rows = self._image_rows[images]
        return [(self.reader.rec_path, self.reader.index.offsets[rows], self.reader.index.extents[rows])]

    def will_read(self, images: np.ndarray) -> None:
        """Asks the system to read images number `images`, int (B,), from the disk together; does not wait."""
        rows = self._image_rows[np.asarray(images, dtype=np.int64)]
        self.reader.will_read(self.reader.index.offsets[rows], self.reader.index.extents[rows])

    def describe_image(self, image: int) -> str:
        """Returns `FILE: record KEY at offset N`, for messages about image number `image`."""
        row = int(self._image_rows[image])
        return (
            f"{self.reader.rec_path}: record {self.reader.keys[row]} at offset {int(self.reader.index.offsets[row]):,}"
        )

    def labels(self) -> np.ndarray:
        """Returns the labels of all images from their record headers, int64 (N,); they are cached on disk.

        Raises:
            RecordError: a record is damaged or its label is not a whole number from 0 (`on_bad_record="fail"`); with
                `"skip"` such an image has label -1.
        """
        return self._labels

    @cached_property
    def _labels(self) -> np.ndarray:
        rec_path = self.reader.rec_path
        cache, source = rec_path.with_suffix(".facekd-labels"), {"stamp": stamp_of(rec_path, self.reader.index.source)}
        cached = load_cached(cache, source)
        if cached is not None and cached[1]["labels"].shape == (self.num_images,):
            return cached[1]["labels"]
        labels = self.labels_from(self.headers())
        if self.num_images >= MIN_ROWS and (labels >= 0).all():
            save_cached(cache, source, {"labels": labels})
        return labels

    def labels_from(self, headers: RecordHeaders) -> np.ndarray:
        """Returns what `labels` returns, from the result of `headers()`."""
        first = headers.labels
        is_valid = headers.is_readable & ~headers.is_empty & np.isfinite(first) & (first >= 0)
        is_valid &= first == np.floor(first)
        if not is_valid.all():
            self._report_invalid(np.flatnonzero(~is_valid))
        return np.where(is_valid, first, -1).astype(np.int64)

    def headers(self) -> RecordHeaders:
        """Reads the headers of all image records in one pass over the file; row i is image i."""
        offsets = np.asarray(self.reader.index.offsets)[self._image_rows]
        return read_headers(self.reader, offsets, self.image_keys)

    def _report_invalid(self, images: np.ndarray) -> None:
        """Raises, or adds a warning, because images (by number) have no usable label."""
        try:
            self.read_image(int(images[0]))
        except RecordError as error:
            first = error
        else:
            raise AssertionError("an image with an invalid header was read without complaint")
        message = f"{len(images):,} of {self.num_images:,} image records are unusable, first: {first}"
        if self.on_bad_record == "fail":
            raise RecordError(
                f"{message}. Repair the file, or go on without such records "
                "by --on-bad-record skip (in training: --data.on_bad_record skip)",
                key=first.key,
                offset=first.offset,
            )
        self.warnings.append(message)

    def _find_layout(self) -> tuple[Layout, np.ndarray, np.ndarray, int | None]:
        """Returns the layout, the rows of images and of identity records, and the number of declared classes."""
        # Without a header record it is an im2rec pack, unless the header was lost at the end of the file.
        keys = np.asarray(self.reader.keys)
        every_row = np.arange(len(keys))
        head = self._header_record(keys)
        if head is None:
            is_identity = self._identities_without_header(keys)
            layout: Layout = "insightface" if is_identity.any() else "im2rec"
            return layout, every_row[~is_identity], every_row[is_identity], int(is_identity.sum()) or None
        # InsightFace: images come first, then the identity records.
        header_row, labels = head
        first_identity = self._first_identity_key(keys, float(labels[0]))
        is_image = keys < first_identity
        is_image[header_row] = False
        is_identity = keys >= first_identity
        num_identities = int(is_identity.sum())
        # Compare with what the header record says, as far as float32 can say it.
        declared = round(float(labels[1]) - float(labels[0])) if len(labels) > 1 else num_identities
        is_exact = len(labels) > 1 and labels[1] <= EXACT_FLOAT32_INTEGERS
        if num_identities and declared != num_identities and is_exact:
            self.warnings.append(
                f"the header record announces {declared:,} identity records and there are {num_identities:,}"
            )
        expected_images = first_identity - 1
        if int(is_image.sum()) != expected_images and labels[0] < EXACT_FLOAT32_INTEGERS:
            self.warnings.append(
                f"the header record announces {expected_images:,} images and there are {int(is_image.sum()):,}"
            )
        return "insightface", every_row[is_image], every_row[is_identity], num_identities or declared or None

    def _header_record(self, keys: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Returns row and labels of InsightFace's header record (key 0, with labels and no image); None without one."""
        rows = np.flatnonzero(keys == 0)
        if len(rows) == 0:
            return None
        try:
            header, image_bytes = unpack(self.reader.read_row(int(rows[-1])))
        except RecordError as error:
            self.warnings.append(f"the record under key 0 cannot be read, so the layout is a guess: {error}")
            self._is_header_lost = True
            return None
        if header.flag == 0 or image_bytes:
            return None
        labels = np.asarray(header.label)
        if not np.isfinite(labels).all() or labels[0] < 1:
            raise RecordError(
                f"{self.reader.rec_path}: the header record (key 0) should give the first identity key, and says "
                f"{labels.tolist()}",
                key=0,
            )
        return int(rows[-1]), labels

    def _identities_without_header(self, keys: np.ndarray) -> np.ndarray:
        """Returns which rows, bool, are identity records of a pack whose header record, written last, is lost."""
        if not self._is_header_lost:
            return np.zeros(len(keys), dtype=bool)
        headers = read_headers(self.reader, np.asarray(self.reader.index.offsets), keys)
        return headers.is_empty & (headers.num_labels == 2)

    def _first_identity_key(self, keys: np.ndarray, announced: float) -> int:
        """Returns the key of the first identity record.

        The header gives it in float32, which is exact only up to 2^24. Above, the records nearby are looked at: an
        identity record holds no image.
        """
        if announced < EXACT_FLOAT32_INTEGERS:
            return int(announced)
        near = np.unique(keys[np.abs(keys - announced) <= np.spacing(np.float32(announced)) + 1])
        for key in near.tolist():
            if not unpack(self.reader.read_view(key))[1]:
                return key
        return int(announced)

    def _check_property(self) -> None:
        if self.property is None or not self._declared_classes:
            return
        if self.property["num_classes"] != self._declared_classes:
            self.warnings.append(
                f"`property` says {self.property['num_classes']:,} classes and the records {self._declared_classes:,}"
            )

    def _bad_record(self, row: int, what: str) -> RecordError:
        key, offset = int(self.reader.keys[row]), int(self.reader.index.offsets[row])
        return RecordError(f"{self.reader.rec_path}: record {key} at offset {offset:,}: {what}", key=key, offset=offset)


def open_record_pack(path: str | os.PathLike[str], on_bad_record: Literal["fail", "skip"] = "fail") -> RecordPack:
    """Opens a data set in RecordIO.

    Args:
        path: a `.rec` file, or a folder that holds `train.rec` or a single `.rec` file.
        on_bad_record: `"fail"` refuses a truncated file; `"skip"` opens it, for readers that skip what cannot be read.

    Raises:
        RecordError: there is no data set at `path`; see `RecordReader` for what else is refused.
    """
    return RecordPack(RecordReader(find_rec(path), allow_truncated=on_bad_record == "skip"), on_bad_record)


def find_rec(path: str | os.PathLike[str]) -> Path:
    """Returns the `.rec` file that `path` names: itself, or the one in the folder.

    Raises:
        RecordError: there is none, or several and none is `train.rec`.
    """
    path = Path(path)
    require_regular_file(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise RecordError(f"{path}: no such file or folder; expected a .rec file, or a folder that holds one")
    if (path / "train.rec").is_file():
        return path / "train.rec"
    found = sorted(file for file in path.glob("*.rec") if not file.name.startswith("."))
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecordError(f"{path} holds no .rec file (`facekd data pack` makes one from folders of images)")
    names = ", ".join(file.name for file in found[:5])
    raise RecordError(f"{path} holds {len(found)} .rec files and none is train.rec; name one of them: {names}")


def read_property(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    """Reads the `property` file: `num_classes,height,width`. Lines that some tools add after it are ignored."""
    if not path.is_file():
        return None
    try:
        line = read_text_file(path).partition("\n")[0].strip()
    except DataError as error:
        warnings.append(str(error))
        return None
    try:
        num_classes, height, width = (int(number) for number in line.split(",")[:3])
    except ValueError:
        warnings.append(f"`property` should read num_classes,height,width and reads {line[:60]!r}")
        return None
    return {"num_classes": num_classes, "height": height, "width": width}
