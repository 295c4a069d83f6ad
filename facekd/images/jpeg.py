"""Walks through the segments of a JPEG, of which a file holds several before its pixels."""

from __future__ import annotations

from collections.abc import Iterator

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FILL_BYTE = 0xFF
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
