"""Reads `.npy` and `.npz` files of anyone: what numpy's parser meets in a damaged one becomes a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facekd.errors import DataError
from facekd.utils.files import require_regular_file
from facekd.utils.foreign import reading, shown


def read_npy(path: str | os.PathLike[str], remedy: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Reads the array of a `.npy` file; with `mmap_mode`, maps it.

    Args:
        path: the file.
        remedy: what to do about a damaged file, for the message.
        mmap_mode: as for `np.load`.

    Raises:
        DataError: it is no whole `.npy` file, or holds Python objects, which can run code.
        OSError: it cannot be opened.
    """
    require_regular_file(Path(path))
    with reading(path, "a .npy file of numbers", remedy=remedy):
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{os.fspath(path)}: is an archive (.npz); expected one array (.npy)")
    return array


def read_npz(path: str | os.PathLike[str], remedy: str) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.npz` file, by name.

    Raises:
        DataError: it is no whole `.npz` file, or holds Python objects, which can run code.
        OSError: it cannot be opened.
    """
    require_regular_file(Path(path))
    with reading(path, "a .npz archive of arrays", remedy=remedy):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{os.fspath(path)}: is one array (.npy); expected an archive (.npz)")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    return only_arrays(path, arrays)


def only_arrays(path: str | os.PathLike[str], members: dict[str, Any]) -> dict[str, np.ndarray]:
    """Refuses an archive in which a member is no array: numpy returns the bytes of a file of another kind."""
    if odd := [name for name, value in members.items() if not isinstance(value, np.ndarray)]:
        raise DataError(f"{os.fspath(path)}: {shown(odd[0])} in it is no array of numbers; the file is damaged")
    return members
