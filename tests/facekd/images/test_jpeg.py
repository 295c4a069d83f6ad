"""Tests the walk through a JPEG's segments, on files of libjpeg and on bytes made by hand."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facekd.images.jpeg import JPEG_START, exif_orientation, jpeg_segments


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


def exif_segment(tiff: bytes) -> bytes:
    return b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff


@pytest.mark.parametrize(("mark", "order"), [(b"II", "little"), (b"MM", "big")])
def test_the_orientation_is_read_in_both_byte_orders(mark, order):
    def number(value: int, length: int) -> bytes:
        return value.to_bytes(length, order)

    def entry(tag: int, value: int) -> bytes:
        return number(tag, 2) + number(3, 2) + number(1, 4) + number(value, 2) + bytes(2)

    tiff = mark + number(42, 2) + number(10, 4) + b"??" + number(2, 2) + entry(0x010F, 7) + entry(0x0112, 8)
    assert exif_orientation(JPEG_START + exif_segment(tiff)) == 8
    assert exif_orientation(JPEG_START + exif_segment(tiff[:-14])) == 1  # cut short
    assert exif_orientation(JPEG_START + exif_segment(tiff[:-4] + number(9, 2))) == 1  # there are eight


@given(st.binary(max_size=60))
def test_no_exif_data_break_the_search(tiff):
    for start in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert 1 <= exif_orientation(JPEG_START + exif_segment(start + tiff)) <= 8
