"""Finds damage in a TIFF, of which OpenCV only prints: it returns the image with the damaged parts left black."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError
from facekd.images.frames import TIFF_ORDERS
from facekd.utils.foreign import shown

TIFF_STARTS = (*TIFF_ORDERS, b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Modes of Pillow whose pixels are OpenCV's. It takes transparency and 16 bits otherwise: only damage that Pillow itself
# meets is found there.
COMPARED_MODES = frozenset({"1", "L", "LA", "P", "RGB", "CMYK", "YCbCr"})
MOST_APART = 8  # levels, by the rounding of colours


def refuse_damaged_tiff(data: bytes | bytearray | memoryview, pixels: NDArray[np.uint8]) -> None:
    """Decodes a TIFF by Pillow too, and refuses it if that meets damage or finds other pixels.

    Kinds that Pillow does not know are not looked at. Pixels are compared by how often each level is there, so that it
    does not matter which of the two has turned the image upright.

    Args:
        data: the bytes of the file.
        pixels: what OpenCV made of them, uint8 (H, W, 3).

    Raises:
        ImageError: the image is damaged.
    """
    from PIL import TiffImagePlugin

    try:
        # Not `Image.open`, which has a limit of its own; the size was checked.
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data), "")
    except Exception:  # a kind that it does not know; its errors share no narrower base
        return
    with image:
        try:
            image.load()
        except Exception as error:  # those of its decoders do not, either
            raise ImageError(f"its TIFF is cut short or damaged (Pillow: {shown(error)})") from error
        if image.mode not in COMPARED_MODES:
            return
        expected = np.asarray(image.convert("RGB"))
    found, wanted = (np.sort(values, axis=None, kind="stable") for values in (pixels, expected))
    if found.shape != wanted.shape or (np.maximum(found, wanted) - np.minimum(found, wanted)).max() > MOST_APART:
        raise ImageError("its TIFF is damaged: OpenCV and Pillow find other pixels; save it anew, as a PNG")
