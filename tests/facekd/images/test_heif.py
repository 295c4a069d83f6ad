"""Photographs of phones: HEIC and AVIF, with and without the packages that read them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.cli import main
from facekd.errors import ImageError
from facekd.images import announced_size, heif
from facekd.images.decoding import decode_rgb

ROOT = Path(__file__).resolve().parents[3]
HEIC_START = b"\x00\x00\x00\x18ftypheic"
# Stands in for pillow-heif: its "HEIC" is a PNG behind twelve bytes.
FAKE_PLUGIN = """
import io
from PIL import Image

def register_heif_opener():
    Image.register_open(
        "HEIF",
        lambda stream, name: Image.open(io.BytesIO(stream.read()[12:])),
        lambda start: start[4:12] == b"ftypheic",
    )
"""


def picture(width: int = 24, height: int = 16) -> np.ndarray:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3)) * (1, 0.5, 0.25)
    ramp[: height // 2] /= 2
    return ramp.astype(np.uint8)


def encoded(pixels: np.ndarray, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format, **options)
    return stream.getvalue()


@pytest.mark.skipif(not heif.HAS_AVIF, reason="this Pillow reads no AVIF")
def test_an_avif_is_turned_upright_unless_asked_not_to() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    stored = np.ascontiguousarray(np.rot90(picture()))
    content = encoded(stored, "AVIF", exif=exif, quality=100)
    assert np.abs(decode_rgb(content).astype(int) - picture()).max() <= 16
    assert np.abs(decode_rgb(content, exif=False).astype(int) - stored).max() <= 16
    with pytest.raises(ImageError, match="do not decode as a HEIC or AVIF image"):
        decode_rgb(content[:100])


@pytest.mark.skipif(not heif.HAS_HEIC, reason="pillow-heif is not installed")
def test_a_heic_as_phones_write_it_is_decoded_upright_and_a_damaged_one_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heif.register_heic()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, which a HEIC states beside its EXIF
    image, stream = Image.fromarray(np.ascontiguousarray(np.rot90(picture(64, 48)))), io.BytesIO()
    image.info["exif"] = exif.tobytes()
    image.save(stream, "HEIF", quality=95)
    content = stream.getvalue()
    assert content[8:12] == b"heic" and b"irot" in content
    assert np.abs(decode_rgb(content).astype(int) - picture(64, 48)).mean() <= 4
    with pytest.raises(ImageError, match="do not decode as a HEIC or AVIF image"):
        decode_rgb(content[:200])
    # A file's size is known before it is decoded.
    monkeypatch.setattr(announced_size, "MAX_PIXELS", 3000)
    with pytest.raises(ImageError, match="announce 64 x 48 pixels, and at most 3,000 are read"):
        decode_rgb(content)


@pytest.mark.skipif(heif.HAS_HEIC, reason="pillow-heif is installed")
def test_without_the_package_heic_is_counted_named_and_told_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tmp_path / "faces"
    (faces / "ada").mkdir(parents=True)
    for name in ("1.HEIC", "2.heif"):
        (faces / "ada" / name).write_bytes(HEIC_START)
    assert main(["data", "pack", str(faces), str(tmp_path / "out"), "--size", "16"]) == 2
    said = "2 HEIC or AVIF images, which `pip install 'facekd[heic]'` reads (ada/1.HEIC, ada/2.heif)"
    assert said in capsys.readouterr().err
    # Under the name of another format, the decoder says so.
    (faces / "ada" / "3.jpg").write_bytes(HEIC_START)
    assert main(["data", "pack", str(faces), str(tmp_path / "out"), "--size", "16"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "3.jpg: it is a HEIC or AVIF image, which can be read after `pip install 'facekd[heic]'`" in printed


def test_with_the_package_heic_is_listed_and_decoded(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "pillow_heif.py").write_text(FAKE_PLUGIN)
    faces = tmp_path / "faces"
    (faces / "ada").mkdir(parents=True)
    (faces / "ada" / "1.HEIC").write_bytes(HEIC_START + encoded(picture(16, 16), "PNG"))
    (faces / "ada" / "2.heic").write_bytes(HEIC_START + encoded(picture(24, 16), "PNG"))
    path = os.pathsep.join([str(tmp_path / "packages"), str(ROOT)])
    words = ["data", "pack", faces, tmp_path / "out", "--size", "16", "--on-bad-record", "skip"]
    done = subprocess.run(
        [sys.executable, "-m", "facekd", *map(str, words)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 image of 1 identity" in done.stdout and done.stdout.rstrip().endswith("1 skipped")
    assert "2.heic: the image is 24x16 and the data set 16x16 pixels" in done.stderr
