"""Reads how many pixels an encoded image announces, before a decoder asks for the memory.

A few hundred bytes can announce gigabytes of pixels, in each worker of a loader. Real images have a byte for at most
some hundred pixels, even if they are of one colour.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

from facekd.errors import ConfigError, ImageError
from facekd.images.heif import is_heif, open_heif
from facekd.images.jpeg import JPEG_START, jpeg_size, refuse_cut_short
from facekd.utils.environment import opencv_limit
from facekd.utils.wording import agreeing, counted

PNG_START, PNG_HEADER, PNG_END = b"\x89PNG\r\n\x1a\n", b"IHDR", b"IEND"
PNG_PART_BYTES = 12  # of a part beside its content
# Formats of other images, by Pillow's names. Only those are decoded whose header Pillow reads; floating-point pixels
# (HDR, PFM, EXR), which OpenCV would take, are not among them.
OTHER_FORMATS = ("BMP", "GIF", "WEBP", "TIFF", "JPEG2000", "PPM", "SUN")
# Grey or colour, as text (2, 3) or bytes (5, 6): width, height and the largest value, parted by blanks and comments.
PNM_HEAD = re.compile(rb"P([2356])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3)
PNM_LARGEST = (255, 65535)  # OpenCV takes the bytes of others as if they were one of these
TIFF_TILE = frozenset({322, 323})  # the tags of its width and height
# So many pixels are always read: 100 MB of RGB. Beyond that, an image needs a byte for each 1,000.
ALWAYS_READ_PIXELS, PIXELS_PER_BYTE = 2**25, 1000
# More than the largest cameras have; who has larger images raises OpenCV's own limit, before facekd starts.
VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_PIXELS = 2**28


def check_announced_size(data: bytes | bytearray | memoryview) -> None:
    """Refuses an image that announces more pixels than its bytes can hold, or than are read at all, or no size.

    Of a PNG, the length of each of its parts is compared with the bytes there are.

    Raises:
        ImageError: see above.
        ConfigError: OpenCV's own limit in the environment is none.
    """
    if data[:8] == PNG_START:
        _check_png_parts(data)
    _check_pnm_depth(data)
    width, height = _announced_size(data)
    if width * height <= 0 and not is_heif(data):  # where no size is found of those, nor will their decoder find one
        raise ImageError(_explain_no_size(data))
    most_of_all = _max_pixels()
    most = min(most_of_all, max(ALWAYS_READ_PIXELS, PIXELS_PER_BYTE * len(data)))
    if width * height > most:
        why = f"{VARIABLE} sets that limit" if most == most_of_all else "it is damaged, or made to exhaust the memory"
        raise ImageError(
            f"its {counted(len(data), 'byte announces', 'bytes announce')} {width:,} x {height:,} pixels, and at most "
            f"{most:,} are read: {why}"
        )


def explain_undecodable(data: bytes | bytearray | memoryview) -> str:
    """Returns that these bytes are no image, and what they seem to be instead."""
    found = _guess_content(bytes(data[:100]))
    return f"its {counted(len(data), 'byte does', 'bytes do')} not decode as an image ({found})"


def _check_pnm_depth(data: bytes | bytearray | memoryview) -> None:
    """Refuses a PGM or PPM whose values would be taken for others: 12 bits a pixel would come out nearly black.

    Raises:
        ImageError: see above.
    """
    if (head := PNM_HEAD.match(data)) is None:
        return
    kind, largest = int(head[1]), int(head[4][:9])
    if largest not in PNM_LARGEST and not (kind in (2, 3) and largest < PNM_LARGEST[0]):
        raise ImageError(
            f"its values go up to {largest:,}, and of a PGM or PPM only those up to 255 or 65,535 are read: write it "
            "again with 8 bits a value, such as by `magick IN -depth 8 OUT.png`"
        )


def _check_png_parts(data: bytes | bytearray | memoryview) -> None:
    """Refuses a PNG with a part that ends behind its bytes: OpenCV takes and fills memory for what a part announces.

    Raises:
        ImageError: see above.
    """
    place, kind = len(PNG_START), b""
    while place < len(data) and kind != PNG_END:
        # A part is its length, its kind, its content, and a checksum.
        length, kind = int.from_bytes(data[place : place + 4], "big"), bytes(data[place + 4 : place + 8])
        needed, left = length + PNG_PART_BYTES, len(data) - place
        if needed > left:
            raise ImageError(
                f"its PNG is cut short or damaged: a part at byte {place:,} takes {counted(needed, 'byte')}, and "
                f"{left:,} {agreeing(left, 'is', 'are')} left"
            )
        place += needed


def _max_pixels() -> int:
    try:
        return opencv_limit(VARIABLE, MAX_PIXELS)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _announced_size(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Returns width and height, or zeros if they cannot be found."""
    if data[:2] == JPEG_START:
        return jpeg_size(data)
    if data[:8] == PNG_START:
        if data[12:16] != PNG_HEADER:
            return 0, 0
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    # Other formats are rare; Pillow, which torchvision needs, reads their headers.
    try:
        if is_heif(data):
            with open_heif(data) as image:
                return image.size
        # Of an image in tiles, a decoder takes memory for a tile, which may be larger than the image.
        return max(_sizes_by_pillow(data), key=lambda size: size[0] * size[1], default=(0, 0))
    except Exception:  # the errors of Pillow's formats for a damaged header share no narrower base
        return 0, 0


def _sizes_by_pillow(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """Yields the size of an image, and that of its tiles, by the first of Pillow's formats that takes it."""
    from PIL import Image, TiffImagePlugin

    Image.init()
    for name in OTHER_FORMATS:
        # Not `Image.open`: it refuses what is larger than a limit of its own, without telling the size.
        make, accepts = Image.OPEN.get(name, (None, None))
        if make is None or (accepts is not None and not accepts(bytes(data[:16]))):
            continue
        with make(io.BytesIO(data), "") as image:
            yield image.size
            if isinstance(image, TiffImagePlugin.TiffImageFile) and not TIFF_TILE.isdisjoint(_tiff_tags(data)):
                # Pillow passes over numbers of kinds that it does not know, and OpenCV does not: a KeyError here.
                width, height = (int(image.tag_v2[tag]) for tag in sorted(TIFF_TILE))
                yield width, height
        return


def _tiff_tags(data: bytes | bytearray | memoryview) -> list[int]:
    """Returns what the entries of a TIFF's first directory are about; a BigTIFF's numbers are longer."""
    order, is_big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    offset, count, entry_bytes = ("8xQ", "Q", 20) if is_big else ("4xI", "H", 12)
    (place,) = struct.unpack_from(order + offset, data)
    (num_entries,) = struct.unpack_from(order + count, data, place)
    first = place + struct.calcsize(order + count)
    places = range(first, min(first + num_entries * entry_bytes, len(data) - 1), entry_bytes)
    return [struct.unpack_from(order + "H", data, place)[0] for place in places]


def _explain_no_size(data: bytes | bytearray | memoryview) -> str:
    if len(data) == 0:
        return "it holds no image bytes"
    if data[:2] != JPEG_START:
        return explain_undecodable(data)
    refuse_cut_short(data)
    return f"its JPEG states no size in {counted(len(data), 'byte')}: it is damaged"


def _guess_content(start: bytes) -> str:
    """Returns what a file that is no image seems to be instead, by its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the image with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page: fetch the image again"
    return f"they start with {start[:16].hex(' ')}"
