"""Reads and writes a file of named numpy arrays that opens without being parsed: a JSON header, then the arrays.

    bytes 0-7      "facekda2": the format and its version
    bytes 8-11     length of the header, little-endian
    bytes 12-15    CRC-32 of the header
    header         JSON, padded with spaces: "about"; "num_bytes" of all arrays; dtype, shape, offset, CRC-32 of each
    arrays         as they lie in memory, each starting at a multiple of 64 bytes

safetensors files can be mapped as well, but have no checksum of their own.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.files.writing import atomic_open
from facekd.utils.foreign import MAX_DIMENSIONS, reading, shown
from facekd.utils.wording import counted

MAGIC = b"facekda2"
START_BYTES = len(MAGIC) + 8
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 24


def save_arrays(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays and a description of them, atomically.

    Args:
        path: file to create or replace.
        about: description of the arrays, in plain values for JSON.
        arrays: arrays by name, of any shape and any dtype without Python objects.
    """
    # Lay the arrays out one after the other, and describe where each lies.
    contents, places, offset = [], {}, 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        contents.append(content)
        places[name] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "offset": offset,
            "crc32": zlib.crc32(content),
        }
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps({"about": about, "num_bytes": offset, "arrays": places}).encode()
    header += b" " * (-(START_BYTES + len(header)) % ALIGNMENT)
    with atomic_open(path) as stream:
        stream.write(MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little") + header)
        for content in contents:
            stream.write(content)
            stream.write(bytes(-content.nbytes % ALIGNMENT))


def open_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Opens a file written by `save_arrays` and returns (about, arrays); the arrays are mapped read-only.

    The checksums of header and arrays are checked, which reads the whole file: 0.04 s for the index of 6 million
    records.

    Raises:
        DataError: the file is of another kind or version, cut short or damaged.
        OSError: the file cannot be opened.
    """
    # The header: its kind and version, then its checksum. The arrays are mapped from the same open file.
    path = Path(path)
    require_regular_file(path)
    with path.open("rb") as stream:
        start = stream.read(START_BYTES)
        length, checksum = (int.from_bytes(start[place : place + 4], "little") for place in (8, 12))
        if start[: len(MAGIC)] != MAGIC or not 0 < length <= MAX_HEADER_BYTES:
            raise DataError(f"{path}: is not an array file of this version of facekd")
        header = stream.read(length)
        whole = np.memmap(stream, np.uint8, "r")
    if len(header) != length or zlib.crc32(header) != checksum:
        raise DataError(f"{path}: is cut short or damaged in its first {counted(START_BYTES + length, 'byte')}")
    # Checksums tell damage, not who wrote the file: one from elsewhere may describe any arrays.
    with reading(path, "a header of arrays", remedy="delete it"):
        content = json.loads(header)
        # The size tells whether the file is whole without reading it.
        if len(whole) != START_BYTES + length + content["num_bytes"]:
            raise DataError(
                f"{path}: is cut short: {counted(len(whole), 'byte')}, expected "
                f"{START_BYTES + length + content['num_bytes']:,}"
            )
        # Each array is a view of the mapped file, and a part of its own: no byte is read for many of them.
        arrays: dict[str, np.ndarray] = {}
        num_read = 0
        for name, place in content["arrays"].items():
            arrays[name] = _array_at(path, name, whole[START_BYTES + length :], place)
            num_read += arrays[name].nbytes
            if num_read > content["num_bytes"]:
                raise DataError(f"{path}: describes arrays of more bytes than it has; delete it")
        return dict(content["about"]), arrays


def _array_at(path: Path, name: str, content: np.ndarray, place: Mapping[str, Any]) -> np.ndarray:
    """Returns the array at a place that the header describes, as a view of the bytes behind the header."""
    dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
    if len(shape) > MAX_DIMENSIONS:
        raise DataError(f"{path}: describes {shown(name)} with {counted(len(shape), 'dimension')}, as no array has")
    begin, count = place["offset"], math.prod(shape)
    end = begin + dtype.itemsize * count
    if dtype.hasobject or not 0 <= begin <= end <= len(content) or (count and not dtype.itemsize):
        raise DataError(f"{path}: describes {shown(name)} as {dtype} {shown(shape)} at {begin:,}, which is not in it")
    # A plain array over the map: picking elements of a memmap object is several times slower.
    found = np.asarray(content[begin:end])
    if zlib.crc32(found.data) != place["crc32"]:
        raise DataError(f"{path}: is damaged: the checksum of '{shown(name)}' differs")
    return found.view(dtype).reshape(shape)
