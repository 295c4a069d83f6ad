"""Walks through the segments of a JPEG, and finds in them what must be known before its pixels are decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from facekd.errors import ImageError
from facekd.utils.wording import counted

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FILL_BYTE, START_OF_SCAN, END_OF_IMAGE = 0xFF, 0xDA, 0xD9
JFIF_SEGMENT, SEQUENTIAL_FRAMES, WHOLE_BLOCKS = 0xE0, (0xC0, 0xC1, 0xC9), bytes([0, 63, 0])
APPLICATION_SEGMENTS, EXIF_SEGMENT, COMMENT_SEGMENT = range(0xE0, 0xF0), 0xE1, 0xFE
# A frame's header states the size; the three numbers left out of this range mean tables and an extension.
FRAME_SEGMENTS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
NUM_CHANNELS = 9  # the place in such a segment that says how many channels there are
# Where Adobe's segment says how colours are transformed, and the numbers that mean something, by channels: none, and
# YCbCr or YCCK.
ADOBE_SEGMENT, ADOBE_TRANSFORM, ADOBE_TRANSFORMS = 0xEE, 15, {3: (0, 1), 4: (0, 2)}
EXIF_START, ORIENTATION_TAG, TAG_BYTES = b"Exif\0\0", 0x0112, 12
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xDA)})
SIZE = struct.Struct(">HH")
MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# A scan of a few bytes makes the decoder pass over the whole image. libjpeg writes 10 scans for colour pictures, 18 for
# those of four channels; mozjpeg chooses its own among 64.
MAX_SCANS = 64
LONG = 1 << 16  # bytes in which looking for scans takes longer than walking to the first, and up to milliseconds
SCAN = re.compile(rb"\xff\xda")
# The head of nearly all JPEGs, as libjpeg writes it unless told otherwise, in one look instead of a walk: JFIF, two
# tables, and a frame of three channels that is not progressive. Behind it are the codes and, usually, the only scan.
USUAL_HEAD = re.compile(
    rb"\xff\xd8\xff\xe0\x00\x10.{14}(?:\xff\xdb\x00\x43.{65}){2}\xff\xc0\x00\x11\x08(.{4})\x03.{9}", re.DOTALL
)
CODES_AND_RESTARTS, SCAN_OF_THREE_CHANNELS = (0xC4, 0xDD), b"\xff\xda\x00\x0c\x03"


def jpeg_segments(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """Yields `(marker, position)` of each segment after the start marker; the segment begins at `position` with 0xFF.

    Passes over bytes that belong to no segment, as libjpeg does: padding, and pixels behind a start of scan. Ends at
    the end marker, which is not yielded, or where a segment is cut off.

    Args:
        data: bytes that start with `JPEG_START`.
    """
    position = len(JPEG_START)
    while (found := MARKER.search(data, position)) is not None:
        position = found.start()
        marker = data[position + 1]
        if marker == END_OF_IMAGE or position + 4 > len(data):
            return
        yield marker, position
        position += 2
        if marker not in STANDALONE_MARKERS:  # others state their length, itself included
            position += max(2, int.from_bytes(data[position : position + 2], "big"))


def jpeg_size(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Returns width and height by the header of a JPEG's frame, the one that libjpeg decodes; zeros if it has none.

    Args:
        data: bytes that start with `JPEG_START`.
    """
    if (usual := USUAL_HEAD.match(data)) is not None:
        height, width = SIZE.unpack(usual[1])
        return width, height
    for marker, position in jpeg_segments(data):
        if marker == START_OF_SCAN or position + 9 > len(data):
            break
        if marker in FRAME_SEGMENTS:
            height, width = SIZE.unpack_from(data, position + 5)
            return width, height
    return 0, 0


def refuse_many_scans(data: bytes | bytearray | memoryview) -> None:
    """Refuses a JPEG whose few bytes would keep the decoder busy for long, see `MAX_SCANS`.

    Raises:
        ImageError: see above.
    """
    # Most of many pairs of these bytes may lie in other segments, or in the film that follows a phone's moving photo.
    if _has_one_scan(data) or (len(data) > LONG and _first_scan_is_whole(data)) or len(SCAN.findall(data)) <= MAX_SCANS:
        return
    num_scans = sum(marker == START_OF_SCAN for marker, _ in jpeg_segments(data))
    if num_scans > MAX_SCANS:
        raise ImageError(
            f"its JPEG passes over the pixels in {num_scans:,} scans, and at most {MAX_SCANS} are read: it is damaged, "
            "or made to exhaust the time"
        )


