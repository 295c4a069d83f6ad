"""Finds where each record of a `.rec` file starts: from its `.idx`, from a binary cache of that, or by scanning."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facekd.data.recordio.format import (
    FIRST,
    FRAME_SIZE,
    IMAGE_HEADER,
    LAST,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    MAGIC_BYTES,
    MIDDLE,
    WHOLE,
    describe_file,
)
from facekd.data.recordio.idx_file import parse_idx
from facekd.errors import RecordError
from facekd.files.array_cache import load_cached, save_cached
from facekd.files.reading import stamp_of
from facekd.utils.progress import track
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import counted

# Reading fewer rows than this from text takes milliseconds; a file beside the user's would be clutter.
MIN_ROWS = 50_000
WORDS_CHUNK = 1 << 24  # 64 MB of a record file at a time
NUM_SPOT_CHECKS = 32


@dataclass(frozen=True)
class RecordIndex:
    """Holds the keys of a record file and where their records are; row i of each array is one record.

    Attributes:
        keys: int64 (N,), in the order of the `.idx` file.
        offsets: int64 (N,), byte offset of each record.
        extents: int64 (N,), bytes to the next indexed record or the end of the file: the record is no longer
            than this. Negative if the record starts beyond the end.
        source: the `.idx` file; None if the records were found by scanning.
        is_cached: whether the arrays are mapped from a cache, so that another process can map them too.
        damage: sentences about what the scan had to step over.
    """

    keys: np.ndarray
    offsets: np.ndarray
    extents: np.ndarray
    source: Path | None
    is_cached: bool = False
    damage: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


def load_index(rec_path: Path, idx_path: Path | None, min_rows_to_cache: int = MIN_ROWS) -> RecordIndex:
    """Returns the index of `rec_path`: from a valid cache, else from `idx_path`, or by a scan if that is None.

    Raises:
        RecordError: the `.idx` is not an index, or the `.rec` holds no records.
    """
    cache, source = rec_path.with_name(f"{rec_path.stem}.facekd-index"), {"stamp": stamp_of(rec_path, idx_path)}
    if (cached := load_cached(cache, source)) is not None:
        arrays = cached[1]
        return RecordIndex(arrays["keys"], arrays["offsets"], arrays["extents"], idx_path, is_cached=True)
    damage: list[str] = []
    if idx_path is not None:
        keys, offsets = parse_idx(idx_path)
    else:
        keys, offsets, damage = scan_records(rec_path)
    extents = _extents(offsets, rec_path.stat().st_size)
    # A scan that met damage is not cached, so that the next run reports it again.
    if len(keys) >= min_rows_to_cache and not damage:
        save_cached(cache, source, {"keys": keys, "offsets": offsets, "extents": extents})
    return RecordIndex(keys, offsets, extents, idx_path, damage=damage)


def check_index_fits(index: RecordIndex, rec_path: Path, descriptor: int, size: int) -> None:
    """Refuses an index of another file: most of a sample of records must start with the magic number.

    Args:
        index: the index of `rec_path`.
        rec_path: the `.rec` file.
        descriptor: the same file, open.
        size: its size in bytes.

    Raises:
        RecordError: fewer than half of the records looked at start where the index says.
    """
    if index.source is None or len(index) == 0:
        return
    # Look at records spread over the file, among those that lie within it.
    offsets = np.asarray(index.offsets)
    rows = np.flatnonzero(offsets + FRAME_SIZE <= size)
    rows = rows[spread_evenly(len(rows), NUM_SPOT_CHECKS)]
    wrong = [row for row in rows if os.pread(descriptor, 4, int(offsets[row])) != MAGIC_BYTES]
    if len(rows) and 2 * len(wrong) <= len(rows):
        return

    # Name one record that is not where it should be.
    row = int(wrong[0]) if wrong else 0
    key, offset = int(index.keys[row]), int(offsets[row])
    if len(rows):
        found = f"none starts there, nor at {len(wrong) - 1} of {counted(len(rows) - 1, 'other place')} looked at"
    else:
        found = "the file ends before that"
    raise RecordError(
        f"{index.source} does not belong to {describe_file(rec_path)}, or the .rec is destroyed: the index "
        f"has record {key} at offset {offset:,}, and {found}. Put the right files side by side, or delete the "
        f".idx and run `facekd data index {rec_path}`",
        key=key,
        offset=offset,
    )


def scan_records(rec_path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Finds the records of a `.rec` file without its index.

    Keys are the ids in the image headers if they are distinct, as every tool writes them. Otherwise keys are positions
    in the file, counted from 1 if an InsightFace header record (which has key 0) comes last, else from 0.

    Returns:
        `(keys, offsets, damage)`: int64 (N,) each, in file order, and a sentence for each stretch of bytes that
        is not a whole record.

    Raises:
        RecordError: there is no record in the file.
    """
    offsets, lengths, flags, damage = _find_parts(rec_path)
    starts = np.flatnonzero((flags == WHOLE) | (flags == FIRST))
    if len(starts) == 0:
        raise RecordError(f"{rec_path} holds no RecordIO record: it is another kind of file, or destroyed")
    is_closed = _closed_records(flags, starts)
    damage += [
        f"the record at offset {offsets[part]:,} is split and its last part is missing" for part in starts[~is_closed]
    ]
    starts = starts[is_closed]
    record_offsets = offsets[starts]
    return _keys_from_headers(rec_path, record_offsets, lengths[starts]), record_offsets, damage


