"""Reads `.npy` and `.npz` files of anyone: what numpy's parser meets in a damaged one becomes a sentence."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

NPY_START = b"\x93NUMPY"
MAX_RATIO_OF_ARRAYS, FREE_UNPACKED_BYTES = 20, 64 << 20  # numbers get smaller in a zip, many zeros much smaller


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
    with reading(path, "a .npz archive of arrays", remedy=remedy), open(path, "rb") as stream:  # noqa: PTH123
        if not stream.read(len(NPY_START)).startswith(NPY_START):
            return unpack_npz(stream, path, MAX_RATIO_OF_ARRAYS)
    raise DataError(f"{os.fspath(path)}: is one array (.npy); expected an archive (.npz)")


def unpack_npz(stream: BinaryIO, path: str | os.PathLike[str], max_ratio: int) -> dict[str, np.ndarray]:
    """Reads all arrays of an open `.npz` file, by name; call it within `reading`.

    Args:
        stream: the file.
        path: its name, for messages.
        max_ratio: how many times the size of the file its arrays may take, beyond `FREE_UNPACKED_BYTES`.

    Raises:
        DataError: it unpacks to more, a member is no array of numbers or text, or a text is none.
        Exception: it is damaged.
    """
    # What the archive announces is all that is unpacked.
    num_bytes = stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        announced = sum(member.file_size for member in archive.infolist())
    if announced > max_ratio * num_bytes + FREE_UNPACKED_BYTES:
        raise DataError(
            f"{os.fspath(path)}: unpacks to {counted(announced, 'byte')}, but the file has {num_bytes:,}: it seems "
            "made to exhaust the memory"
        )
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as arrays:
        members = {name: arrays[name] for name in arrays.files}
    # numpy returns the bytes of a member of another kind, and takes any 32 bits for a character.
    for name, value in members.items():
        if not isinstance(value, np.ndarray):
            raise DataError(f"{os.fspath(path)}: {shown(name)} in it is no array of numbers; the file is damaged")
        if value.dtype.kind == "U" and value.size:
            codes = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))).view(np.uint32)
            if codes.max(initial=0) > sys.maxunicode:
                raise DataError(f"{os.fspath(path)}: {shown(name)} in it is no text; the file is damaged")
    return members
