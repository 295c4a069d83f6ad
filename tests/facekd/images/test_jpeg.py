"""Tests the walk through a JPEG's segments, on files of libjpeg and on bytes made by hand."""

import io

import numpy as np
from PIL import Image

from facekd.images.jpeg import JPEG_START, jpeg_segments


def test_the_segments_of_a_file_of_libjpeg_are_found_up_to_its_pixels():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, format="JPEG", comment=b"a comment", exif=Image.Exif())
    data = stream.getvalue()
    found = list(jpeg_segments(data))
    markers = [marker for marker, _ in found]
    assert markers[0] == 0xE0
    assert {0xFE, 0xDB, 0xC0, 0xC4} < set(markers)  # comment, tables, frame
    assert 0xDA in markers
    assert all(data[position : position + 2] == bytes([0xFF, marker]) for marker, position in found)


def test_fill_bytes_are_passed_over_and_standalone_markers_have_no_length():
    comment, restart = b"\xff\xfe\x00\x04ab", b"\xff\xd0"
    data = JPEG_START + b"\xff\xff" + comment + restart + comment
    assert list(jpeg_segments(data)) == [(0xFE, 4), (0xD0, 10), (0xFE, 12)]
    assert list(jpeg_segments(memoryview(data))) == list(jpeg_segments(data))


def test_the_walk_ends_where_bytes_are_no_segment_or_are_cut_off():
    comment = b"\xff\xfe\x00\x04ab"
    assert list(jpeg_segments(JPEG_START + comment + b"pixels")) == [(0xFE, 2)]
    assert list(jpeg_segments(JPEG_START + comment[:3])) == []
    assert list(jpeg_segments(JPEG_START + b"\xff\xfe\xff\xff" + comment)) == [(0xFE, 2)]
