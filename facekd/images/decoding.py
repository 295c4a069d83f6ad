"""Decodes image bytes to uint8 RGB pixels, and refuses broken images instead of training on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from facekd.errors import ImageError, ImageSizeError
from facekd.images.announced_size import check_announced_size, explain_undecodable
from facekd.images.heif import decode_heif, is_heif
from facekd.images.jpeg import JPEG_START, exif_orientation, refuse_cut_short, refuse_many_scans, with_usual_head
from facekd.images.preprocessing import scale_to_square
from facekd.images.tiff import TIFF_STARTS, refuse_damaged_tiff
from facekd.utils.wording import counted


def decode_rgb(data: bytes | bytearray | memoryview, exif: bool = True) -> NDArray[np.uint8]:
    """Decodes one JPEG, PNG, ... to uint8 RGB (H, W, 3); every command decodes images here.

    Grey becomes three equal channels, CMYK is converted, 16 bits are cut to 8, transparency is dropped, and the first
    frame of an animation is taken.

    Args:
        data: the bytes of the file.
        exif: whether to turn the image upright as its Exif data say.

    Raises:
        ImageError: there are no bytes, the format is unknown, the file is cut short, it announces no size or far more
            pixels than its bytes can hold (see `announced_size`), or, in a JPEG: the decoder met damage (libjpeg alone
            would invent the pixels from there on and print a warning), it has more scans than any encoder writes, or
            is of a kind in which that decoder finds no damage, such as one with unusual sampling of its colours. JPEG
            has no checksums, so damage that happens to decode is not noticed.
    """
    check_announced_size(data)
    if is_heif(data):
        return decode_heif(data, exif)
    if data[:2] != JPEG_START:
        return _decode_by_opencv(data, exif)
    pixels = _decode_jpeg(data)
    return _turn_upright(pixels, exif_orientation(data)) if exif else pixels


def decode_into(out: NDArray[np.uint8], data: bytes | bytearray | memoryview, resize: bool = False) -> None:
    """Decodes one image into `out` (S, S, 3), C-contiguous.

    Args:
        out: array for the pixels; after an error it may hold some of them.
        data: the encoded image.
        resize: whether to scale an image of another size to S x S instead of refusing it, see `scale_to_square`.

    Raises:
        ImageError: the bytes do not decode.
        ImageSizeError: the image has another size, and `resize` is False.
    """
    if not resize and data[:2] == JPEG_START and exif_orientation(data) == 1:
        refuse_many_scans(data)
        try:  # straight into place: a copy into a batch, too large for the nearest cache, costs a twentieth of decoding
            if simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape == out.shape:
                return
        except ValueError:
            pass  # another size, or broken: found out below
    image = decode_rgb(data)
    size = out.shape[0]
    if image.shape != out.shape:
        height, width = image.shape[:2]
        if not resize:
            raise ImageSizeError(f"its image is {width}x{height} pixels, expected {size}x{size}")
        image = scale_to_square(image, size)
    out[:] = image


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


def _decode_jpeg(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Decodes a JPEG whose size was checked; raises for damage that libjpeg meets, and for what it is not strict with.

    OpenCV and Pillow would go on at damage, and invent pixels.
    """
    refuse_many_scans(data)
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        met = str(error)
    # What is wrong with the head alone does no harm; libjpeg may have met damage behind it.
    if (mended := with_usual_head(data)) != data:
        try:
            return simplejpeg.decode_jpeg(mended, "RGB")
        except ValueError as error:
            met = str(error)
    refuse_cut_short(data)
    if met.startswith(("Corrupt JPEG data", "Premature end")):
        raise ImageError(f"its JPEG is damaged (libjpeg: {met})")
    raise ImageError(
        f"its JPEG is damaged, or of a kind in which damage would not be found (libjpeg: {met}); if other programs "
        "show it as it should be, save it from there as a PNG or a usual JPEG"
    )


def _decode_by_opencv(data: bytes | bytearray | memoryview, exif: bool) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:  # a header that announces more pixels than OpenCV agrees to
        raise ImageError(
            f"its {counted(len(data), 'byte does', 'bytes do')} not decode as an image: {error.err}"
        ) from error
    if image is None:
        raise ImageError(explain_undecodable(data))
    if data[:4] in TIFF_STARTS:
        refuse_damaged_tiff(data, image)  # type: ignore[arg-type]
    return image  # type: ignore[return-value]


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
