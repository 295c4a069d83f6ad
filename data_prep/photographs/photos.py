"""Photographs as people have them: found in folders, and decoded upright to 8-bit RGB whatever they are stored as."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from facekd.errors import DataError, ImageError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
START_OF_SCAN = 0xDA
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xDA)})


def find_photos(root: Path) -> list[str]:
    """Names of all photographs below a folder, in `/` notation relative to it, sorted.

    Links to folders are followed, each folder being entered once: a loop of links ends where it closes. Hidden files
    and folders are passed over.

    Raises:
        DataError: there is no such folder, or no photograph in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder of photographs")
    found = sorted(_walk(root))
    if not found:
        raise DataError(f"{root} holds no photographs ({', '.join(sorted(PHOTO_SUFFIXES))}), neither do its subfolders")
    return found


def _walk(root: Path) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_raise):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{Path(below).as_posix()}/"
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in PHOTO_SUFFIXES:
                yield prefix + file


def _raise(error: OSError) -> None:
    raise error


def decode_photo(content: bytes, exif: bool = True) -> np.ndarray:
    """Decode a photograph: uint8 (H, W, 3), RGB.

    Grey becomes three equal channels, CMYK is converted, 16 bits are cut to 8, transparency is dropped, and of an
    animation the first frame counts.

    Args:
        content: the bytes of the file.
        exif: turn the image upright as its EXIF orientation says; False leaves it as it is stored.

    Raises:
        ImageError: no bytes, an unknown format, or a JPEG cut short.
    """
    if not content:
        raise ImageError("the file is empty")
    if content.startswith(JPEG_START) and content.rfind(JPEG_END) < _first_scan(content):
        raise ImageError(f"its JPEG is cut short: no end marker in {len(content):,} bytes")
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:  # more pixels than OpenCV agrees to, or a damaged header
        raise ImageError(f"it does not decode: {error.err}") from error
    if pixels is None:
        raise ImageError(f"its {len(content):,} bytes do not decode as an image (they start {content[:8].hex(' ')})")
    return pixels  # type: ignore[return-value]


def _first_scan(content: bytes) -> int:
    """Where the pixel data of a JPEG begins: the thumbnail that a camera puts before it has an end marker too."""
    position = len(JPEG_START)
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == START_OF_SCAN:
            return position
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in STANDALONE_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)
