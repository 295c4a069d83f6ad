"""Finds photographs in folders, and decodes them upright to 8-bit RGB whatever they are stored as."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from facekd.errors import DataError, ImageError
from facekd.images.image_files import IMAGE_SUFFIXES, list_nested
from facekd.images.jpeg import JPEG_END, JPEG_START, jpeg_segments

START_OF_SCAN = 0xDA


def find_photos(root: Path) -> list[str]:
    """Returns the names of all photographs at any depth below a folder, with `/` between folders, sorted.

    `facekd.images.image_files` says which files are images; what is left out is named on the terminal.

    Raises:
        DataError: there is no such folder, or no photograph in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder of photographs")
    found, left_out = list_nested(root)
    if not found:
        raise DataError(f"{root} holds no photographs ({', '.join(IMAGE_SUFFIXES)}), neither do its subfolders")
    for warning in left_out.warnings():
        print(f"warning: {root}: {warning}", file=sys.stderr)
    return found


def decode_photo(content: bytes, exif: bool = True) -> np.ndarray:
    """Decodes a photograph to uint8 RGB (H, W, 3).

    Grey becomes three equal channels, CMYK is converted, 16 bits are cut to 8, transparency is dropped, and the first
    frame of an animation is taken.

    Args:
        content: the bytes of the file.
        exif: whether to turn the image upright as its EXIF orientation says.

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
    """Returns where the pixel data of a JPEG begins; a thumbnail stored before it has an end marker too."""
    scans = (position for marker, position in jpeg_segments(content) if marker == START_OF_SCAN)
    return next(scans, len(content))
