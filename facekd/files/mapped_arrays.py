"""Maps arrays in `.npy` files for writing, with their room on the disk set aside first.

A file may have holes, and writing to one through a map when the disk is full ends the process by SIGBUS.
"""

from __future__ import annotations

import math
import os

import numpy as np

from facekd.files.temporaries import open_own_descriptor
from facekd.files.writing import naming


def create_npy(path: str | os.PathLike[str], dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Creates a `.npy` file of zeros, maps it for writing, and returns the array.

    Raises:
        OSError: the file cannot be written, or the disk has no room for it.
    """
    with open(path, "wb") as stream:  # noqa: PTH123
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        num_bytes = stream.tell() + np.dtype(dtype).itemsize * math.prod(shape)
        stream.flush()
        with naming(path):
            os.truncate(stream.fileno(), num_bytes)
    return map_for_writing(path)


def map_for_writing(path: str | os.PathLike[str]) -> np.memmap:
    """Maps the array of a `.npy` file for writing, after the disk has set room aside for all of it.

    Raises:
        OSError: the file cannot be written, is a link, or the disk has no room for it.
    """
    with open(path, "r+b", opener=open_own_descriptor) as stream, naming(path):
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
    return np.lib.format.open_memmap(path, "r+")
