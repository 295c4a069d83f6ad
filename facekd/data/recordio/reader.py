"""Random access to the records of a `.rec` file."""

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
from facekd.data.recordio.index import RecordIndex, load_index
from facekd.errors import RecordError

_FRAME = struct.Struct("<II")
# One read fetches a whole record. An index that lists few of the records would make that read far too much.
_MAX_READ_AHEAD = 1 << 20
_NUM_SPOT_CHECKS = 32
_RECORDS_LOOKED_AT = 16  # of a batch, for whether it is in memory


class _TruncatedError(RecordError):
    """The file ends before the record does."""


class RecordReader:
    """Random access to the records of a `.rec` file.

    Reads by `os.pread`, which has no file position to share, so one reader may be used from threads and from forked
    processes at once; a pickled reader opens the file again where it arrives. Nothing is read but the index until a
    record is asked for, except a few spot checks that the index belongs to the file. Who reads many records at once
    (`RecordPack.read_images`) maps the file instead, which takes a tenth of the time and copies nothing.

    Attributes:
        rec_path: the `.rec` file.
        index: its `RecordIndex`.
        keys: int64 (N,), in the order of the `.idx` file.
        num_beyond_end: how many records start at or beyond the end of the file (0 unless `allow_truncated`).
    """

    def __init__(
        self,
        rec_path: str | os.PathLike[str],
        idx_path: str | os.PathLike[str] | None = None,
        allow_truncated: bool = False,
    ) -> None:
        """Open a record file.

        Args:
            rec_path: the `.rec` file.
            idx_path: its index; by default the `.idx` beside it, and where that is missing the file is scanned.
            allow_truncated: accept a file that ends before its last record; reading a lost one still raises.

        Raises:
            RecordError: a file is missing or of another kind, the index is of another file, or records are lost.
        """
        self.rec_path = Path(rec_path)
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
        self._fd = -1
        self._content: memoryview | None = None
        self._row_of: dict[int, int] | np.ndarray | None = None
        self.index: RecordIndex = load_index(self.rec_path, self._idx_path)
        self._open()
        self._size = os.fstat(self._fd).st_size
        offsets = np.asarray(self.index.offsets)
        is_whole = not len(offsets) or offsets.max() + FRAME_SIZE <= self._size
        self.num_beyond_end = 0 if is_whole else int((offsets + FRAME_SIZE > self._size).sum())
        try:
            self._check_belongs()
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
        return f"RecordReader({str(self.rec_path)!r}, {len(self):,} records)"

    def read(self, key: int) -> bytes:
        """Payload of the record with this key.

        Raises:
            RecordError: there is no such key, or the record is damaged.
        """
        return bytes(self.read_row(self.row_of(key)))

    def read_view(self, key: int) -> memoryview:
        """As `read`, without the last copy."""
        return self.read_row(self.row_of(key))

    def read_row(self, row: int) -> memoryview:
        """Payload of the record in row `row` of the index: the fastest way in, no key to look up."""
        offset, extent = self.index.offsets.item(row), self.index.extents.item(row)
        if self._fd < 0:
            self._open()
        # The ordinary record, all of it: whole, and as long as the index leaves room for.
        if FRAME_SIZE <= extent <= _MAX_READ_AHEAD:
            block = os.pread(self._fd, extent, offset)
            if len(block) == extent:
                magic, length_word = _FRAME.unpack_from(block)
                # Flags stand above the length, so a word within its mask is a record in one part.
                if magic == MAGIC and length_word <= LENGTH_MASK and padded(FRAME_SIZE + length_word) == extent:
                    return memoryview(block)[FRAME_SIZE : FRAME_SIZE + length_word]
        return self._read(offset, extent, self.index.keys.item(row), is_extent=True)

    def map_content(self, offsets: np.ndarray, extents: np.ndarray) -> memoryview:
        """The file's bytes, mapped into memory and not read: for whoever reads many records at once.

        Args:
            offsets, extents: int64 (B,), of the records about to be read. They are asked for from the disk together,
                so that touching them waits once and not record by record.

        Raises:
            RecordError: the file has been cut since it was opened; touching what is gone would end the process.
        """
        if self._fd < 0:
            self._open()
        size = os.fstat(self._fd).st_size
        if size < self._size:
            raise RecordError(
                f"{describe_file(self.rec_path)} had {self._size:,} bytes when it was opened: something is writing to "
                "it. Copy it again, whole, and start anew"
            )
        if self._content is None:
            mapped = mmap.mmap(self._fd, self._size, prot=mmap.PROT_READ)
            mapped.madvise(mmap.MADV_RANDOM)  # else each page not in memory brings its neighbourhood along
            self._content = memoryview(mapped)
        if not self._seem_cached(offsets):
            self.will_read(offsets, extents)
        return self._content

    def _seem_cached(self, offsets: np.ndarray) -> bool:
        """Whether some of the records, all that are looked at, are in memory: to ask for each would cost more."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        byte = bytearray(1)
        try:
            for offset in offsets[:: max(1, len(offsets) // _RECORDS_LOOKED_AT)].tolist():
                os.preadv(self._fd, [byte], offset, os.RWF_NOWAIT)
        except OSError:  # not there, or a file system that does not say
            return False
        return True

    def will_read(self, offsets: np.ndarray, extents: np.ndarray) -> None:
        """Ask the system to fetch records from the disk together, without waiting: offsets, extents int64 (B,)."""
        if self._fd < 0:
            self._open()
        for offset, extent in zip(offsets.tolist(), extents.tolist(), strict=True):
            if extent > 0:
                os.posix_fadvise(self._fd, offset, min(extent, _MAX_READ_AHEAD), os.POSIX_FADV_WILLNEED)

    def read_at(self, offset: int, expected_size: int = _MAX_READ_AHEAD, key: int | None = None) -> memoryview:
        """Payload of the record that starts at byte `offset`.

        Args:
            expected_size: how many bytes to fetch at once; the record may be longer or shorter.
            key: for the message if it fails.

        Raises:
            RecordError: no whole record lies there.
        """
        return self._read(offset, expected_size, key)

    def _read(self, offset: int, expected_size: int, key: int | None, is_extent: bool = False) -> memoryview:
        if self._fd < 0:
            self._open()
        # Any length up to this is read at once; the frame says the true one.
        block = os.pread(self._fd, min(max(expected_size, FRAME_SIZE), _MAX_READ_AHEAD), offset)
        flag, start, end = self._part(block, 0, offset, offset, key)
        if end > len(block):
            block += self._fetch(offset + len(block), end - len(block), offset, key)
        if flag == WHOLE:
            if is_extent:
                self._check_length(block, end, expected_size, offset, key)
            return memoryview(block)[start:end]
        if flag != FIRST:
            raise self._damaged(offset, key, "starts with a continuation part", "the index points into a split record")
        return memoryview(self._join_parts(block, start, end, offset, key))

    def row_of(self, key: int) -> int:
        """Row of the index that holds this key; the last one, as in mxnet, where a key occurs twice.

        Raises:
            RecordError: there is no such key.
        """
        lookup = self._lookup()
        if isinstance(lookup, dict):
            row = lookup.get(int(key), -1)
        else:
            row = int(lookup[key]) if 0 <= key < len(lookup) else -1
        if row < 0:
            keys = np.asarray(self.keys)
            extent = f"its {len(keys):,} keys lie between {keys.min()} and {keys.max()}" if len(keys) else "it is empty"
            raise RecordError(f"{self.rec_path}: no record has key {key}; {extent}", key=int(key))
        return row

    def offset_of(self, key: int) -> int:
        """Byte offset of the record with this key."""
        return int(self.index.offsets[self.row_of(key)])

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._content = None  # unmapped once nobody holds a view of it

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        # A cached index is mapped again on arrival: sending 5 million rows to each worker would take longer.
        state = self.__dict__ | {"_fd": -1, "_row_of": None, "_content": None}
        return state | {"index": None} if self.index.is_cached else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.index is None:
            self.index = load_index(self.rec_path, self._idx_path)

    def _open(self) -> None:
        self._fd = os.open(self.rec_path, os.O_RDONLY | os.O_CLOEXEC)

    def _fetch(self, position: int, size: int, offset: int, key: int | None) -> bytes:
        blocks = []
        while size > 0:
            block = os.pread(self._fd, size, position)  # may return less than asked for
            if not block:
                raise self._cut_short(offset, key)
            blocks.append(block)
            position += len(block)
            size -= len(block)
        return b"".join(blocks)

    def _check_length(self, block: bytes, end: int, extent: int, offset: int, key: int | None) -> None:
        """A flipped bit in the length cuts the payload, or joins the neighbour to it, unseen by anything else."""
        padded_end = end + -end % 4
        if padded_end == extent:
            return
        is_too_long = padded_end > extent and offset + extent < self._size
        # A record that ends early is sound where another follows that the index does not list.
        after = block[padded_end : padded_end + 4]
        is_too_short = padded_end < extent and len(after) == 4 and after != MAGIC.to_bytes(4, "little")
        if is_too_long or is_too_short:
            raise self._damaged(
                offset,
                key,
                f"says it takes {padded_end:,} bytes, where the next record starts after {extent:,}",
                "its length field is corrupt",
            )

    def _part(self, block: bytes, at: int, position: int, offset: int, key: int | None) -> tuple[int, int, int]:
        """Continuation flag, and start and end in `block`, of the part at `block[at:]`, file position `position`."""
        if len(block) < at + FRAME_SIZE:
            raise self._cut_short(offset, key)
        magic, length_word = _FRAME.unpack_from(block, at)
        if magic != MAGIC:
            raise self._damaged(
                offset,
                key,
                f"has {magic:#010x} at byte {position:,} where the magic number {MAGIC:#010x} belongs",
                "the .rec is corrupt, or the .idx is of another file",
            )
        start = at + FRAME_SIZE
        return length_word >> LENGTH_BITS, start, start + (length_word & LENGTH_MASK)

    def _join_parts(self, block: bytes, start: int, end: int, offset: int, key: int | None) -> bytes:
        """Payload of a split record: its parts with the magic number, which the writer dropped, between them."""
        parts = [block[start:end]]
        position = offset + start + padded(end - start)
        while True:
            head = os.pread(self._fd, FRAME_SIZE, position)
            flag, start, end = self._part(head, 0, position, offset, key)
            if flag not in (MIDDLE, LAST):
                raise self._damaged(offset, key, f"is split and its part at byte {position:,} is missing", "corrupt")
            parts.append(self._fetch(position + FRAME_SIZE, end - start, offset, key))
            if flag == LAST:
                return MAGIC_BYTES.join(parts)
            position += FRAME_SIZE + padded(end - start)

    def _cut_short(self, offset: int, key: int | None) -> RecordError:
        end = os.fstat(self._fd).st_size
        what = "is missing" if offset >= end else "is cut short"
        error = self._damaged(offset, key, f"{what}: the file ends at byte {end:,}", "the file is truncated")
        return _TruncatedError(*error.args)

    def _damaged(self, offset: int, key: int | None, what: str, cause: str) -> RecordError:
        name = f"record {key}" if key is not None else "the record"
        return RecordError(f"{self.rec_path}: {name} at offset {offset:,} {what} ({cause})", key=key, offset=offset)

    @property
    def num_distinct_keys(self) -> int:
        """How many different keys the index has; fewer than records where some occur twice."""
        lookup = self._lookup()
        return len(lookup) if isinstance(lookup, dict) else int((lookup >= 0).sum())

    def _lookup(self) -> dict[int, int] | np.ndarray:
        if self._row_of is None:
            self._row_of = self._make_lookup()
        return self._row_of

    def _make_lookup(self) -> dict[int, int] | np.ndarray:
        keys = np.asarray(self.keys)
        highest = int(keys.max()) if len(keys) else 0
        # Keys are nearly always 0..N: a table is smaller and faster than a dict of millions.
        if len(keys) and keys.min() >= 0 and highest <= 4 * len(keys) + 1024:
            table = np.full(highest + 1, -1, dtype=np.int64)
            table[keys] = np.arange(len(keys))
            return table
        return {key: row for row, key in enumerate(keys.tolist())}

    def _check_belongs(self) -> None:
        """Refuse an index of another file: most of a few records spread over the file must start with the magic."""
        if self._idx_path is None or len(self) == 0:
            return
        offsets = np.asarray(self.index.offsets)
        rows = (
            np.arange(len(offsets)) if not self.num_beyond_end else np.flatnonzero(offsets + FRAME_SIZE <= self._size)
        )
        if len(rows):
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, _NUM_SPOT_CHECKS).astype(np.int64))]
        wrong = [row for row in rows if os.pread(self._fd, 4, int(offsets[row])) != MAGIC_BYTES]
        if len(rows) and 2 * len(wrong) <= len(rows):
            return
        row = int(wrong[0]) if wrong else 0
        key, offset = int(self.keys[row]), int(offsets[row])
        if len(rows):
            found = f"none starts there, nor at {len(wrong) - 1} of {len(rows) - 1} other places looked at"
        else:
            found = "the file ends before that"
        raise RecordError(
            f"{self._idx_path} does not belong to {describe_file(self.rec_path)}, or the .rec is destroyed: the index "
            f"has record {key} at offset {offset:,}, and {found}. Put the right files side by side, or delete the "
            f".idx and run `facekd data index {self.rec_path}`",
            key=key,
            offset=offset,
        )

    def _check_not_truncated(self) -> None:
        if self.index.damage:
            raise RecordError(
                f"{describe_file(self.rec_path)} has no .idx, and scanning it found {len(self.index.damage):,} damaged "
                f"places, first: {self.index.damage[0]}. Copy the file again, or go on with "
                f"the {len(self):,} whole records by --on-bad-record skip (in training: --data.on_bad_record skip)"
            )
        if len(self) == 0 or self._idx_path is None:
            return
        row = int(np.argmax(self.index.offsets))
        num_lost = self.num_beyond_end
        if num_lost == 0:
            try:
                self.read_row(row)
                return
            except RecordError as error:
                if not isinstance(error, _TruncatedError):
                    return  # one damaged record is met when it is read; only lost ones are refused here
                num_lost = 1
        key, offset = int(self.keys[row]), int(self.index.offsets[row])
        raise RecordError(
            f"{describe_file(self.rec_path)} is truncated: {num_lost:,} of its {len(self):,} records are lost, "
            f"the last one being record {key} at offset {offset:,}. Copy the file again, or go on without those "
            "records by --on-bad-record skip (in training: --data.on_bad_record skip)",
            key=key,
            offset=offset,
        )
