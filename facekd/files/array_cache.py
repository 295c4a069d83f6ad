"""Keeps arrays that were read from a user's files in a binary file beside them, so that the next run starts at once.

A cache is only a copy of what can be read again: one that is stale, damaged or cannot be written is ignored.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.array_file import open_arrays, save_arrays


def load_cached(beside: Path, source: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Returns (about, arrays) as `save_cached` wrote them, mapped and verified; None if there is no valid cache.

    Args:
        beside: name of the cache beside the user's files.
        source: what identifies the files read, such as `stamp_of` them; a cache with another source is stale.
    """
    source = {key: list(value) if isinstance(value, tuple) else value for key, value in source.items()}
    for place in _places(beside):
        try:
            about, arrays = open_arrays(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, DataError) as error:
            problem = error.without_name(place) if isinstance(error, DataError) else str(error)
            print(f"{place}: cannot be used ({problem}); reading the original files again", file=sys.stderr)
            continue
        if about.get("source") == source:
            return about, arrays
    return None


def save_cached(
    beside: Path,
    source: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any] | None = None,
) -> bool:
    """Writes arrays, and more words `about` them, for `load_cached`; returns False if no place can be written."""
    for place in _places(beside):
        if place.parent.exists() and not _is_writable(place.parent):
            continue
        try:
            save_arrays(place, {**(about or {}), "source": source}, arrays)
            return True
        except OSError:
            continue
    return False


def _places(beside: Path) -> list[Path]:
    """Returns the places to try: beside the data; for data on a read-only mount, the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    digest = hashlib.sha256(os.fsencode(beside.resolve())).hexdigest()[:16]
    return [beside, Path(home) / "facekd" / f"{digest}-{beside.name}"]


def _is_writable(folder: Path) -> bool:
    # Leave a folder without any write bit alone, even if root could write to it.
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
