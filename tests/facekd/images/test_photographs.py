"""Photographs as people have them: every kind of file decodes, upright and to 8 bits, or says why not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb

ORIENTATION = 0x0112


def picture(width: int = 24, height: int = 16) -> Image.Image:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3)) * (1, 0.5, 0.25)
    ramp[: height // 2] /= 2
    return Image.fromarray(ramp.astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: encoded(picture(), "PNG"), 0),
        (lambda: encoded(picture(), "BMP"), 0),
        (lambda: encoded(picture(), "TIFF"), 0),
        (lambda: encoded(picture(), "JPEG", quality=100, subsampling=0), 3),
        (lambda: encoded(picture(), "WEBP", lossless=True), 0),
        (lambda: encoded(picture().convert("RGBA"), "PNG"), 0),
        (lambda: encoded(picture().convert("CMYK"), "JPEG", quality=100, subsampling=0), 6),
        (lambda: encoded(picture(), "GIF", save_all=True, append_images=[picture().rotate(180)]), 60),
        (lambda: encoded(picture(), "WEBP", lossless=True, save_all=True, append_images=[picture().rotate(180)]), 0),
    ],
    ids=["png", "bmp", "tiff", "jpeg", "webp", "alpha", "cmyk", "animated gif", "animated webp"],
)
def test_every_kind_of_file_becomes_rgb(make: Callable[[], bytes], tolerance: int) -> None:
    pixels = decode_rgb(make())
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(picture(), dtype=int)).max() <= tolerance


def test_grey_and_sixteen_bits() -> None:
    grey = picture().convert("L")
    pixels = decode_rgb(encoded(grey, "PNG"))
    assert (pixels == np.asarray(grey)[..., None]).all()
    sixteen = Image.fromarray((np.asarray(grey).astype(np.uint16) << 8) + 77)
    assert (decode_rgb(encoded(sixteen, "PNG")) == np.asarray(grey)[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected_or_not_as_asked(orientation: int) -> None:
    upright = np.asarray(picture(), dtype=int)
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0)
    assert np.abs(decode_rgb(content) - upright).max() <= 4
    assert np.abs(decode_rgb(content, exif=False) - np.asarray(stored, dtype=int)).max() <= 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no image bytes"),
        (b"GIF89a", "do not decode"),
        (b"no image at all", "do not decode"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "fetch the image with `git lfs pull`"),
        (b"\n<!DOCTYPE html><title>Not found</title>", "it is a web page: fetch the image again"),
        (
            encoded(picture(), "PNG")[:60],
            "its PNG is cut short .*: a part at byte 33 takes 89 bytes, and 27 are left",
        ),
    ],
)
def test_what_does_not_decode_says_so(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_rgb(content)


def test_a_jpeg_cut_short_is_found_although_its_thumbnail_is_whole() -> None:
    thumbnail = encoded(picture(8, 8), "JPEG")
    whole = encoded(Image.effect_noise((200, 200), 90).convert("RGB"), "JPEG")
    application = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    content = whole[:2] + application + whole[2:]
    assert decode_rgb(content).shape == (200, 200, 3)
    with pytest.raises(ImageError, match="cut short"):
        decode_rgb(content[: len(content) // 2])
    with pytest.raises(ImageError, match="cut short"):
        decode_rgb(whole[:-20])
