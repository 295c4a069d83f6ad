"""Reads how many pixels an encoded image announces, before a decoder asks for the memory.

A few hundred bytes can announce gigabytes of pixels, in each worker of a loader. Real images have a byte for at most
some hundred pixels, even if they are of one colour.
"""

from __future__ import annotations

import io

import simplejpeg

from facekd.errors import ConfigError, ImageError
from facekd.images.heif import is_heif, register_heic
from facekd.images.jpeg import JPEG_START
from facekd.utils.environment import opencv_limit
from facekd.utils.wording import counted

PNG_START = b"\x89PNG\r\n\x1a\n"
# So many pixels are always read: 100 MB of RGB. Beyond that, an image needs a byte for each 1,000.
ALWAYS_READ_PIXELS, PIXELS_PER_BYTE = 2**25, 1000
# More than the largest cameras have; who has larger images raises OpenCV's own limit, before facekd starts.
VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_PIXELS = 2**28


def check_announced_size(data: bytes | bytearray | memoryview) -> None:
    """Refuses an image that announces more pixels than its bytes can hold, or than are read at all.

    Raises:
        ImageError: see above; an image whose size cannot be found is left to its decoder.
        ConfigError: OpenCV's own limit in the environment is none.
    """
    width, height = _announced_size(data)
    most_of_all = _max_pixels()
    most = min(most_of_all, max(ALWAYS_READ_PIXELS, PIXELS_PER_BYTE * len(data)))
    if width * height > most:
        why = f"{VARIABLE} sets that limit" if most == most_of_all else "it is damaged, or made to exhaust the memory"
        raise ImageError(
            f"its {counted(len(data), 'byte announces', 'bytes announce')} {width:,} x {height:,} pixels, and at most "
            f"{most:,} are read: {why}"
        )


def _max_pixels() -> int:
    try:
        return opencv_limit(VARIABLE, MAX_PIXELS)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _announced_size(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Returns width and height, or zeros if they cannot be found."""
    if data[:2] == JPEG_START:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return 0, 0
        return int(width), int(height)
    if data[:8] == PNG_START:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    # Other formats are rare; Pillow, which torchvision needs, reads their headers.
    from PIL import Image

    if is_heif(data):
        register_heic()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Image.DecompressionBombError:  # twice the limit of Pillow, some 179 million pixels
        return 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS), 1
    except Exception:  # a format that Pillow does not know, or a damaged header
        return 0, 0
