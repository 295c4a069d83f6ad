"""Encoded image bytes to uint8 RGB pixels, refusing what is broken instead of training on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.errors import FacekdError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class ImageError(FacekdError):
    """Bytes that are not the image they should be; the message says what is wrong, the caller says where."""


class ImageSizeError(ImageError):
    """A sound image of another size than asked for."""


def decode_rgb(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, ... to (H, W, 3) uint8 RGB.

    Raises:
        ImageError: no bytes, an unknown format, or a file cut short. libjpeg alone would fill what is missing with
            grey and only print a warning. Damage in the middle of a JPEG, which libjpeg steps over with a warning on
            standard error and wrong pixels, is not noticed.
    """
    if len(data) == 0:
        raise ImageError("it holds no image bytes")
    # Inside a JPEG's pixel data 0xFF is always followed by 0x00 or a restart marker, so the end marker is the end.
    if data[-2:] != JPEG_END and data[:2] == JPEG_START and bytes(data).rfind(JPEG_END) < 0:
        raise ImageError(f"its JPEG is cut short: no end marker in {len(data):,} bytes")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # a header that announces more pixels than OpenCV agrees to
        raise ImageError(f"its {len(data):,} bytes do not decode as an image: {error.err}") from error
    if image is None:
        start = bytes(data[:16]).hex(" ")
        raise ImageError(f"its {len(data):,} bytes do not decode as an image (they start with {start})")
    return image  # type: ignore[return-value]


def decode_into(out: NDArray[np.uint8], data: bytes | bytearray | memoryview, resize: bool = False) -> None:
    """Decode one image into `out` (S, S, 3).

    Args:
        out: where the pixels go; untouched where an error is raised.
        data: the encoded image.
        resize: scale an image of another size to S x S (by area) instead of refusing it.

    Raises:
        ImageError: the bytes do not decode.
        ImageSizeError: the image has another size, and `resize` is False.
    """
    image = decode_rgb(data)
    size = out.shape[0]
    if image.shape != out.shape:
        height, width = image.shape[:2]
        if not resize:
            raise ImageSizeError(f"its image is {width}x{height} pixels, expected {size}x{size}")
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    out[:] = image


@contextlib.contextmanager
def one_decoder_thread() -> Iterator[None]:
    """Keep OpenCV to one thread within the block; to be held around a fork.

    A forked process that inherits a pool of threads, which stayed behind in its parent, hangs or crashes when it
    changes their number or has work for them.
    """
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(num_threads)


def quiet_decoders() -> None:
    """Keep OpenCV in this process to one thread and off the terminal.

    For a loader's workers: they are the parallelism, and what they cannot decode is reported once, with its key.
    """
    if cv2.getNumThreads() != 1:  # a forked worker must leave it alone: see `one_decoder_thread`
        cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
