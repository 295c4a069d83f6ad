"""Asks the kernel to read parts of a file before they are needed, so that a slow disk works while others compute."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

# An index that lists few of the records suggests records that are far too long; this much is read at once.
MAX_READ = 1 << 20
NUM_SPOT_CHECKS = 16  # records of a batch that are tested for being in memory


def read_ahead(path: Path, offsets: np.ndarray, extents: np.ndarray) -> None:
    """Has records read into the page cache, with one request for each run of neighbours.

    Args:
        path: the file.
        offsets: int64 (N,), where the records start.
        extents: int64 (N,), how many bytes they take.
    """
    if not hasattr(os, "posix_fadvise") or len(offsets) == 0:
        return  # a system without it reads when the records are asked for
    # Find the runs of records that lie next to each other.
    order = np.argsort(offsets, kind="stable")
    starts, ends = offsets[order], offsets[order] + extents[order]
    is_first = np.r_[True, starts[1:] > ends[:-1]]
    is_last = np.r_[is_first[1:], True]
    # Request each run.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in zip(starts[is_first].tolist(), ends[is_last].tolist(), strict=True):
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def request_records(descriptor: int, offsets: np.ndarray, extents: np.ndarray) -> None:
    """Requests records one by one from an open file, and returns before they are there.

    Args:
        descriptor: the open file.
        offsets: int64 (B,), where the records start, in any order.
        extents: int64 (B,), how many bytes they take; those of 0 or less are ignored.
    """
    for offset, extent in zip(offsets.tolist(), extents.tolist(), strict=True):
        if extent > 0:
            os.posix_fadvise(descriptor, offset, min(extent, MAX_READ), os.POSIX_FADV_WILLNEED)


def seem_cached(descriptor: int, offsets: np.ndarray) -> bool:
    """Returns whether a sample of the records at `offsets` (B,) is in memory: requesting each would cost more."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    byte = bytearray(1)
    try:
        for offset in offsets[:: max(1, len(offsets) // NUM_SPOT_CHECKS)].tolist():
            os.preadv(descriptor, [byte], offset, os.RWF_NOWAIT)
    except OSError:  # not in memory, or the file system cannot say
        return False
    return True
