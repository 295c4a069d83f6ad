"""Decoding: the pixels PIL finds, and refusal of what is broken."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from facekd.data.decoding import ImageError, ImageSizeError, decode_into, decode_rgb


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


@pytest.mark.parametrize(("data", "message"), [(b"", "holds no image bytes"), (b"GIF, not", "47 49 46 2c 20 6e 6f 74")])
def test_what_is_no_image_is_refused_showing_what_is_there(data, message):
    with pytest.raises(ImageError, match=message):
        decode_rgb(data)


def test_another_size_is_refused_with_both_sizes_and_leaves_the_batch_alone():
    out = np.full((16, 16, 3), 7, np.uint8)
    with pytest.raises(ImageSizeError, match="24x24 pixels, expected 16x16"):
        decode_into(out, saved(photo_of(24), format="PNG"))
    assert (out == 7).all()


def test_resizing_by_a_whole_factor_averages():
    out = np.empty((12, 12, 3), np.uint8)
    photo = photo_of(24)
    decode_into(out, saved(photo, format="PNG"), resize=True)
    means = photo.reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(out - means).max() <= 0.5


def test_resizing_makes_other_shapes_square():
    out = np.empty((12, 12, 3), np.uint8)
    decode_into(out, saved(np.full((30, 20, 3), 90, np.uint8), format="PNG"), resize=True)
    assert (out == 90).all()
