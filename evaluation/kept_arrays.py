"""Names, writes and reads the .npy files in which embeddings are kept; a damaged or foreign one is made again.

A file from `write_kept` ends in a mark and the CRC-32 of its name and of all before it, where `np.load` does not look.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_array
from facekd.files.reading import require_regular_file
from facekd.files.writing import atomic_open
from facekd.utils.foreign import reading

END_MARK = b"facekd crc32"


def name_of(parts: Iterable[bytes]) -> str:
    """Returns the digest under which embeddings are kept, over everything they depend on."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def write_kept(file: Path, array: np.ndarray) -> None:
    """Writes an array for `read_kept`, atomically."""
    content = io.BytesIO()
    np.save(content, array)
    content.write(END_MARK + _checksum(file, content.getbuffer()))
    with atomic_open(file) as stream:
        stream.write(content.getbuffer())


def read_kept(file: Path) -> np.ndarray | None:
    """Reads an array; returns None where there is no file, or one that cannot be used, which is printed."""
    try:
        require_regular_file(file)
        content = file.read_bytes()
        array, mark, checksum = content[: -len(END_MARK) - 4], content[-len(END_MARK) - 4 : -4], content[-4:]
        if mark == END_MARK and checksum == _checksum(file, array):
            with reading(file, "an array"):
                return read_array(io.BytesIO(array), len(array))
        problem = "damaged, or of an earlier facekd"
    except FileNotFoundError:
        return None
    except (OSError, DataError) as error:
        problem = str(error)
    print(f"{file}: cannot be used ({problem}); embedding again", file=sys.stderr)
    return None


def _checksum(file: Path, content: bytes | memoryview) -> bytes:
    """Returns the CRC-32 of the name of a file and its content: sound embeddings of another model are not these."""
    return zlib.crc32(content, zlib.crc32(file.name.encode())).to_bytes(4, "little")
