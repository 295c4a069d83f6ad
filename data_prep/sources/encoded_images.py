"""Prepares encoded images for a pack: recognises their format, and re-encodes them if asked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_jpeg
from facekd.images.frames import FirstImageNote
from facekd.images.heif import AVIF_BRANDS, is_heif
from facekd.images.image_files import read_image_file


def prepare_image(path: Path, size: int, resize: bool, quality: int, note: FirstImageNote) -> bytes:
    """Returns the bytes of an image for a record: those of the file if the image has the right size.

    Args:
        path: an image file; it is always decoded, so that a broken image is found now and not in training.
        size: side of the data set's images in pixels.
        resize: whether to scale images of another size and encode them as JPEG.
        quality: JPEG quality of scaled images.
        note: says if a file holds several images.

    Raises:
        ImageError: the file does not decode, or has another size and `resize` is False.
    """
    # Read and decode it, and check its size.
    try:
        content = read_image_file(path)
        pixels = decode_rgb(content)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    note.look(path, content)
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return content
    if not resize:
        raise ImageError(
            f"{path}: the image is {width}x{height} and the data set {size}x{size} pixels. Photographs have "
            "to be aligned first, by `facekd data align`; --resize scales images as they are, --size sets another size"
        )
    # Scale it: averaging over areas suits shrinking, but makes enlarged images blocky.
    method = cv2.INTER_AREA if height > size else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, (size, size), interpolation=method)
    return encode_jpeg(np.asarray(scaled, dtype=np.uint8), quality)


# The first bytes of each format; none begins like another.
SUFFIX_BY_START = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\0\0\0\x0cjP  ": ".jp2",
    b"\xff\x4f\xff\x51": ".j2k",
    **{f"P{number}".encode(): suffix for number, suffix in enumerate(2 * (".pbm", ".pgm", ".ppm"), start=1)},
}


def suffix_of(image_bytes: bytes) -> str:
    """Returns the file suffix for encoded image bytes, `.bin` if the format is unknown."""
    if is_heif(image_bytes):  # the only ones that begin with their length
        return ".avif" if image_bytes[8:12] in AVIF_BRANDS else ".heic"
    return next((suffix for start, suffix in SUFFIX_BY_START.items() if image_bytes.startswith(start)), ".bin")
