"""Asking the kernel for parts of a file before they are read, so that a slow disk works while others compute."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def read_ahead(path: Path, offsets: np.ndarray, extents: np.ndarray) -> None:
    """Have records read into the page cache, one request for each run of neighbours.

    Args:
        path: the file.
        offsets: int64 (N,), where they start.
        extents: int64 (N,), how many bytes they take.
    """
    if not hasattr(os, "posix_fadvise") or len(offsets) == 0:
        return  # a system without it reads when the records are asked for
    order = np.argsort(offsets, kind="stable")
    starts, ends = offsets[order], offsets[order] + extents[order]
    is_first = np.r_[True, starts[1:] > ends[:-1]]
    is_last = np.r_[is_first[1:], True]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in zip(starts[is_first].tolist(), ends[is_last].tolist(), strict=True):
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
