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
    first_label,
    unpack,
)
from facekd.errors import RecordError
from facekd.utils.progress import track

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
        rows = rows[offsets[rows] + FRAME_SIZE + IMAGE_HEADER.size <= size]  # of the others nothing is there to read
        is_unusual = _read_block(words, rows, offsets[rows], headers)
        for row in rows[is_unusual].tolist():
            _read_one(reader, row, int(offsets[row]), int(keys[row]), headers)
    return headers


def _read_block(words: np.ndarray, rows: np.ndarray, offsets: np.ndarray, headers: RecordHeaders) -> np.ndarray:
    """Fill `rows` of `headers` for ordinary records; returns which rows are not, bool (rows,)."""
    found, _ = gather_headers(words, offsets)
    filled = rows[found.is_readable]
    for ours, theirs in zip(vars(headers).values(), vars(found).values(), strict=True):
        ours[filled] = theirs[found.is_readable]
    return ~found.is_readable


def gather_headers(words: np.ndarray, offsets: np.ndarray) -> tuple[RecordHeaders, np.ndarray]:
    """Headers of ordinary records, which are those in one part; a split or damaged one counts as unreadable.

    Args:
        words: the file as uint32, (its bytes / 4,).
        offsets: int64 (N,), multiples of 4.

    Returns:
        `(headers, ends)`: where there is an image it takes the last `image_sizes` bytes before `ends`, int64 (N,).
    """
    positions = offsets // 4

    def at(place: np.ndarray) -> np.ndarray:
        return words.take(place, mode="clip")  # beyond the end anything will do: such a record is unreadable

    length_words = at(positions + 1)
    lengths = (length_words & LENGTH_MASK).astype(np.int64)
    flags = at(positions + 2).astype(np.int64)
    image_sizes = lengths - IMAGE_HEADER.size - 4 * flags
    ends = offsets + FRAME_SIZE + lengths
    is_ordinary = (at(positions) == MAGIC) & (length_words >> LENGTH_BITS == WHOLE)
    is_ordinary &= (image_sizes >= 0) & ((ends + 3) // 4 <= len(words))
    # The label stands in the header, or, where there is an array, right after it.
    labels = at(positions + np.where(flags > 0, 8, 3)).view("<f4").astype(np.float64)
    return RecordHeaders(labels, flags, image_sizes, is_ordinary), ends


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
