"""The size that an image announces: known, and limited, before a decoder takes memory for it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from facekd.errors import ImageError
from facekd.images.decoding import decode_into, decode_rgb
from tests.odd_images import (
    ODD_SAMPLING,
    cut_in_half,
    frame_changed,
    jpegs,
    others,
    picture,
    refused_jpegs,
    refused_others,
    saved,
    tiff,
)

ACCEPTED, REFUSED = jpegs() | others(), refused_jpegs() | {f"other {name}": it for name, it in refused_others().items()}
GROWTH = """
import resource, sys
from pathlib import Path
from facekd.errors import ImageError
from facekd.images.decoding import decode_rgb

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)

before = peak()
for name in sys.argv[1:]:
    try:
        decode_rgb(Path(name).read_bytes())
    except ImageError:
        print("refused")
print(round(peak() - before))
"""


@pytest.mark.parametrize("name", ACCEPTED)
def test_images_of_every_kind_decode_as_by_pillow(name: str) -> None:
    with Image.open(io.BytesIO(ACCEPTED[name])) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=int)
    for content in (ACCEPTED[name], memoryview(ACCEPTED[name])):
        pixels = decode_rgb(content)
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_decoder_should_see_is_refused(name: str) -> None:
    with pytest.raises(ImageError):
        decode_rgb(REFUSED[name])
    with pytest.raises(ImageError):
        decode_into(np.empty((16, 16, 3), np.uint8), memoryview(REFUSED[name]))


def test_refusing_takes_no_memory(tmp_path: Path) -> None:
    for number, content in enumerate(REFUSED.values()):
        (tmp_path / str(number)).write_bytes(content)
    files = sorted(map(str, tmp_path.iterdir()))
    words = [sys.executable, "-c", GROWTH, *files]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    *refused, megabytes = done.stdout.split()
    assert len(refused) == len(files) and int(megabytes) < 150


@pytest.mark.parametrize("sampling", ODD_SAMPLING)
def test_a_jpeg_of_odd_sampling_is_refused_if_damage_in_it_would_not_be_found(sampling: int) -> None:
    cut = frame_changed(cut_in_half(saved(picture(112, 112), "JPEG", subsampling=0)), sampling=sampling)
    with pytest.raises(ImageError, match=r"damage would not be found \(libjpeg: .*; if other programs show it .* PNG"):
        decode_rgb(cut)


def test_a_size_beyond_the_limit_of_pillow_is_told_and_refused_in_a_large_file_too() -> None:
    with pytest.raises(ImageError, match="announce 16,000 x 16,000 pixels, and at most 33,554,432 are read"):
        decode_rgb(tiff(16000))
    with pytest.raises(ImageError, match="announce 32,000 x 32,000 pixels, and at most 200,019,000 are read"):
        decode_rgb(b"P6 32000 32000 255\n" + bytes(200_000))


def test_the_parts_of_a_png_end_within_its_bytes() -> None:
    whole = saved(picture(), "PNG")
    expected = decode_rgb(whole)
    for behind in (b"", b"more", b"\xff" * 40):
        np.testing.assert_array_equal(decode_rgb(whole + behind), expected)
    for length in (10, 23, len(whole) // 2, len(whole) - 13, len(whole) - 1):
        with pytest.raises(ImageError, match=r"its PNG is cut short or damaged: a part at byte [\d,]+ takes"):
            decode_rgb(whole[:length])
    with pytest.raises(ImageError, match=rf"a part at byte {len(whole) - 12} takes 12 bytes, and 8 are left$"):
        decode_rgb(whole[:-4])


def test_the_tags_of_a_tiff_are_read_in_every_layout() -> None:
    for content in (tiff(16), tiff(32, 32), saved(picture(), "TIFF", big_tiff=True)):
        assert np.ptp(decode_rgb(content)) > 100
    for start in (b"MM\0*\0\0\0\x08\0\0", b"II*\0\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8, b"II*\0"):
        with pytest.raises(ImageError, match="decode as an image"):
            decode_rgb(start)
