"""Reads the image headers of many records at once, without reading the images."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from facekd.data.recordio import RecordReader
from facekd.data.recordio.format import (
    FRAME_SIZE,
    IMAGE_HEADER,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    WHOLE,
    first_label,
    unpack,
)
from facekd.errors import RecordError
from facekd.utils.progress import track

ROWS_CHUNK = 1 << 16


@dataclass(frozen=True)
class RecordHeaders:
    """Holds the headers of N records.

    Attributes:
        labels: float64 (N,), the label, or element 0 of the label array; NaN if the record is unreadable.
        num_labels: int64 (N,), the flag of the header: 0 for a scalar label, else the length of the label array.
        image_sizes: int64 (N,), bytes of the encoded image.
        is_readable: bool (N,), whether frame and header are sound and the record ends within the file.
    """

    labels: np.ndarray
    num_labels: np.ndarray
    image_sizes: np.ndarray
    is_readable: np.ndarray

    @property
    def is_empty(self) -> np.ndarray:
        """Whether the record has a header and no image, bool (N,)."""
        return self.is_readable & (self.image_sizes == 0)


def read_headers(reader: RecordReader, offsets: np.ndarray, keys: np.ndarray) -> RecordHeaders:
    """Reads the headers of records in one pass, in the order of the file, and shows the progress.

    Args:
        reader: reader of the file.
        offsets: int64 (N,), byte offsets of the records.
        keys: int64 (N,), their keys, for messages about records that have to be read one by one.
    """
    size = reader.rec_path.stat().st_size // 4 * 4
    # The file is mapped: one page per record is touched, and the rest is not read.
    words = np.memmap(reader.rec_path, dtype="<u4", mode="r", shape=(size // 4,))
    headers = RecordHeaders(
        labels=np.full(len(offsets), np.nan),
        num_labels=np.zeros(len(offsets), dtype=np.int64),
        image_sizes=np.zeros(len(offsets), dtype=np.int64),
        is_readable=np.zeros(len(offsets), dtype=bool),
    )
    # Block by block: ordinary records all at once, the others one by one.
    order = np.argsort(offsets, kind="stable")
    starts = range(0, len(order), ROWS_CHUNK)
    for start in track(starts, f"reading labels of {reader.rec_path.name}", len(order), ROWS_CHUNK):
        rows = order[start : start + ROWS_CHUNK]
        rows = rows[offsets[rows] + FRAME_SIZE + IMAGE_HEADER.size <= size]  # nothing of the others is in the file
        is_unusual = _read_block(words, rows, offsets[rows], headers)
        for row in rows[is_unusual].tolist():
            _read_one(reader, row, int(offsets[row]), int(keys[row]), headers)
    return headers


def _read_block(words: np.ndarray, rows: np.ndarray, offsets: np.ndarray, headers: RecordHeaders) -> np.ndarray:
    """Fills `rows` of `headers` for ordinary records; returns which rows are not ordinary, bool (rows,)."""
    found, _ = gather_headers(words, offsets)
    filled = rows[found.is_readable]
    for ours, theirs in zip(vars(headers).values(), vars(found).values(), strict=True):
        ours[filled] = theirs[found.is_readable]
    return ~found.is_readable


def gather_headers(words: np.ndarray, offsets: np.ndarray) -> tuple[RecordHeaders, np.ndarray]:
    """Reads the headers of ordinary records, those in one part; split or damaged ones count as unreadable.

    Args:
        words: the file as uint32, (bytes / 4,).
        offsets: int64 (N,), multiples of 4.

    Returns:
        `(headers, ends)`: the image, if there is one, is the last `image_sizes` bytes before `ends`, int64 (N,).
    """
    positions = offsets // 4

    def at(place: np.ndarray) -> np.ndarray:
        return words.take(place, mode="clip")  # beyond the end any word will do, because such a record is unreadable

    # The words of a record: magic number, length, then the image header: flag, label, ids.
    length_words = at(positions + 1)
    lengths = (length_words & LENGTH_MASK).astype(np.int64)
    flags = at(positions + 2).astype(np.int64)
    image_sizes = lengths - IMAGE_HEADER.size - 4 * flags
    ends = offsets + FRAME_SIZE + lengths
    is_ordinary = (at(positions) == MAGIC) & (length_words >> LENGTH_BITS == WHOLE)
    is_ordinary &= (image_sizes >= 0) & ((ends + 3) // 4 <= len(words))
    # The label is in the header, or, if there are several, right after it.
    labels = at(positions + np.where(flags > 0, 8, 3)).view("<f4").astype(np.float64)
    return RecordHeaders(labels, flags, image_sizes, is_ordinary), ends


def _read_one(reader: RecordReader, row: int, offset: int, key: int, headers: RecordHeaders) -> None:
    """Fills one row for a split or damaged record."""
    try:
        header, image_bytes = unpack(reader.read_at(offset, key=key))
    except (RecordError, struct.error):
        return
    headers.labels[row] = first_label(header)
    headers.num_labels[row] = header.flag
    headers.image_sizes[row] = len(image_bytes)
    headers.is_readable[row] = True
