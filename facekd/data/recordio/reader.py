"""Reads any record of a `.rec` file by its key or by its row in the index."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from facekd.data.recordio.format import (
    FIRST,
    FRAME_SIZE,
    LAST,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    MAGIC_BYTES,
    MIDDLE,
    WHOLE,
    describe_file,
    padded,
)
from facekd.data.recordio.index import RecordIndex, check_index_fits, load_index
from facekd.data.recordio.read_ahead import MAX_READ, request_records, seem_cached
from facekd.errors import RecordError
from facekd.utils.wording import agreeing, counted

_FRAME = struct.Struct("<II")


class _TruncatedError(RecordError):
    """Raised if the file ends before the record does."""


class RecordReader:
    """Gives random access to the records of a `.rec` file.

    `os.pread` has no file position to share, so one reader may be used from several threads and forked processes at
    once; a pickled reader opens the file again where it is unpickled. Opening reads the index only, plus a few spot
    checks that the index belongs to the file. Code that reads many records at once (`RecordPack.read_images`) maps the
    file instead, which takes a tenth of the time and copies nothing.

    Attributes:
        rec_path: the `.rec` file.
        index: its `RecordIndex`.
        keys: int64 (N,), in the order of the `.idx` file.
        num_beyond_end: number of records that start at or beyond the end of the file (0 unless `allow_truncated`).
    """

    def __init__(
        self,
        rec_path: str | os.PathLike[str],
        idx_path: str | os.PathLike[str] | None = None,
        allow_truncated: bool = False,
    ) -> None:
        """Opens a record file.

        Args:
            rec_path: the `.rec` file.
            idx_path: its index; by default the `.idx` beside it. If there is none, the file is scanned.
            allow_truncated: whether to accept a file that ends before its last record; reading a lost record still
                raises.

        Raises:
            RecordError: a file is missing or of another kind, the index belongs to another file, or records are lost.
        """
        # Find the two files.
        self.rec_path: Path = Path(rec_path)
        if not self.rec_path.is_file():
            raise RecordError(f"{self.rec_path}: no such record file")
        if self.rec_path.suffix == ".idx":
            raise RecordError(f"{self.rec_path} is an index; give the .rec file beside it")
        beside = self.rec_path.with_suffix(".idx")
        if idx_path is not None:
            self._idx_path: Path | None = Path(idx_path)
            if not self._idx_path.is_file():
                raise RecordError(f"{self._idx_path}: no such index; leave it out to scan {self.rec_path} instead")
        else:
            self._idx_path = beside if beside.is_file() else None

        # Load the index and open the file.
        self._fd = -1
        self._content: memoryview | None = None
        self._row_of: dict[int, int] | np.ndarray | None = None
        self.index: RecordIndex = load_index(self.rec_path, self._idx_path)
        self._stamp: tuple[int, int] | None = None
        self._open()
        self._size = os.fstat(self._fd).st_size

        # Usually no record lies beyond the end, which the largest offset shows.
        offsets = np.asarray(self.index.offsets)
        is_whole = not len(offsets) or offsets.max() + FRAME_SIZE <= self._size
        self.num_beyond_end: int = 0 if is_whole else int((offsets + FRAME_SIZE > self._size).sum())
        # Refuse files that do not fit together before the first record is read.
        try:
            check_index_fits(self.index, self.rec_path, self._fd, self._size)
            if not allow_truncated:
                self._check_not_truncated()
        except RecordError:
            self.close()
            raise

    @property
    def keys(self) -> np.ndarray:
        return self.index.keys

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"RecordReader({str(self.rec_path)!r}, {counted(len(self), 'record')})"

    def read(self, key: int) -> bytes:
        """Returns the payload of the record with this key.

        Raises:
            RecordError: there is no such key, or the record is damaged.
        """
        return bytes(self.read_row(self.row_of(key)))

    def read_view(self, key: int) -> memoryview:
        """Does what `read` does, without the last copy."""
        return self.read_row(self.row_of(key))

    def read_row(self, row: int) -> memoryview:
        """Returns the payload of the record in row `row` of the index. It is the fastest way: no key is looked up."""
        offset, extent = self.index.offsets.item(row), self.index.extents.item(row)
        if self._fd < 0:
            self._open()
        # An ordinary record is in one part and as long as the index leaves room for: one read, and done.
        if FRAME_SIZE <= extent <= MAX_READ:
            block = os.pread(self._fd, extent, offset)
            if len(block) == extent:
                magic, length_word = _FRAME.unpack_from(block)
                # The flags are the bits above the length: a word without them is a record in one part.
                if magic == MAGIC and length_word <= LENGTH_MASK and padded(FRAME_SIZE + length_word) == extent:
                    return memoryview(block)[FRAME_SIZE : FRAME_SIZE + length_word]
        # Anything else is split, longer, or damaged.
        return self._read(offset, extent, self.index.keys.item(row), is_extent=True)

    def map_content(self, offsets: np.ndarray, extents: np.ndarray) -> memoryview:
        """Maps the file into memory without reading it, for code that reads many records at once.

        Args:
            offsets: int64 (B,), byte offsets of the records about to be read. They are requested from the disk
                together, so that touching them waits once instead of once per record.
            extents: int64 (B,), their lengths in bytes.

        Raises:
            RecordError: the file has another size than when it was opened.
        """
        if self._fd < 0:
            self._open()
        # Touching mapped bytes that are no longer in the file would kill the process.
        size = os.fstat(self._fd).st_size
        if size != self._size:
            raise RecordError(
                f"{describe_file(self.rec_path)} had {counted(self._size, 'byte')} when it was opened: something is "
                "writing to it. Copy the whole file again, and start again"
            )
        # Map the file once; it stays mapped until it is closed.
        if self._content is None:
            mapped = mmap.mmap(self._fd, self._size, prot=mmap.PROT_READ)
            mapped.madvise(mmap.MADV_RANDOM)  # otherwise each page that is read brings its neighbours along
            self._content = memoryview(mapped)
        # Requesting what is in memory already would only cost time.
        if not seem_cached(self._fd, offsets):
            self.will_read(offsets, extents)
        return self._content

    def will_read(self, offsets: np.ndarray, extents: np.ndarray) -> None:
        """Asks the system to read records, offsets and extents int64 (B,), from the disk; does not wait."""
        if self._fd < 0:
            self._open()
        request_records(self._fd, offsets, extents)

    def read_at(self, offset: int, expected_size: int = MAX_READ, key: int | None = None) -> memoryview:
        """Returns the payload of the record that starts at byte `offset`.

        Args:
            offset: byte offset of the record.
            expected_size: number of bytes to read at once; the record may be longer or shorter.
            key: key of the record, for error messages.

        Raises:
            RecordError: there is no whole record at `offset`.
        """
        return self._read(offset, expected_size, key)

    def _read(self, offset: int, expected_size: int, key: int | None, is_extent: bool = False) -> memoryview:
        if self._fd < 0:
            self._open()
        # Read the expected size, and the rest of a longer record when its frame has told the true length.
        block = os.pread(self._fd, min(max(expected_size, FRAME_SIZE), MAX_READ), offset)
        flag, start, end = self._part(block, 0, offset, offset, key)
        if end > len(block):
            block += self._fetch(offset + len(block), end - len(block), offset, key)
        # Nearly all records are in one part.
        if flag == WHOLE:
            if is_extent:
                self._check_length(block, end, expected_size, offset, key)
            return memoryview(block)[start:end]
        # Otherwise it must be the first part of a split record.
        if flag != FIRST:
            raise self._damaged(offset, key, "starts with a continuation part", "the index points into a split record")
        return memoryview(self._join_parts(block, start, end, offset, key))

    def row_of(self, key: int) -> int:
        """Returns the row of the index that holds this key; if a key occurs twice, the last row, as mxnet does.

        Raises:
            RecordError: there is no such key.
        """
        # The lookup is a table by key, or a dictionary if the keys are far apart.
        lookup = self._lookup()
        if isinstance(lookup, dict):
            row = lookup.get(int(key), -1)
        else:
            row = int(lookup[key]) if 0 <= key < len(lookup) else -1
        # Say which keys there are.
        if row < 0:
            keys = np.asarray(self.keys)
            extent = (
                f"its {counted(len(keys), 'key lies', 'keys lie')} between {keys.min()} and {keys.max()}"
                if len(keys)
                else "it is empty"
            )
            raise RecordError(f"{self.rec_path}: no record has key {key}; {extent}", key=int(key))
        return row

    def offset_of(self, key: int) -> int:
        """Returns the byte offset of the record with this key."""
        return int(self.index.offsets[self.row_of(key)])

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._content = None  # it is unmapped when the last view of it is gone

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        # The receiver maps a cached index again: sending 5 million rows to each worker would take longer.
        state = self.__dict__ | {"_fd": -1, "_row_of": None, "_content": None}
        return state | {"index": None} if self.index.is_cached else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.index is None:
            self.index = load_index(self.rec_path, self._idx_path)

    def _open(self) -> None:
        # Closed on exec: commands started later do not keep the file open.
        self._fd = os.open(self.rec_path, os.O_RDONLY | os.O_CLOEXEC)
        # Opened again, as in a spawned worker, it must still be the file that the index was read for.
        status = os.fstat(self._fd)
        stamp = (status.st_size, status.st_mtime_ns)
        if self._stamp not in (None, stamp):
            self.close()
            raise RecordError(f"{self.rec_path}: was replaced or changed since it was opened; start again")
        self._stamp = stamp

    def _fetch(self, position: int, size: int, offset: int, key: int | None) -> bytes:
        """Reads exactly `size` bytes at byte `position`; `offset` and `key` are those of the record, for messages."""
        blocks = []
        while size > 0:
            block = os.pread(self._fd, size, position)  # the system may return less
            if not block:
                raise self._cut_short(offset, key)
            blocks.append(block)
            position += len(block)
            size -= len(block)
        return b"".join(blocks)

    def _check_length(self, block: bytes, end: int, extent: int, offset: int, key: int | None) -> None:
        """Raises if the length field contradicts the index: nothing else would notice a flipped bit in it."""
        padded_end = end + -end % 4
        if padded_end == extent:
            return
        # Too long: the payload runs into the next record.
        is_too_long = padded_end > extent and offset + extent < self._size
        # Too short, unless a record that the index does not list follows.
        after = block[padded_end : padded_end + 4]
        is_too_short = padded_end < extent and len(after) == 4 and after != MAGIC.to_bytes(4, "little")
        if is_too_long or is_too_short:
            raise self._damaged(
                offset,
                key,
                f"says it takes {counted(padded_end, 'byte')}, where the next record starts after {extent:,}",
                "its length field is corrupt",
            )

    def _part(self, block: bytes, at: int, position: int, offset: int, key: int | None) -> tuple[int, int, int]:
        """Returns flag, start and end in `block` of the part at `block[at:]`, byte `position` of the file."""
        if len(block) < at + FRAME_SIZE:
            raise self._cut_short(offset, key)
        # Each part begins with the magic number; anything else means damage or a wrong offset.
        magic, length_word = _FRAME.unpack_from(block, at)
        if magic != MAGIC:
            raise self._damaged(
                offset,
                key,
                f"has {magic:#010x} at byte {position:,} where the magic number {MAGIC:#010x} belongs",
                "the .rec is corrupt, or the .idx is of another file",
            )
        # One word holds the flag in its top bits and the length below.
        start = at + FRAME_SIZE
        return length_word >> LENGTH_BITS, start, start + (length_word & LENGTH_MASK)

    def _join_parts(self, block: bytes, start: int, end: int, offset: int, key: int | None) -> bytes:
        """Returns the payload of a split record: its parts, joined by the magic number that the writer left out."""
        # The first part has been read; the next begins after its padding.
        parts = [block[start:end]]
        position = offset + start + padded(end - start)
        # Follow the parts until one says that it is the last.
        while True:
            head = os.pread(self._fd, FRAME_SIZE, position)
            flag, start, end = self._part(head, 0, position, offset, key)
            if flag not in (MIDDLE, LAST):
                raise self._damaged(offset, key, f"is split and its part at byte {position:,} is missing", "corrupt")
            # The payload of this part, without its frame.
            parts.append(self._fetch(position + FRAME_SIZE, end - start, offset, key))
            if flag == LAST:
                return MAGIC_BYTES.join(parts)
            position += FRAME_SIZE + padded(end - start)

    def _cut_short(self, offset: int, key: int | None) -> RecordError:
        # Distinguish a record that lies wholly beyond the end from one that the end cuts.
        end = os.fstat(self._fd).st_size
        what = "is missing" if offset >= end else "is cut short"
        error = self._damaged(offset, key, f"{what}: the file ends at byte {end:,}", "the file is truncated")
        return _TruncatedError(*error.args)

    def _damaged(self, offset: int, key: int | None, what: str, cause: str) -> RecordError:
        # The key is known unless the file is scanned.
        name = f"record {key}" if key is not None else "the record"
        return RecordError(f"{self.rec_path}: {name} at offset {offset:,} {what} ({cause})", key=key, offset=offset)

    @property
    def num_distinct_keys(self) -> int:
        """The number of different keys, which is less than that of records if some keys occur twice."""
        lookup = self._lookup()
        return len(lookup) if isinstance(lookup, dict) else int((lookup >= 0).sum())

    def _lookup(self) -> dict[int, int] | np.ndarray:
        if self._row_of is None:
            self._row_of = self._make_lookup()
        return self._row_of

    def _make_lookup(self) -> dict[int, int] | np.ndarray:
        keys = np.asarray(self.keys)
        highest = int(keys.max()) if len(keys) else 0
        # Keys are nearly always 0..N, and a table is smaller and faster than a dictionary of millions of keys.
        if len(keys) and keys.min() >= 0 and highest <= 4 * len(keys) + 1024:
            table = np.full(highest + 1, -1, dtype=np.int64)
            table[keys] = np.arange(len(keys))
            return table
        return {key: row for row, key in enumerate(keys.tolist())}

    def _check_not_truncated(self) -> None:
        """Raises if records are lost at the end of the file, or if a scan met damage."""
        # Without an .idx, a scan has looked at every byte.
        if self.index.damage:
            raise RecordError(
                f"{describe_file(self.rec_path)} has no .idx, and scanning it found "
                f"{counted(len(self.index.damage), 'damaged place')}, first: {self.index.damage[0]}. Copy the file "
                f"again, or go on with the {counted(len(self), 'whole record')} by --on-bad-record skip (in training: "
                "--data.on_bad_record skip)"
            )
        if len(self) == 0 or self._idx_path is None:
            return
        # Read the record nearest to the end, unless the index already shows that some lie beyond it.
        row = int(np.argmax(self.index.offsets))
        num_lost = self.num_beyond_end
        if num_lost == 0:
            try:
                self.read_row(row)
                return
            except RecordError as error:
                if not isinstance(error, _TruncatedError):
                    return  # a damaged record raises when it is read; only lost ones are refused here
                num_lost = 1
        # Records are lost: say how many, and what can be done.
        key, offset = int(self.keys[row]), int(self.index.offsets[row])
        raise RecordError(
            f"{describe_file(self.rec_path)} is truncated: {num_lost:,} of its {counted(len(self), 'record')} "
            f"{agreeing(num_lost, 'is', 'are')} lost, the last one being record {key} at offset {offset:,}. Copy the "
            "file again, or go on without those records by --on-bad-record skip (in training: --data.on_bad_record "
            "skip)",
            key=key,
            offset=offset,
        )
