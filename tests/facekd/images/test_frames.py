"""Files that hold several images are told from those that hold one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from facekd.images.frames import holds_several_images
from facekd.images.heif import HAS_AVIF


def encoded(file_format: str, num_images: int, **options: object) -> bytes:
    shades = [Image.fromarray(np.full((24, 16, 3), 60 * number, np.uint8)) for number in range(num_images)]
    stream = io.BytesIO()
    several = {"save_all": True, "append_images": shades[1:]} if num_images > 1 else {}
    shades[0].save(stream, file_format, **several, **options)
    return stream.getvalue()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_several_images(file_format: str) -> None:
    if file_format == "AVIF" and not HAS_AVIF:
        pytest.skip("this Pillow writes no AVIF")
    assert holds_several_images(encoded(file_format, 3))
    assert not holds_several_images(encoded(file_format, 1))
    several = encoded(file_format, 2)
    for length in range(0, len(several), 7):
        holds_several_images(several[:length])  # cut short anywhere, it raises nothing


def test_a_thumbnail_is_no_second_image() -> None:
    small = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    stream = io.BytesIO()
    Image.fromarray(np.zeros((24, 16, 3), np.uint8)).save(stream, "TIFF", save_all=True, append_images=[small])
    assert not holds_several_images(stream.getvalue())


def test_other_formats_hold_one() -> None:
    assert not any(map(holds_several_images, (encoded("JPEG", 1), encoded("BMP", 1), b"", b"x")))
