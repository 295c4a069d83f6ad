"""Tells files that hold several images, an animation or the pages of a document; decoders take the first."""

from __future__ import annotations

import struct
import sys
import threading
from pathlib import Path

TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
SUBFILE_TYPE, REDUCED = 254, 1  # a TIFF's thumbnail says that it is a reduced version of another image


class FirstImageNote:
    """Says once a run that a file holds several images, of which the first is taken; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_said = False

    def look(self, path: Path, content: bytes) -> None:
        """Looks at the content of a file, until one was met."""
        if self._is_said or not holds_several_images(content):
            return
        with self._lock:
            if not self._is_said:
                self._is_said = True
                message = (
                    "holds several images (an animation, or pages); of this and any other such file the first is taken"
                )
                print(f"note: {path} {message}", file=sys.stderr)


def holds_several_images(data: bytes) -> bool:
    """Returns whether a GIF, WebP, PNG, TIFF or AVIF holds more than one image; False if it is damaged."""
    try:
        if data.startswith(b"GIF8"):
            return _gif_holds_several(data)
        if data.startswith(b"RIFF"):
            return data[12:16] == b"VP8X" and data[20] & 0x02 != 0  # the flag of an animation
        if data.startswith(b"\x89PNG"):
            return _png_holds_several(data)
        if data[:4] in TIFF_ORDERS:
            return _tiff_holds_several(data, TIFF_ORDERS[data[:4]])
    except (IndexError, struct.error):
        return False
    return data[4:12] == b"ftypavis"


def _gif_holds_several(data: bytes) -> bool:
    """Walks through the blocks up to the second image."""
    position = 13 + _color_table_size(data[10])
    num_images = 0
    while data[position] in (0x21, 0x2C):  # an extension, an image
        if data[position] == 0x2C:
            num_images += 1
            if num_images > 1:
                return True
            position += 10 + _color_table_size(data[position + 9]) + 1
        else:
            position += 2
        while data[position]:
            position += data[position] + 1
        position += 1
    return False


def _color_table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png_holds_several(data: bytes) -> bool:
    """Looks for the chunk of an animation, which comes before the pixels."""
    position = 8
    while data[position + 4 : position + 8] not in (b"IDAT", b"IEND", b""):
        if data[position + 4 : position + 8] == b"acTL":
            return int.from_bytes(data[position + 8 : position + 12], "big") > 1
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


def _tiff_holds_several(data: bytes, order: str) -> bool:
    """Looks at the second directory."""
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", data, first)
    (second,) = struct.unpack_from(f"{order}I", data, first + 2 + 12 * num_entries)
    if second == 0:
        return False
    (num_entries,) = struct.unpack_from(f"{order}H", data, second)
    for entry in range(second + 2, second + 2 + 12 * num_entries, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHII", data, entry)
        if tag == SUBFILE_TYPE and value & REDUCED:
            return False
    return True
