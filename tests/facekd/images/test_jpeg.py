"""Tests the walk through a JPEG's segments, on files of libjpeg and on bytes made by hand."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facekd.errors import ImageError
from facekd.images.decoding import decode_into, decode_rgb
from facekd.images.jpeg import (
    JPEG_START,
    LONG,
    MAX_SCANS,
    USUAL_HEAD,
    exif_orientation,
    jpeg_segments,
    jpeg_size,
    refuse_many_scans,
    with_usual_head,
)
from tests.odd_images import ADOBE, END, frame_changed, jpegs, last_scan_repeated, picture, saved


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


def test_the_walk_goes_on_behind_bytes_of_no_segment_as_libjpeg_does_and_ends_where_one_is_cut_off():
    comment = b"\xff\xfe\x00\x04ab"
    assert list(jpeg_segments(JPEG_START + b"\0\xff\0" + comment + b"pixels" + comment)) == [(0xFE, 5), (0xFE, 17)]
    assert list(jpeg_segments(JPEG_START + comment + END + comment)) == [(0xFE, 2)]
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


@pytest.mark.parametrize("name", jpegs())
def test_the_size_is_that_of_the_frame(name):
    data = jpegs()[name]
    assert jpeg_size(data) == Image.open(io.BytesIO(data)).size
    if name != "arithmetic":
        assert jpeg_size(frame_changed(data, 300, 77)) == (300, 77)
    for length in range(0, len(data), 7):
        assert jpeg_size(data[:length]) in ((0, 0), Image.open(io.BytesIO(data)).size)


def test_a_frame_in_another_segment_or_behind_the_pixels_is_none():
    data = saved(picture(), "JPEG")
    frame = data[data.index(b"\xff\xc0") :][:19]
    hidden = JPEG_START + b"\xff\xe5\0\x15" + frame_changed(frame, 9, 9) + data[2:]
    assert jpeg_size(hidden) == (16, 16)
    assert jpeg_size(data.replace(frame, b"") + frame) == (0, 0)


def test_scans_are_counted_in_a_file_that_begins_as_usual_and_shows_a_scan_where_none_is():
    data = saved(picture(), "JPEG", subsampling=0)
    head, one_channel = data[: data.rindex(b"\xff\xda")], b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x12"
    codes = b"\xff\xc4\0\x18\x03" + bytes([0, 5]) + bytes(14) + b"\xff\xda\0\x0c\x03"
    assert USUAL_HEAD.match(head)
    for between in (b"", codes, codes[:-3]):  # the last takes three bytes of the first scan for its own
        with pytest.raises(ImageError, match=r"in (99|100) scans"):
            refuse_many_scans(head + between + one_channel * 100 + END)
    for length in range(len(head), len(data), 3):
        refuse_many_scans(data[:length])


def test_scans_of_a_long_file_are_counted_unless_the_first_is_of_all_channels():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    plain, behind = saved(picture(), "JPEG", exif=exif.tobytes()), END + bytes(LONG)
    start = plain.rindex(b"\xff\xda")
    head, scan, frame = plain[:start], plain[start:].removesuffix(END), plain[plain.index(b"\xff\xc0") :][:19]
    assert not USUAL_HEAD.match(plain)
    # Behind such a scan libjpeg refuses others, so that nothing is to be feared.
    more = head + scan * 100 + behind
    refuse_many_scans(more)
    with pytest.raises(ImageError, match="JPEG is damaged"):
        decode_rgb(more)
    # Behind one of a single channel, and in a progressive file, it does not; of two frames the first counts.
    one_channel = head + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x12" * 100 + scan + behind
    two_frames = frame_changed(head, kind=0xC2) + frame + scan * 100 + behind
    progressive = last_scan_repeated(saved(picture(), "JPEG", progressive=True, exif=exif.tobytes()), 100) + bytes(LONG)
    for many in (one_channel, two_frames, progressive):
        with pytest.raises(ImageError, match=r"in 1\d\d scans"):
            refuse_many_scans(many)


def test_more_scans_than_any_encoder_writes_are_refused():
    progressive = saved(picture(), "JPEG", progressive=True)
    num_scans = progressive.count(b"\xff\xda")
    refuse_many_scans(last_scan_repeated(progressive, MAX_SCANS - num_scans))
    for count in (1, 600):
        many = last_scan_repeated(progressive, MAX_SCANS - num_scans + count)
        said = f"in {MAX_SCANS + count:,} scans, and at most {MAX_SCANS} are read"
        for decode in (decode_rgb, lambda data: decode_into(np.empty((16, 16, 3), np.uint8), memoryview(data))):
            with pytest.raises(ImageError, match=said):
                decode(many)


def test_bytes_that_look_like_scans_elsewhere_are_not_counted():
    data, comment = saved(picture(), "JPEG", progressive=True), b"\xff\xda" * 500
    for odd in (saved(picture(), "JPEG", progressive=True, comment=comment), data + comment):
        np.testing.assert_array_equal(decode_rgb(odd), decode_rgb(data))


@pytest.mark.parametrize("name", ["padded", "of a later Adobe", "progressive", "cmyk"])
def test_wherever_it_is_cut_it_is_refused_by_a_sentence(name):
    data = jpegs()[name]
    for length in range(2, data.index(b"\xff\xda") + 12):
        for end in (b"", END):
            with pytest.raises(ImageError, match=r"JPEG|image"):
                decode_rgb(data[:length] + end)


@pytest.mark.parametrize("name", ["padded", "of a later JFIF", "of a later Adobe", "without spectrum"])
def test_what_is_wrong_with_the_head_is_put_right_and_does_not_hide_damage_behind_it(name):
    odd, usual = jpegs()[name], saved(picture(), "JPEG")
    whole = JPEG_START + ADOBE % 1 + usual[20:] if name == "of a later Adobe" else usual
    assert with_usual_head(odd) == whole != odd
    np.testing.assert_array_equal(decode_rgb(odd), decode_rgb(usual))
    start = odd.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match=r"its JPEG is damaged \(libjpeg: "):
        decode_rgb(odd[: (start + len(odd)) // 2] + END)
    for other in ("progressive", "441", "grey", "cmyk", "restarts"):
        assert with_usual_head(jpegs()[other]) == jpegs()[other]


@pytest.mark.parametrize("channels", [3, 4])
def test_a_transform_of_colours_that_does_not_exist_is_the_one_that_libjpeg_takes(channels):
    mode, end = {3: ("RGB", 20), 4: ("CMYK", 18)}[channels]
    behind = saved(picture(), "JPEG", mode)[end:]  # the segment of JFIF or Adobe, which Pillow writes first
    found = {code: decode_rgb(JPEG_START + ADOBE % code + behind) for code in (0, 1, 2, 7)}
    usual, other = {3: (1, 2), 4: (2, 1)}[channels]
    assert np.abs(found[0].astype(int) - found[usual]).max() > 50
    for code in (other, 7):
        np.testing.assert_array_equal(found[code], found[usual])
