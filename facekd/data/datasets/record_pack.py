"""Finds the images, identities and labels in a RecordIO file.

There are two layouts. InsightFace's has, besides the images, a header record under key 0 and one empty record for each
identity; im2rec's holds images only. `docs/formats.md` has the details and their sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facekd.data.datasets.class_counts import ClassCounts, count_classes, warn_of_one_class
from facekd.data.datasets.record_layout import Layout, count_runs, find_layout
from facekd.data.recordio import RecordReader
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS, are_labels, unpack_labelled
from facekd.data.recordio.headers import RecordHeaders, gather_headers, read_headers
from facekd.data.recordio.index import MIN_ROWS
from facekd.errors import DataError, RecordError
from facekd.files.array_cache import load_cached, save_cached
from facekd.files.reading import read_text_file, require_regular_file, stamp_of
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted

PROPERTY = re.compile(r"(?P<num_classes>-?\d{1,18})\s*,\s*(?P<height>-?\d{1,18})\s*,\s*(?P<width>-?\d{1,18})")
KEY_AND_PATH = re.compile(r"\d+\t[^\t]*/[^\t]+")  # a line of a list that says whose image a record is


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
        self.property: dict[str, Any] | None = read_property(reader.rec_path.parent / "property", self.warnings)
        if reader.index.source is None:
            self.warnings.append(f"no .idx; the file was scanned (`facekd data index {reader.rec_path}` writes one)")
        if reader.num_beyond_end:
            self.warnings.append(
                f"the .rec is truncated: {counted(reader.num_beyond_end, 'record lies', 'records lie')} beyond its end"
            )
        num_repeated = len(reader) - reader.num_distinct_keys
        if num_repeated:
            self.warnings.append(
                f"{counted(num_repeated, 'key occurs', 'keys occur')} more than once in the .idx; each row counts as "
                "a record"
            )
        # Tell images from other records.
        self._layout = find_layout(reader, self.warnings)
        self._image_rows, self._declared_classes = self._layout.image_rows, self._layout.declared_classes
        if len(self._image_rows) == 0:
            raise RecordError(f"{reader.rec_path} holds no images")
        self._check_property()

    def __reduce__(self) -> tuple[type[RecordPack], tuple[RecordReader, str]]:
        # A worker finds the rows again from the index it maps, which is faster than sending them.
        return RecordPack, (self.reader, self.on_bad_record)

    @property
    def layout(self) -> Layout:
        return self._layout.name

    @property
    def num_images(self) -> int:
        return len(self._image_rows)

    def __len__(self) -> int:
        return self.num_images

    def __repr__(self) -> str:
        return f"RecordPack({str(self.reader.rec_path)!r}, {self.layout}, {counted(self.num_images, 'image')})"

    @cached_property
    def image_keys(self) -> np.ndarray:
        return np.asarray(self.reader.keys)[self._image_rows]

    @cached_property
    def identity_keys(self) -> np.ndarray:
        return np.asarray(self.reader.keys)[self._layout.identity_rows]

    @cached_property
    def num_classes(self) -> int:
        """The number of identities: declared by an InsightFace pack or `property`, else the highest label plus one."""
        if self._layout.num_appended:
            return max(self._declared_classes or 0, int(self.labels().max()) + 1)
        if self._declared_classes:
            return self._declared_classes
        if self.property is not None:
            return int(self.property["num_classes"])
        return int(self.labels().max()) + 1

    @cached_property
    def class_counts(self) -> ClassCounts:
        """How many classes there are, and how many have images."""
        return count_classes(self.labels(), self.num_classes)

    def class_warnings(self) -> list[str]:
        """Returns sentences for people about classes without images, or a single class."""
        counts, path = self.class_counts, self.reader.rec_path
        num_runs = count_runs(self.reader, self._layout) if counts.num_present < counts.num_classes else 0
        if counts.num_present < 2 or num_runs <= counts.num_present:
            return class_warnings(counts, path, self.advice_on_one_class)
        return [
            f"{counted(num_runs, 'identity record')} stand for the images of {counted(counts.num_present, 'person')}, "
            "a record for each run of images of a person: the pack was made of a list that does not keep a person's "
            f"images together. {counted(counts.num_classes, 'class')} would be trained; `facekd data convert {path} "
            "OUT --renumber` groups them"
        ]

    def advice_on_one_class(self) -> str:
        """Returns a sentence on what to do if all images have one label."""
        return advice_on_one_class(self.reader.rec_path)

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
        if not (0 <= label < EXACT_FLOAT32_INTEGERS and label.is_integer()):
            raise self._bad_record(
                row,
                f"its label is {label}, and labels are whole numbers from 0 to {EXACT_FLOAT32_INTEGERS - 1:,}, beyond "
                "which float32 rounds",
            )
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
        is_sound &= are_labels(labels)
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
        found = None if cached is None else cached[1]["labels"]
        if found is not None and found.shape == (self.num_images,) and are_labels(found).all():
            return found
        labels = self.labels_from(self.headers())
        if self.num_images >= MIN_ROWS and (labels >= 0).all():
            save_cached(cache, source, {"labels": labels})
        return labels

    def labels_from(self, headers: RecordHeaders) -> np.ndarray:
        """Returns what `labels` returns, from the result of `headers()`."""
        first = headers.labels
        is_valid = headers.is_readable & ~headers.is_empty & are_labels(first)
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
        message = (
            f"{len(images):,} of {counted(self.num_images, 'image record')} {agreeing(len(images), 'is', 'are')} "
            f"unusable, first: {first}"
        )
        if self.on_bad_record == "fail":
            raise RecordError(
                f"{message}. Repair the file, or go on without such records "
                "by --on-bad-record skip (in training: --data.on_bad_record skip)",
                key=first.key,
                offset=first.offset,
            )
        self.warnings.append(message)

    def _check_property(self) -> None:
        if self.property is None or not self._declared_classes:
            return
        if self.property["num_classes"] != self._declared_classes:
            self.warnings.append(
                f"`property` says {counted(self.property['num_classes'], 'class')} and the records "
                f"{self._declared_classes:,}"
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


def class_warnings(counts: ClassCounts, path: Path, advice_on_one: Callable[[], str]) -> list[str]:
    """Returns sentences about classes of the data at `path` that have no image, or about a single class."""
    num_empty = counts.num_classes - counts.num_present
    if counts.num_present < 2 or not num_empty:
        return warn_of_one_class(counts, advice_on_one)
    announced = counts.num_classes > counts.largest + 1
    why = ", and `property` or the identity records announce more classes" if announced else ""
    return [
        f"{num_empty:,} of {counted(counts.num_classes, 'class')} {agreeing(num_empty, 'has', 'have')} no image "
        f"(labels go up to {counts.largest:,}{why}): right for part of a larger set; else `facekd data convert {path} "
        "OUT --renumber` makes the labels consecutive"
    ]


def advice_on_one_class(path: Path) -> str:
    """Returns a sentence on what to do if all images of a pack have one label; `path` is its file or a shard's."""
    found = find_key_list(path.parent)
    if found is None:
        return f"Add images of others, or mend the labels; `facekd data inspect {path}` shows what is in the pack"
    return (
        f"{found} seems to say who is on the image of each record; `facekd data convert {path} OUT --labels-from "
        f"{found}` makes a pack with labels from its folders"
    )


def find_key_list(folder: Path) -> Path | None:
    """Returns the text file beside a pack that has lines of `key<tab>folder/image`, as DCFace's list.txt; or None."""
    for path in sorted(file for file in folder.iterdir() if file.suffix in (".txt", ".tsv") and file.is_file()):
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            if KEY_AND_PATH.match(stream.readline(1000)):
                return path
    return None


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
    found = PROPERTY.fullmatch(line)
    if found is None:
        warnings.append(f"`property` should read num_classes,height,width and reads '{shown(line, 60)}'")
        return None
    return {name: int(number) for name, number in found.groupdict().items()}