def _find_parts(rec_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Returns offsets, lengths and continuation flags of all parts, and sentences about what was stepped over."""
    # Every part starts with the magic number, at a multiple of 4 bytes.
    size = rec_path.stat().st_size
    words = _map_words(rec_path)
    blocks = range(0, len(words), WORDS_CHUNK)
    hits = [
        start + np.flatnonzero(words[start : start + WORDS_CHUNK] == MAGIC)
        for start in track(blocks, f"scanning {rec_path.name} (no .idx), words", len(words), WORDS_CHUNK)
    ]
    positions = np.concatenate(hits) if hits else np.zeros(0, np.int64)
    positions = positions[positions + 1 < len(words)]  # a magic number in the last word has no length after it

    # Read the length and the flag that follow each.
    length_words = words[positions + 1]
    offsets = positions.astype(np.int64) * 4
    lengths = (length_words & LENGTH_MASK).astype(np.int64)
    flags = length_words >> LENGTH_BITS
    ends = offsets + FRAME_SIZE + ((lengths + 3) & ~3)

    # In a sound file each part ends where the next begins.
    following = np.append(offsets[1:], size)
    if len(offsets) and offsets[0] == 0 and np.array_equal(ends, following):
        return offsets, lengths, flags, []
    # Otherwise walk from record to record; after a gap, continue at the next magic number.
    keep, damage = _walk(offsets, ends, size)
    return offsets[keep], lengths[keep], flags[keep], damage


def _walk(offsets: np.ndarray, ends: np.ndarray, size: int) -> tuple[np.ndarray, list[str]]:
    """Returns which of the parts found are real, as rows, and a sentence for each gap between them."""
    keep, damage = [], []
    position = row = 0
    starts = set(offsets.tolist())
    while row < len(offsets):
        start, end = int(offsets[row]), int(ends[row])
        if start > position:
            damage.append(f"bytes {position:,} to {start:,} are no record")
        following = int(offsets[row + 1]) if row + 1 < len(offsets) else size
        # If the length leads to another record, magic numbers in between are payload.
        if end <= following or end in starts or end == size:
            keep.append(row)
            row = int(np.searchsorted(offsets, end))
            position = end
        else:
            cause = "is cut short by the end of the file" if end > size else "runs into the one after it"
            damage.append(f"the record at offset {start:,} {cause}")
            row += 1
            position = following
    if position < size:
        damage.append(f"bytes {position:,} to {size:,}, the end of the file, are no record")
    return np.array(keep, dtype=np.int64), damage


def _closed_records(flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns whether each record that starts at part `starts[i]` is complete: WHOLE, or FIRST MIDDLE* LAST."""
    next_start = np.append(starts[1:], len(flags))
    last_part = flags[next_start - 1]
    num_last = np.add.reduceat((flags == LAST).astype(np.int64), starts)
    num_parts = next_start - starts
    num_middle = np.add.reduceat((flags == MIDDLE).astype(np.int64), starts)
    is_whole = (flags[starts] == WHOLE) & (num_parts == 1)
    is_split = (flags[starts] == FIRST) & (last_part == LAST) & (num_last == 1) & (num_middle == num_parts - 2)
    return is_whole | is_split


def _keys_from_headers(rec_path: Path, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the keys of records found by a scan; see `scan_records`."""
    words = _map_words(rec_path)
    positions = offsets // 4
    if len(lengths) and lengths.min() >= IMAGE_HEADER.size:
        low, high = words[positions + 4].astype(np.uint64), words[positions + 5].astype(np.uint64)
        ids = (low | high << np.uint64(32)).view(np.int64)
        last_flag = int(words[positions[-1] + 2])
        ends_in_header = last_flag > 0 and lengths[-1] == IMAGE_HEADER.size + 4 * last_flag
        has_usable_ids = ids.min() >= 0 and _are_distinct(ids)
        if has_usable_ids and not (ends_in_header and ids[-1] != 0):
            return ids
        if ends_in_header:
            return np.append(np.arange(1, len(offsets)), 0)
    return np.arange(len(offsets))


def _are_distinct(values: np.ndarray) -> bool:
    ordered = np.sort(values)  # ten times as fast as `np.unique`, which hashes, for millions of values in order
    return bool((ordered[1:] != ordered[:-1]).all())


def _map_words(rec_path: Path) -> np.ndarray:
    size = rec_path.stat().st_size // 4 * 4  # a truncated file may end within a word
    if size == 0:
        return np.zeros(0, dtype="<u4")
    return np.memmap(rec_path, dtype="<u4", mode="r", shape=(size // 4,))


def _extents(offsets: np.ndarray, size: int) -> np.ndarray:
    """Returns the bytes from each record to the next one in the file, or to its end."""
    if len(offsets) > 1 and not (offsets[1:] > offsets[:-1]).all():
        order = np.argsort(offsets, kind="stable")
        extents = np.empty_like(offsets)
        extents[order] = np.append(offsets[order][1:], size) - offsets[order]
        return extents
    return np.append(offsets[1:], size) - offsets
