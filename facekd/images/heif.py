"""Decodes HEIC and AVIF photographs by Pillow: OpenCV has no HEIC, and does not turn an AVIF upright.

Pillow comes with matplotlib and reads AVIF since 11.3; HEIC needs the optional package pillow-heif.
"""

from __future__ import annotations

import importlib.util
import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

if TYPE_CHECKING:
    from PIL import Image

HEIC_SUFFIXES, AVIF_SUFFIXES = (".heic", ".heif", ".hif"), (".avif",)
# The first brand that a file names, behind its length and `ftyp`.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
REMEDY = "`pip install 'facekd[heic]'`"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None  # without importing it, which takes a while
    except ModuleNotFoundError:  # its package is not there
        return False


HAS_HEIC, HAS_AVIF = _is_installed("pillow_heif"), _is_installed("PIL._avif")
READABLE_SUFFIXES = (*(HEIC_SUFFIXES if HAS_HEIC else ()), *(AVIF_SUFFIXES if HAS_AVIF else ()))


def is_heif(data: bytes | bytearray | memoryview) -> bool:
    """Returns whether these bytes start like a HEIC or AVIF image."""
    return bytes(data[4:8]) == b"ftyp" and bytes(data[8:12]) in HEIC_BRANDS | AVIF_BRANDS


def decode_heif(data: bytes | bytearray | memoryview, exif: bool = True) -> NDArray[np.uint8]:
    """Decodes a HEIC or AVIF image to uint8 RGB (H, W, 3); of several images the first.

    Args:
        data: the bytes.
        exif: whether to turn an AVIF upright; pillow-heif turns a HEIC in any case.

    Raises:
        ImageError: they do not decode, or the package for them is not installed.
    """
    is_readable = HAS_AVIF if bytes(data[8:12]) in AVIF_BRANDS else HAS_HEIC
    if not is_readable:
        raise ImageError(f"it is a HEIC or AVIF image, which can be read after {REMEDY}")
    from PIL import ImageOps

    try:
        with open_heif(data) as image:
            upright = ImageOps.exif_transpose(image) if exif else image
            return np.array(upright.convert("RGB"))
    except Exception as error:  # the errors of Pillow and of its plugins share no narrower base
        raise ImageError(
            f"its {counted(len(data), 'byte does', 'bytes do')} not decode as a HEIC or AVIF image: {shown(error)}"
        ) from error


def open_heif(data: bytes | bytearray | memoryview) -> Image.Image:
    """Opens a HEIC or AVIF image, which tells its size without decoding it.

    Raises:
        Exception: anything that Pillow or its plugins raise for bytes that are none.
    """
    from PIL import Image

    register_heic()
    return Image.open(io.BytesIO(data))


@cache
def register_heic() -> None:
    """Lets Pillow read HEIC, if the package for it is installed."""
    if HAS_HEIC:
        import pillow_heif

        pillow_heif.register_heif_opener()
