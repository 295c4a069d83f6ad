"""Decoding: the pixels PIL finds, and refusal of what is broken."""

from __future__ import annotations

import io
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facekd.errors import ImageError, ImageSizeError
from facekd.images.decoding import decode_into, decode_rgb
from facekd.images.preprocessing import fit_images


def photo_of(size: int = 24, channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def saved(image: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{"format": "JPEG", "quality": 85}, {"format": "PNG"}, {"format": "BMP"}])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_pixels_are_those_of_pil_in_rgb_order(options, wrap):
    data = saved(photo_of(), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(wrap(data)), expected)


def test_lossless_images_come_back_as_they_were():
    np.testing.assert_array_equal(decode_rgb(saved(photo_of(), format="PNG")), photo_of())


def test_a_grey_image_becomes_three_equal_channels():
    grey = photo_of()[:, :, 0]
    np.testing.assert_array_equal(decode_rgb(saved(grey, format="PNG")), np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "PNG"}])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_an_image_cut_short_is_refused_rather_than_filled_with_grey(options, share):
    data = saved(photo_of(), **options)
    with pytest.raises(ImageError):
        decode_rgb(data[: int(len(data) * share)])


def test_a_jpeg_with_bytes_after_its_end_is_sound():
    data = saved(photo_of(), format="JPEG")
    np.testing.assert_array_equal(decode_rgb(data + b"\0" * 300), decode_rgb(data))


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
    quality=st.integers(5, 100),
    progressive=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_jpegs_of_any_form_decode_as_by_opencv(height, width, subsampling, quality, progressive, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = saved(noise, format="JPEG", subsampling=subsampling, quality=quality, progressive=progressive)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode_rgb(data), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours_decode_as_by_opencv(mode):
    stream = io.BytesIO()
    Image.fromarray(photo_of()).convert(mode).save(stream, format="JPEG")
    expected = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode_rgb(stream.getvalue()), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("comment", [b"", b"a comment before it"])
def test_a_picture_is_turned_as_its_exif_data_say(orientation, comment):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = cv2.resize(photo_of(), (24, 16))
    data = saved(photo, format="JPEG", exif=exif.tobytes(), comment=comment)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(upright))
    square = saved(photo_of(), format="JPEG", exif=exif.tobytes())
    out = np.empty((24, 24, 3), np.uint8)
    decode_into(out, square)
    np.testing.assert_array_equal(out, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(square)))))


def test_damage_that_the_decoder_meets_is_refused():
    data = saved(photo_of(64), format="JPEG", quality=95)
    start = len(data) // 2
    damaged = data[:start] + b"\xff\xd9" + data[start + 2 :]  # an end in the middle: the rest would be made up
    for decode in (decode_rgb, lambda broken: decode_into(np.empty((64, 64, 3), np.uint8), broken)):
        with pytest.raises(ImageError, match=r"its JPEG is damaged \(libjpeg: .*remature end"):
            decode(damaged)


def test_damage_in_a_photo_with_exif_data_is_refused_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo_of(64), format="JPEG", quality=95, exif=exif.tobytes())
    start = len(data) // 2
    damaged = data[:start] + b"\xff\xd9" + data[start + 2 :]
    for decode in (decode_rgb, lambda broken: decode_into(np.empty((64, 64, 3), np.uint8), broken)):
        with pytest.raises(ImageError, match=r"its JPEG is damaged \(libjpeg: .*remature end"):
            decode(damaged)


def test_pixel_data_that_is_left_over_is_damage():
    data = saved(photo_of(64), format="JPEG", quality=95)
    with pytest.raises(ImageError, match="extraneous bytes before marker 0xd9"):
        decode_rgb(data[:-2] + b"\x15" * 40 + data[-2:])


def test_exif_data_are_found_behind_bytes_that_fill_up():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(photo_of(), format="JPEG", exif=exif.tobytes())
    place = data.index(b"\xff\xe1")
    upside_down = decode_rgb(data[:place] + b"\xff\xff\xff" + data[place:])
    np.testing.assert_array_equal(upside_down, decode_rgb(data))
    assert not np.array_equal(upside_down, decode_rgb(saved(photo_of(), format="JPEG")))


def test_padding_between_the_segments_is_harmless():
    data = saved(photo_of(), format="JPEG")
    tables = data.index(b"\xff\xdb")
    np.testing.assert_array_equal(decode_rgb(data[:tables] + b"\0\0\0" + data[tables:]), decode_rgb(data))


def announcing(side: int, **options) -> bytes:
    """A small image whose header announces `side` x `side` pixels."""
    data = bytearray(saved(photo_of(), **options))
    if options["format"] == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    elif options["format"] == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
    else:
        data[18:26] = side.to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("side", [8000, 32000, 65000])
def test_more_pixels_than_the_bytes_can_hold_are_refused_before_memory_is_asked_for(file_format, side):
    data = announcing(side, format=file_format)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"bytes announce [\d,]+ x [\d,]+ pixels, and at most 33,554,432 are read"):
        decode_rgb(data)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_large_photo_of_one_colour_is_read():
    black = np.zeros((6000, 6000, 3), np.uint8)
    for options in ({"format": "JPEG", "quality": 30}, {"format": "PNG"}):
        assert decode_rgb(saved(black, **options)).shape == (6000, 6000, 3)


@pytest.mark.parametrize(("data", "message"), [(b"", "holds no image bytes"), (b"GIF, not", "47 49 46 2c 20 6e 6f 74")])
def test_what_is_no_image_is_refused_showing_what_is_there(data, message):
    with pytest.raises(ImageError, match=message):
        decode_rgb(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [12, 16, 24])
def test_another_size_is_refused_with_both_sizes(kind, size):
    out = np.empty((16, 16, 3), np.uint8)
    if size == 16:
        decode_into(out, saved(photo_of(16), format=kind))
        np.testing.assert_array_equal(out, decode_rgb(saved(photo_of(16), format=kind)))
        return
    with pytest.raises(ImageSizeError, match=f"{size}x{size} pixels, expected 16x16"):
        decode_into(out, saved(photo_of(size), format=kind))


def test_as_many_pixels_in_another_shape_are_refused():
    with pytest.raises(ImageSizeError, match="32x8 pixels, expected 16x16"):
        decode_into(np.empty((16, 16, 3), np.uint8), saved(np.zeros((8, 32, 3), np.uint8), format="JPEG"))


def test_resizing_by_a_whole_factor_averages():
    out = np.empty((12, 12, 3), np.uint8)
    photo = photo_of(24)
    decode_into(out, saved(photo, format="PNG"), resize=True)
    means = photo.reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(out - means).max() <= 0.5


@pytest.mark.parametrize("size", [(24, 24), (12, 12), (12, 24), (16, 16)])
def test_training_and_evaluation_scale_an_image_to_the_same_pixels(size):
    photo = cv2.resize(photo_of(), size)
    out = np.empty((16, 16, 3), np.uint8)
    decode_into(out, saved(photo, format="PNG"), resize=True)
    np.testing.assert_array_equal(out, fit_images(photo[None], 16, resize=True)[0])


def test_resizing_makes_other_shapes_square():
    out = np.empty((12, 12, 3), np.uint8)
    decode_into(out, saved(np.full((30, 20, 3), 90, np.uint8), format="PNG"), resize=True)
    assert (out == 90).all()
