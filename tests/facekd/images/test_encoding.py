"""Tests the encoding of pixels: the colours come back in order, and the bytes are OpenCV's own."""

import cv2
import numpy as np
import pytest

from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_jpeg, encode_png

IMAGE = np.kron(np.random.default_rng(0).integers(0, 256, (6, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
BGR = np.ascontiguousarray(IMAGE[..., ::-1])


def test_a_png_gives_the_pixels_back():
    np.testing.assert_array_equal(decode_rgb(encode_png(IMAGE)), IMAGE)


def test_a_jpeg_is_close_to_the_pixels_and_smaller_at_a_lower_quality():
    assert np.abs(decode_rgb(encode_jpeg(IMAGE, 100)).astype(int) - IMAGE).mean() < 12
    assert len(encode_jpeg(IMAGE, 30)) < len(encode_jpeg(IMAGE, 90))


def test_the_bytes_are_those_of_opencv(tmp_path):
    assert encode_jpeg(IMAGE, 90) == cv2.imencode(".jpg", BGR, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    cv2.imwrite(str(tmp_path / "image.png"), BGR)
    assert encode_png(IMAGE) == cv2.imencode(".png", BGR)[1].tobytes() == (tmp_path / "image.png").read_bytes()


def test_strided_pixels_are_encoded_as_their_copy():
    assert encode_png(BGR[..., ::-1]) == encode_png(IMAGE)
    assert encode_jpeg(IMAGE[:, ::-1], 90) == encode_jpeg(IMAGE[:, ::-1].copy(), 90)


def test_an_image_too_large_for_jpeg_is_refused():
    with pytest.raises(ImageError, match="70000x1 image as JPEG"):
        encode_jpeg(np.zeros((1, 70000, 3), np.uint8), 90)
