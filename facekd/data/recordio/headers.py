"""The image headers of many records at once, without reading the images."""

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
    RecordError,
    first_label,
    unpack,
)
from facekd.progress import track

ROWS_PER_BLOCK = 1 << 16


@dataclass(frozen=True)
class RecordHeaders:
    """What N record headers say.

    Attributes:
        labels: float64 (N,), the label or element 0 of the label array; NaN where the record is unreadable.
        num_labels: int64 (N,), the header's flag: 0 for a scalar label, else the length of the label array.
        image_sizes: int64 (N,), bytes of encoded image.
        is_readable: bool (N,), the frame and the header are sound and the record ends within the file.
    """

    labels: np.ndarray
    num_labels: np.ndarray
    image_sizes: np.ndarray
    is_readable: np.ndarray

    @property
    def is_empty(self) -> np.ndarray:
        """bool (N,), the record has a header and no image."""
        return self.is_readable & (self.image_sizes == 0)


def read_headers(reader: RecordReader, offsets: np.ndarray, keys: np.ndarray) -> RecordHeaders:
    """Headers of the records at `offsets`, int64 (N,); one pass in file order, with progress.

    Args:
        keys: int64 (N,), for the records that have to be read one by one.
    """
    size = reader.rec_path.stat().st_size // 4 * 4
    # Mapped, so that a page per record is touched rather than the whole file read.
    words = np.memmap(reader.rec_path, dtype="<u4", mode="r", shape=(size // 4,))
    headers = RecordHeaders(
        labels=np.full(len(offsets), np.nan),
        num_labels=np.zeros(len(offsets), dtype=np.int64),
        image_sizes=np.zeros(len(offsets), dtype=np.int64),
        is_readable=np.zeros(len(offsets), dtype=bool),
    )
    order = np.argsort(offsets, kind="stable")
    starts = range(0, len(order), ROWS_PER_BLOCK)
    for start in track(starts, f"reading labels of {reader.rec_path.name}", len(order), ROWS_PER_BLOCK):
        rows = order[start : start + ROWS_PER_BLOCK]
        rows = rows[offsets[rows] + FRAME_SIZE + IMAGE_HEADER.size <= size]
        is_unusual = _read_block(words, rows, offsets[rows], headers)
        for row in rows[is_unusual].tolist():
            _read_one(reader, row, int(offsets[row]), int(keys[row]), headers)
    return headers


def _read_block(words: np.ndarray, rows: np.ndarray, offsets: np.ndarray, headers: RecordHeaders) -> np.ndarray:
    """Fill `rows` of `headers` for ordinary records; returns which rows are not, bool (rows,)."""
    positions = offsets // 4
    length_words = words[positions + 1]
    lengths = (length_words & LENGTH_MASK).astype(np.int64)
    flags = words[positions + 2].astype(np.int64)
    image_sizes = lengths - IMAGE_HEADER.size - 4 * flags
    ends = offsets + FRAME_SIZE + (lengths + 3) // 4 * 4
    is_ordinary = (words[positions] == MAGIC) & (length_words >> LENGTH_BITS == WHOLE)
    is_ordinary &= (image_sizes >= 0) & (ends <= 4 * len(words))
    # The label stands in the header, or, where there is an array, right after it.
    label_positions = np.where((flags > 0) & is_ordinary, positions + 8, positions + 3)
    labels = words[label_positions].view("<f4").astype(np.float64)
    filled = rows[is_ordinary]
    headers.labels[filled] = labels[is_ordinary]
    headers.num_labels[filled] = flags[is_ordinary]
    headers.image_sizes[filled] = image_sizes[is_ordinary]
    headers.is_readable[filled] = True
    return ~is_ordinary


def _read_one(reader: RecordReader, row: int, offset: int, key: int, headers: RecordHeaders) -> None:
    """Fill one row for a split or damaged record."""
    try:
        header, image_bytes = unpack(reader.read_at(offset, key=key))
    except (RecordError, struct.error):
        return
    headers.labels[row] = first_label(header)
    headers.num_labels[row] = header.flag
    headers.image_sizes[row] = len(image_bytes)
    headers.is_readable[row] = True
