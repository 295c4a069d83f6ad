"""Encodes uint8 RGB pixels as JPEG or PNG, by OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Returns uint8 RGB (H, W, 3) as the bytes of a JPEG.

    Args:
        rgb: the pixels.
        quality: JPEG quality, 1 to 100.

    Raises:
        ImageError: OpenCV cannot encode it.
    """
    return _encode(rgb, ".jpg", "JPEG", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """Returns uint8 RGB (H, W, 3) as the bytes of a PNG.

    Raises:
        ImageError: OpenCV cannot encode it.
    """
    return _encode(rgb, ".png", "PNG", [])


def _encode(rgb: NDArray[np.uint8], suffix: str, kind: str, options: Sequence[int]) -> bytes:
    is_encoded, content = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not is_encoded:
        raise ImageError(f"OpenCV could not encode a {rgb.shape[1]}x{rgb.shape[0]} image as {kind}")
    return content.tobytes()
