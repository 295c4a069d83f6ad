"""Damage in a TIFF, which OpenCV leaves black and only prints, is an error."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def tiff(compression: str | None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "TIFF", compression=compression)
    return stream.getvalue()


def tiled(num_bytes: int) -> bytes:
    """Writes grey pixels as one tile without compression, which states how many bytes it has."""
    tags = {256: 32, 257: 32, 258: 8, 259: 1, 262: 1, 277: 1, 322: 32, 323: 32, 324: 134, 325: num_bytes}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    return head.ljust(134, b"\0") + bytes(range(256)) * 4


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw", "packbits"])
def test_damaged_rows_do_not_become_black_ones(compression: str) -> None:
    whole = tiff(compression)
    np.testing.assert_array_equal(decode_rgb(whole), PIXELS)
    place = whole.index(struct.pack("<H", 279)) + 8  # how many bytes its strip has
    damaged = whole[:place] + struct.pack("<I", 4) + whole[place + 4 :]
    with pytest.raises(ImageError, match="its TIFF is cut short or damaged"):
        decode_rgb(damaged)


def test_no_flipped_bit_gives_pixels_that_another_decoder_does_not_find() -> None:
    whole, refused = tiff("tiff_adobe_deflate"), 0
    for place in range(8, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        try:
            found = decode_rgb(bytes(damaged))
        except ImageError:
            refused += 1
            continue
        with Image.open(io.BytesIO(damaged)) as image:
            np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))
    assert refused > 50


def test_a_tile_that_is_said_to_be_shorter_than_it_is() -> None:
    assert decode_rgb(tiled(1024))[0, 5].tolist() == [5, 5, 5]
    with pytest.raises(ImageError, match="OpenCV and Pillow find other pixels"):
        decode_rgb(tiled(4))


def test_kinds_that_pillow_reads_otherwise_are_taken() -> None:
    deep = np.arange(32 * 32 * 3, dtype=np.uint16).reshape(32, 32, 3) * 20
    content = cv2.imencode(".tiff", deep)[1].tobytes()
    assert decode_rgb(content).shape == (32, 32, 3)
