"""Walks through the segments of a JPEG, of which a file holds several before its pixels."""

from __future__ import annotations

from collections.abc import Iterator

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FILL_BYTE = 0xFF
APPLICATION_SEGMENTS, EXIF_SEGMENT, COMMENT_SEGMENT = range(0xE0, 0xF0), 0xE1, 0xFE
EXIF_START, ORIENTATION_TAG, TAG_BYTES = b"Exif\0\0", 0x0112, 12
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xDA)})


def jpeg_segments(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """Yields `(marker, position)` of each segment after the start marker; the segment begins at `position` with 0xFF.

    Ends at the first byte that belongs to no segment, so after the first start of scan (0xDA) it finds nothing more of
    use: pixels follow.

    Args:
        data: bytes that start with `JPEG_START`.
    """
    position = len(JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == FILL_BYTE:
            position += 1
            continue
        yield marker, position
        length = 0 if marker in STANDALONE_MARKERS else int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length


def exif_orientation(data: bytes | bytearray | memoryview) -> int:
    """Returns how the Exif data of a JPEG ask to turn its pixels, 1 to 8; 1, as they are, if there are none.

    They are in one of the application segments, which come before the tables and the pixels. Source: Exif 2.32, 4.6.

    Args:
        data: bytes that start with `JPEG_START`.
    """
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
