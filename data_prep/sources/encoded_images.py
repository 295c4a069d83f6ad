"""Prepares encoded images for a pack: recognises their format, re-encodes where asked."""

from __future__ import annotations

from pathlib import Path

import cv2

from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb


def prepare_image(path: Path, size: int, resize: bool, quality: int) -> bytes:
    """Bytes of an image to put into a record: the file's own where the image has the right size.

    Args:
        path: an image file; it is decoded in any case, so that a broken one is found now and not in training.
        size: side in pixels the data set has.
        resize: scale images of another size (by area) and write them as JPEG of `quality`.

    Raises:
        ImageError: the file does not decode, or has another size and `resize` is False.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image, though it is listed") from error
    except OSError as error:  # a link to itself, a folder of that name, no permission: no reason to lose the rest
        raise ImageError(f"{path}: {error.strerror}") from error
    try:
        pixels = decode_rgb(content)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return content
    if not resize:
        raise ImageError(
            f"{path}: the image is {width}x{height} and the data set {size}x{size} pixels. Faces have to be aligned "
            "first; --resize scales them as they are, --size sets another size"
        )
    # Averaging over areas is right for shrinking and blocky for enlarging.
    method = cv2.INTER_AREA if height > size else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, (size, size), interpolation=method)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return encoded.tobytes()


# The first bytes of each format; none begins like another.
SUFFIX_BY_START = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def suffix_of(image_bytes: bytes) -> str:
    """File suffix for encoded image bytes, `.bin` where the format is not recognised."""
    return next((suffix for start, suffix in SUFFIX_BY_START.items() if image_bytes.startswith(start)), ".bin")