def _has_one_scan(data: bytes | bytearray | memoryview) -> bool:
    """Tells most JPEGs of one scan, in a microsecond: behind one of all channels, libjpeg refuses more."""
    if (head := USUAL_HEAD.match(data)) is None:
        return False
    position = head.end()
    try:
        while data[position] == FILL_BYTE and data[position + 1] in CODES_AND_RESTARTS:
            position += 2 + (data[position + 2] << 8) + data[position + 3]
    except IndexError:
        return False
    return data[position : position + 5] == SCAN_OF_THREE_CHANNELS


def _first_scan_is_whole(data: bytes | bytearray | memoryview) -> bool:
    """Tells other JPEGs of one scan, such as photographs with Exif data, by a walk of some microseconds."""
    channels = 0  # of the first frame, if it is not progressive
    for marker, position in jpeg_segments(data):
        if marker in FRAME_SEGMENTS:
            if marker not in SEQUENTIAL_FRAMES or channels or position + NUM_CHANNELS >= len(data):
                return False
            channels = data[position + NUM_CHANNELS]
        elif marker == START_OF_SCAN:
            return channels > 0 and data[position + 4 : position + 5] == bytes([channels])
    return False


def refuse_cut_short(data: bytes | bytearray | memoryview) -> None:
    """Refuses a JPEG without an end marker behind the start of its pixels.

    Raises:
        ImageError: see above.
    """
    # Inside the pixel data 0xFF is always followed by 0x00 or a restart marker, so the end marker is the end. A
    # thumbnail before the pixels has an end marker, too.
    if data[-2:] == JPEG_END:
        return
    scans = (position for marker, position in jpeg_segments(data) if marker == START_OF_SCAN)
    if bytes(data).rfind(JPEG_END) < next(scans, len(data)):
        raise ImageError(f"its JPEG is cut short: no end marker in {counted(len(data), 'byte')}")


def with_usual_head(data: bytes | bytearray | memoryview) -> bytes:
    """Returns a JPEG without what some cameras and programs write wrongly before the pixels, though it does no harm.

    That is bytes between the segments, a revision of JFIF or a transform of colours of Adobe that does not exist, and
    numbers that mean something in progressive JPEGs only. libjpeg warns of each, and tells of its first warning alone.

    Args:
        data: bytes that start with `JPEG_START`.
    """
    kept: list[bytes | bytearray] = [JPEG_START]
    is_sequential, num_channels = False, 0
    adobe: bytearray | None = None
    for marker, position in jpeg_segments(data):
        length = 0 if marker in STANDALONE_MARKERS else int.from_bytes(data[position + 2 : position + 4], "big")
        segment = bytearray(data[position : position + 2 + length])
        if marker == JFIF_SEGMENT and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\1"
        if marker == ADOBE_SEGMENT and segment[4:9] == b"Adobe" and len(segment) > ADOBE_TRANSFORM:
            adobe = segment
        if marker in FRAME_SEGMENTS and len(segment) > NUM_CHANNELS:
            num_channels = segment[NUM_CHANNELS]
        is_sequential |= marker in SEQUENTIAL_FRAMES
        if marker == START_OF_SCAN:
            if is_sequential and length >= 6:
                segment[-3:] = WHOLE_BLOCKS
            usual = ADOBE_TRANSFORMS.get(num_channels)
            if adobe is not None and usual and adobe[ADOBE_TRANSFORM] not in usual:
                adobe[ADOBE_TRANSFORM] = usual[-1]  # as libjpeg takes it
            return b"".join([*kept, segment, data[position + len(segment) :]])
        kept.append(segment)
    return bytes(data)


def exif_orientation(data: bytes | bytearray | memoryview) -> int:
    """Returns how the Exif data of a JPEG ask to turn its pixels, 1 to 8; 1, as they are, if there are none.

    They are in one of the application segments, which come before the tables and the pixels. Source: Exif 2.32, 4.6.

    Args:
        data: bytes that start with `JPEG_START`.
    """
    if USUAL_HEAD.match(data) is not None:
        return 1
    for marker, position in jpeg_segments(data):
        if marker == EXIF_SEGMENT and data[position + 4 : position + 10] == EXIF_START:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            return _orientation_in_tiff(bytes(data[position + 10 : end]))
        if marker not in APPLICATION_SEGMENTS and marker != COMMENT_SEGMENT:
            break
    return 1


def _orientation_in_tiff(tiff: bytes) -> int:
    """Returns the orientation in the first directory of Exif data, which have the form of a TIFF file."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(place: int, length: int) -> int:
        return int.from_bytes(tiff[place : place + length], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        place = directory + 2 + entry * TAG_BYTES
        if place + TAG_BYTES > len(tiff):
            break
        if number(place, 2) == ORIENTATION_TAG:
            return number(place + 8, 2) if 1 <= number(place + 8, 2) <= 8 else 1
    return 1
