"""Where each record of a `.rec` file starts: from its `.idx`, from a binary cache of that, or by scanning."""

from __future__ import annotations

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
    MIDDLE,
    WHOLE,
)
from facekd.data.recordio.idx_file import parse_idx
from facekd.errors import RecordError
from facekd.utils.array_cache import load_cached, save_cached
from facekd.utils.files import stamp_of
from facekd.utils.progress import track

# Reading fewer rows than this from text takes milliseconds; a file beside the user's would be clutter.
MIN_ROWS = 50_000
WORDS_PER_BLOCK = 1 << 24  # 64 MB of a record file at a time


@dataclass(frozen=True)
class RecordIndex:
    """Keys of a record file and where their records lie; row i of each array is one record.

    Attributes:
        keys: int64 (N,), in the order of the `.idx` file.
        offsets: int64 (N,), byte offset of each record.
        extents: int64 (N,), bytes to the next indexed record or the end of the file: the record is no longer
            than this. Negative where the record starts beyond the end.
        source: the `.idx` file; None where the records were found by scanning.
        is_cached: the arrays are mapped from a cache, so another process gets them for nothing.
        damage: what the scan had to step over, for people.
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
    """Index of `rec_path`, from the cache if it is valid, else from `idx_path`, or by a scan where that is None.

    Raises:
        RecordError: the `.idx` is not one, or the `.rec` holds no records.
    """
    cache, source = rec_path.with_name(f"{rec_path.stem}.facekd-index"), {"stamp": stamp_of(rec_path, idx_path)}
    # Not verified, which would read it all: every record is checked when it is read.
    if (cached := load_cached(cache, source)) is not None:
        arrays = cached[1]
        return RecordIndex(arrays["keys"], arrays["offsets"], arrays["extents"], idx_path, is_cached=True)
    damage: list[str] = []
    if idx_path is not None:
        keys, offsets = parse_idx(idx_path)
    else:
        keys, offsets, damage = scan_records(rec_path)
    extents = _extents(offsets, rec_path.stat().st_size)
    # A scan that met damage is not cached: the next run should say so again.
    if len(keys) >= min_rows_to_cache and not damage:
        save_cached(cache, source, {"keys": keys, "offsets": offsets, "extents": extents})
    return RecordIndex(keys, offsets, extents, idx_path, damage=damage)


def scan_records(rec_path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Find the records of a `.rec` file without its index.

    Keys are the ids in the image headers where those are distinct, as every tool writes them; otherwise the
    position in the file, counted from 1 where an InsightFace header record (which has key 0) comes last, else from 0.

    Returns:
        `(keys, offsets, damage)`: int64 (N,) each, in file order, and a sentence for each stretch of bytes that
        is not a whole record.

    Raises:
        RecordError: there is no record in the file.
    """
    offsets, lengths, flags, damage = _find_parts(rec_path)
    starts = np.flatnonzero((flags == WHOLE) | (flags == FIRST))
    if len(starts) == 0:
        raise RecordError(f"{rec_path} holds no RecordIO record: its content is of another kind, or destroyed")
    is_closed = _closed_records(flags, starts)
    damage += [
        f"the record at offset {offsets[part]:,} is split and its last part is missing" for part in starts[~is_closed]
    ]
    starts = starts[is_closed]
    record_offsets = offsets[starts]
    return _keys_from_headers(rec_path, record_offsets, lengths[starts]), record_offsets, damage


def _find_parts(rec_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Offsets, lengths and continuation flags of all parts, and what had to be stepped over."""
    size = rec_path.stat().st_size
    words = _map_words(rec_path)
    blocks = range(0, len(words), WORDS_PER_BLOCK)
    hits = [
        start + np.flatnonzero(words[start : start + WORDS_PER_BLOCK] == MAGIC)
        for start in track(blocks, f"scanning {rec_path.name} (no .idx), words", len(words), WORDS_PER_BLOCK)
    ]
    positions = np.concatenate(hits) if hits else np.zeros(0, np.int64)
    positions = positions[positions + 1 < len(words)]  # a magic number in the last word has no length after it
    length_words = words[positions + 1]
    offsets = positions.astype(np.int64) * 4
    lengths = (length_words & LENGTH_MASK).astype(np.int64)
    flags = length_words >> LENGTH_BITS
    ends = offsets + FRAME_SIZE + ((lengths + 3) & ~3)
    following = np.append(offsets[1:], size)
    if len(offsets) and offsets[0] == 0 and np.array_equal(ends, following):
        return offsets, lengths, flags, []
    # Some stretch is not a record. Walk from record to record; from where a walk fails, go on at the next magic number.
    keep, damage = _walk(offsets, ends, size)
    return offsets[keep], lengths[keep], flags[keep], damage


def _walk(offsets: np.ndarray, ends: np.ndarray, size: int) -> tuple[np.ndarray, list[str]]:
    keep, damage = [], []
    position = row = 0
    starts = set(offsets.tolist())
    while row < len(offsets):
        start, end = int(offsets[row]), int(ends[row])
        if start > position:
            damage.append(f"bytes {position:,} to {start:,} are no record")
        following = int(offsets[row + 1]) if row + 1 < len(offsets) else size
        # A magic number inside the record is payload if the record's length leads to another record.
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
    """Whether each record that starts at part `starts[i]` has all its parts: whole, or FIRST MIDDLE* LAST."""
    next_start = np.append(starts[1:], len(flags))
    last_part = flags[next_start - 1]
    num_last = np.add.reduceat((flags == LAST).astype(np.int64), starts)
    num_parts = next_start - starts
    num_middle = np.add.reduceat((flags == MIDDLE).astype(np.int64), starts)
    is_whole = (flags[starts] == WHOLE) & (num_parts == 1)
    is_split = (flags[starts] == FIRST) & (last_part == LAST) & (num_last == 1) & (num_middle == num_parts - 2)
    return is_whole | is_split


def _keys_from_headers(rec_path: Path, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
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
    ordered = np.sort(values)  # `np.unique` hashes, which takes ten times as long for millions of values in a row
    return bool((ordered[1:] != ordered[:-1]).all())


def _map_words(rec_path: Path) -> np.ndarray:
    size = rec_path.stat().st_size // 4 * 4  # a truncated file may end within a word
    if size == 0:
        return np.zeros(0, dtype="<u4")
    return np.memmap(rec_path, dtype="<u4", mode="r", shape=(size // 4,))


def _extents(offsets: np.ndarray, size: int) -> np.ndarray:
    if len(offsets) > 1 and not (offsets[1:] > offsets[:-1]).all():
        order = np.argsort(offsets, kind="stable")
        extents = np.empty_like(offsets)
        extents[order] = np.append(offsets[order][1:], size) - offsets[order]
        return extents
    return np.append(offsets[1:], size) - offsets
