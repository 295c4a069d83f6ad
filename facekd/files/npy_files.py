"""Reads `.npy` and `.npz` files of anyone: what numpy's parser meets in a damaged one becomes a sentence.

The header of an array is read before its memory is taken: what it states must be in the file.
"""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np

from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

NPY_START, ZIP_STARTS = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")
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
    with open(path, "rb") as stream:  # noqa: PTH123
        return read_open_npy(stream, path, remedy, mmap_mode)


def read_open_npy(
    stream: BinaryIO, path: str | os.PathLike[str], remedy: str, mmap_mode: Literal["r"] | None = None
) -> np.ndarray:
    """Reads or maps the array of a `.npy` file that is open; see `read_npy`. The caller has refused pipes and devices.

    Raises:
        DataError: it is no whole `.npy` file, or holds Python objects, which can run code.
    """
    with reading(path, "a .npy file of numbers", remedy=remedy):
        num_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if stream.read(len(ZIP_STARTS[0])) in ZIP_STARTS:
            raise DataError(f"{os.fspath(path)}: is an archive (.npz); expected one array (.npy)")
        stream.seek(0)
        return read_array(stream, num_bytes, mmap_mode)


def read_array(stream: IO[bytes], num_bytes: int, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Reads an array as `np.save` writes it from the beginning of a stream; call it within `reading`.

    Args:
        stream: the file; with `mmap_mode` one of the operating system, else also one in memory or in an archive.
        num_bytes: its size.
        mmap_mode: as for `np.load`; the array is mapped from this very file, whatever its name stands for by now.

    Raises:
        ValueError: its header states more than is there, values without bytes, or Python objects.
        Exception: it is damaged.
    """
    # The header. Version 3 is only written for names of fields in other scripts, and nothing of facekd has fields.
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version[0]}.{version[1]}; expected 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version == (2, 0):  # numpy takes the memory for as long a header as these four bytes say
        start = stream.tell()
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(start)
        if length > num_bytes:
            raise ValueError(f"a header of {counted(length, 'byte')}; the file has {num_bytes:,}")
    shape, is_fortran, dtype = read_header(stream)
    # What it states, before memory is taken: values without bytes can be any number of them.
    count, left = math.prod(shape), num_bytes - stream.tell()
    what = f"{shown(dtype, 60)} {shown(shape, 60)}"
    if dtype.hasobject:
        raise ValueError(f"{what} are Python objects, which could run code")
    if min(shape, default=0) < 0 or (count and not dtype.itemsize):
        raise ValueError(f"{what} are values without bytes")
    if count * dtype.itemsize > left:
        raise ValueError(f"{what} takes {counted(count * dtype.itemsize, 'byte')}, and {left:,} are there")
    # The values.
    if mmap_mode is not None:
        return np.memmap(stream, dtype, mmap_mode, stream.tell(), shape, "F" if is_fortran else "C")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def read_npz(path: str | os.PathLike[str], remedy: str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` file, by name.

    Args:
        path: the file.
        remedy: what to do about a damaged file, for the message.
        names: those to read, of which it may lack some; others are left unread. None reads all.

    Raises:
        DataError: it is no whole `.npz` file, or holds Python objects, which can run code.
        OSError: it cannot be opened.
    """
    require_regular_file(Path(path))
    with reading(path, "a .npz archive of arrays", remedy=remedy), open(path, "rb") as stream:  # noqa: PTH123
        if not stream.read(len(NPY_START)).startswith(NPY_START):
            return unpack_npz(stream, path, MAX_RATIO_OF_ARRAYS, names)
    raise DataError(f"{os.fspath(path)}: is one array (.npy); expected an archive (.npz)")


def unpack_npz(
    stream: BinaryIO, path: str | os.PathLike[str], max_ratio: int, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays of an open `.npz` file, by name; call it within `reading`.

    Args:
        stream: the file.
        path: its name, for messages.
        max_ratio: how many times the size of the file its arrays may take, beyond `FREE_UNPACKED_BYTES`.
        names: see `read_npz`.

    Raises:
        DataError: it unpacks to more, a member is no array of numbers or text, or a text is none.
        Exception: it is damaged.
    """
    num_bytes = stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if names is not None:
            members = {name: members[name] for name in names if name in members}
        # What the archive announces is all that is unpacked.
        announced = sum(member.file_size for member in members.values())
        if announced > max_ratio * num_bytes + FREE_UNPACKED_BYTES:
            raise DataError(
                f"{os.fspath(path)}: unpacks to {counted(announced, 'byte')}, but the file has {num_bytes:,}: it seems "
                "made to exhaust the memory"
            )
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as content:
                if content.read(len(NPY_START)) != NPY_START:
                    raise DataError(f"{os.fspath(path)}: {shown(name)} in it is no array of numbers; it is damaged")
                content.seek(0)
                arrays[name] = read_array(content, member.file_size)
    # numpy takes any 32 bits for a character.
    for name, value in arrays.items():
        if value.dtype.kind == "U" and value.size:
            codes = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False)).view(np.uint32)
            if codes.max(initial=0) > sys.maxunicode:
                raise DataError(f"{os.fspath(path)}: {shown(name)} in it is no text; the file is damaged")
    return arrays
