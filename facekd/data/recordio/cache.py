"""Arrays of a large record file kept beside it in binary, so that the next run starts at once.

A cache is only ever a copy of what can be read again: one that is stale, damaged or cannot be written is ignored.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from facekd.utils.files import atomic_open

CACHE_MAGIC = 0x31_6964_6B65_6361_66  # "facekdi1", little-endian
HEADER_WORDS = 8  # magic, arrays, length, then the stamp: up to 5 words
# Reading fewer rows than this from text takes milliseconds; a file beside the user's would be clutter.
MIN_ROWS = 50_000


def stamp_of(*paths: Path | None) -> tuple[int, ...]:
    """Sizes and modification times (ns) of the files that a cache is made from; zeros for None."""
    stamp: list[int] = []
    for path in paths:
        status = path.stat() if path is not None else None
        stamp += [status.st_size, status.st_mtime_ns] if status else [0, 0]
    return tuple(stamp)


def load_cache(rec_path: Path, kind: str, stamp: tuple[int, ...]) -> np.ndarray | None:
    """The cached arrays, int64 (arrays, N), mapped and not read; None where there is no valid cache.

    Args:
        rec_path: the `.rec` file the arrays describe.
        kind: what they are: `"index"`, `"labels"`.
        stamp: see `stamp_of`; a cache with another stamp is stale.
    """
    for path in _places(rec_path, kind):
        try:
            words = np.memmap(path, dtype="<i8", mode="r")
        except (OSError, ValueError):  # absent, unreadable; empty or cut within a word
            continue
        header = words[:HEADER_WORDS].tolist()
        if len(header) < HEADER_WORDS or header[0] != CACHE_MAGIC:
            continue
        if header[3:] != _padded_stamp(stamp) or len(words) != HEADER_WORDS + header[1] * header[2]:
            continue
        # As a plain array: picking single elements of a memmap object is several times slower.
        return np.asarray(words[HEADER_WORDS:]).reshape(header[1], header[2])
    return None


def save_cache(rec_path: Path, kind: str, stamp: tuple[int, ...], arrays: list[np.ndarray]) -> bool:
    """Write arrays of equal length, as int64, for `load_cache`; False where no place takes them (read-only, full)."""
    header = np.array([CACHE_MAGIC, len(arrays), len(arrays[0]), *_padded_stamp(stamp)], dtype="<i8")
    for path in _places(rec_path, kind):
        if path.parent.exists() and not _is_writable(path.parent):
            continue
        try:
            with atomic_open(path) as stream:
                stream.write(header.tobytes())
                for array in arrays:
                    stream.write(np.ascontiguousarray(array, dtype="<i8").data)
            return True
        except OSError:
            continue
    return False


def _padded_stamp(stamp: tuple[int, ...]) -> list[int]:
    return [*stamp, *[0] * (HEADER_WORDS - 3 - len(stamp))]


def _places(rec_path: Path, kind: str) -> list[Path]:
    """Beside the data; else, for data on a read-only mount, the user's cache folder under a name made of the path."""
    beside = rec_path.with_name(f"{rec_path.stem}.facekd-{kind}")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    digest = hashlib.sha256(str(rec_path.resolve()).encode()).hexdigest()[:16]
    return [beside, Path(home) / "facekd" / f"{rec_path.stem}-{digest}.facekd-{kind}"]


def _is_writable(folder: Path) -> bool:
    # A folder without any write bit asks to be left alone, though root could write to it.
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
