"""Named arrays in one file, opened without reading them: a JSON head, then the arrays as they lie in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.utils.files import atomic_open

MAGIC = b"facekda1"
ALIGNMENT = 64
LARGEST_HEAD = 1 << 24


def save_arrays(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and what there is to say about them, atomically.

    Args:
        path: of the file.
        about: plain values for JSON.
        arrays: by name; any shape, any type without Python objects.
    """
    places, offset = {}, 0
    for name, array in arrays.items():
        places[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": offset}
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    head = json.dumps({"about": about, "arrays": places}).encode()
    head += b" " * (-(len(MAGIC) + 8 + len(head)) % ALIGNMENT)
    with atomic_open(path) as stream:
        stream.write(MAGIC + len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            contiguous = np.ascontiguousarray(array)
            stream.write(contiguous.reshape(-1).view(np.uint8).data)
            stream.write(bytes(-array.nbytes % ALIGNMENT))


def open_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (about, arrays) of a file of `save_arrays`; the arrays are mapped read-only, not read.

    Raises:
        DataError: not such a file, or cut short.
        OSError: it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as stream:
        start = stream.read(len(MAGIC) + 8)
        length = int.from_bytes(start[len(MAGIC) :], "little")
        if start[: len(MAGIC)] != MAGIC or not 0 < length <= LARGEST_HEAD:
            raise DataError(f"{path}: is not an array file of facekd")
        head = stream.read(length)
    try:
        content = json.loads(head)
    except ValueError:
        raise DataError(f"{path}: is cut short or damaged in its first {length:,} bytes") from None
    first = len(MAGIC) + 8 + length
    whole = np.memmap(path, np.uint8, "r")
    arrays = {}
    for name, place in content["arrays"].items():
        dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
        begin = first + place["offset"]
        end = begin + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if end > len(whole):
            raise DataError(f"{path}: is cut short: {len(whole):,} bytes, and {name!r} ends at {end:,}")
        # A plain array over the map: picking elements of a memmap object is several times slower.
        arrays[name] = np.asarray(whole[begin:end]).view(dtype).reshape(shape)
    return content["about"], arrays
