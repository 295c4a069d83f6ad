"""Decodes image bytes to uint8 RGB pixels, and refuses broken images instead of training on them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from facekd.errors import ImageError, ImageSizeError
from facekd.images.announced_size import check_announced_size
from facekd.images.heif import decode_heif, is_heif
from facekd.images.jpeg import JPEG_END, JPEG_START, exif_orientation, jpeg_segments
from facekd.utils.wording import counted

JFIF_SEGMENT, TABLES_SEGMENT = b"\xff\xe0\x00\x10", b"\xff\xdb"
START_OF_SCAN = 0xDA
PIXEL_MARKERS = range(0xD0, 0xDA)


def decode_rgb(data: bytes | bytearray | memoryview, exif: bool = True) -> NDArray[np.uint8]:
    """Decodes one JPEG, PNG, ... to uint8 RGB (H, W, 3); every command decodes images here.

    Grey becomes three equal channels, CMYK is converted, 16 bits are cut to 8, transparency is dropped, and the first
    frame of an animation is taken.

    Args:
        data: the bytes of the file.
        exif: whether to turn the image upright as its Exif data say.

    Raises:
        ImageError: there are no bytes, the format is unknown, the file is cut short, it announces far more pixels than
            its bytes can hold (see `announced_size`), or the decoder met damage in a
            JPEG (libjpeg alone would invent the pixels from there on and print a warning). JPEG has no checksums, so
            damage that happens to decode is not noticed.
    """
    check_announced_size(data)
    if is_heif(data):
        return decode_heif(data, exif)
    if data[:2] == JPEG_START:
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB")
            return _turn_upright(pixels, _orientation(data)) if exif else pixels
        except ValueError as error:
            _refuse_damage(data, str(error))
    return _decode_by_opencv(data, exif)


def decode_into(out: NDArray[np.uint8], data: bytes | bytearray | memoryview, resize: bool = False) -> None:
    """Decodes one image into `out` (S, S, 3), C-contiguous.

    Args:
        out: array for the pixels; after an error it may hold some of them.
        data: the encoded image.
        resize: whether to scale an image of another size to S x S (by area) instead of refusing it.

    Raises:
        ImageError: the bytes do not decode.
        ImageSizeError: the image has another size, and `resize` is False.
    """
    if not resize and data[:2] == JPEG_START and _orientation(data) == 1:
        try:  # straight into place: a copy into a batch, too large for the nearest cache, costs a twentieth of decoding
            if simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape == out.shape:
                return
        except ValueError:
            pass  # another size, a kind that OpenCV knows, or broken: found out below
    image = decode_rgb(data)
    size = out.shape[0]
    if image.shape != out.shape:
        height, width = image.shape[:2]
        if not resize:
            raise ImageSizeError(f"its image is {width}x{height} pixels, expected {size}x{size}")
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    out[:] = image


def _orientation(data: bytes | bytearray | memoryview) -> int:
    """Returns how to turn the pixels of a JPEG, see `exif_orientation`; at once for those that libjpeg wrote."""
    head = bytes(data[:22])
    if head[2:6] == JFIF_SEGMENT and head[20:] == TABLES_SEGMENT:  # nearly all JPEGs: no room for Exif data
        return 1
    return exif_orientation(data)


def _turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3) turned as their Exif orientation says: 5 to 8 swap rows and columns."""
    if orientation == 1:
        return pixels
    turned = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


def _refuse_damage(data: bytes | bytearray | memoryview, met: str) -> None:
    """Raises for damage that libjpeg met, unless the image is whole or of a kind that OpenCV may decode."""
    _refuse_cut_short(data)
    # Some cameras write extra bytes between segments, which do no harm. Extra bytes before a marker within the pixel
    # data (a restart, the end) are pixels that could not be decoded.
    between = re.search(r"extraneous bytes before marker 0x(\w\w)", met)
    is_harmless = between is not None and int(between[1], 16) not in PIXEL_MARKERS
    if met.startswith(("Corrupt JPEG data", "Premature end")) and not is_harmless:
        raise ImageError(f"its JPEG is damaged (libjpeg: {met})")


def _refuse_cut_short(data: bytes | bytearray | memoryview) -> None:
    # Inside a JPEG's pixel data 0xFF is always followed by 0x00 or a restart marker, so the end marker is the end. A
    # thumbnail before the pixels has an end marker, too.
    if data[:2] != JPEG_START or data[-2:] == JPEG_END:
        return
    scans = (position for marker, position in jpeg_segments(data) if marker == START_OF_SCAN)
    if bytes(data).rfind(JPEG_END) < next(scans, len(data)):
        raise ImageError(f"its JPEG is cut short: no end marker in {counted(len(data), 'byte')}")


def _decode_by_opencv(data: bytes | bytearray | memoryview, exif: bool) -> NDArray[np.uint8]:
    if len(data) == 0:
        raise ImageError("it holds no image bytes")
    _refuse_cut_short(data)
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:  # a header that announces more pixels than OpenCV agrees to
        raise ImageError(
            f"its {counted(len(data), 'byte does', 'bytes do')} not decode as an image: {error.err}"
        ) from error
    if image is None:
        raise ImageError(
            f"its {counted(len(data), 'byte does', 'bytes do')} not decode as an image "
            f"({_guess_content(bytes(data[:100]))})"
        )
    return image  # type: ignore[return-value]


def _guess_content(start: bytes) -> str:
    """Returns what a file that is no image seems to be instead, by its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the image with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page: fetch the image again"
    return f"they start with {start[:16].hex(' ')}"


@contextlib.contextmanager
def one_decoder_thread() -> Iterator[None]:
    """Keeps OpenCV to one thread within the block, in which processes are forked.

    The threads of a pool stay behind in the parent. A forked process that inherits the pool hangs or crashes when it
    uses it or changes its size.
    """
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(num_threads)


def quiet_decoders() -> None:
    """Keeps OpenCV in this process to one thread, and its messages off the terminal.

    Workers call it: they are the parallelism, and images that cannot be decoded are reported once, with their key.
    """
    if cv2.getNumThreads() != 1:  # a forked worker must leave it alone: see `one_decoder_thread`
        cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
