"""Makes images as few encoders write them, and as somebody would who wants to do harm; all from some hundred bytes."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
from PIL import Image

from facekd.images.heif import HAS_AVIF, HAS_HEIC, register_heic

JPEG_START, END = b"\xff\xd8", b"\xff\xd9"
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0%c"  # a segment that says how colours are transformed
# Blocks of brightness, across and down, for one of each colour, such as no encoder here writes.
ODD_SAMPLING = (0x31, 0x13, 0x24)
UNSIGNED, SIGNED, SIGNED_LONG8 = 4, 9, 17  # kinds of numbers in a TIFF; Pillow does not know the last


def picture(width: int = 16, height: int = 16, channels: int = 3) -> np.ndarray:
    """Returns a smooth picture (H, W, channels)."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def saved(pixels: np.ndarray, file_format: str, mode: str = "RGB", **options: object) -> bytes:
    """Encodes RGB pixels (H, W, 3) by Pillow, in another mode if one is given."""
    stream = io.BytesIO()
    if file_format == "HEIF":
        register_heic()
    Image.fromarray(pixels).convert(mode).save(stream, file_format, **options)
    return stream.getvalue()


def frame_changed(
    jpeg: bytes,
    width: int | None = None,
    height: int | None = None,
    sampling: int | None = None,
    kind: int | None = None,
    precision: int | None = None,
) -> bytes:
    """Returns a JPEG whose header tells another size, sampling of its first channel, coding or number of bits."""
    start = next(place for kind in (b"\xff\xc0", b"\xff\xc2") if (place := jpeg.find(kind)) >= 0)
    changed = bytearray(jpeg)
    for place, value in ((start + 1, kind), (start + 4, precision), (start + 11, sampling)):
        changed[place] = changed[place] if value is None else value
    for place, side in ((start + 5, height), (start + 7, width)):
        if side is not None:
            changed[place : place + 2] = side.to_bytes(2, "big")
    return bytes(changed)


def grey_of_sampling(sampling: int) -> bytes:
    """Makes a whole JPEG with one group of blocks, all middle grey, of a sampling that no encoder here writes."""
    across, down = sampling >> 4, sampling & 15
    head = _up_to_its_pixels(saved(np.full((8, 8, 3), 128, np.uint8), "JPEG", subsampling=0))
    # A block of nothing is 00 1010 in libjpeg's codes for brightness, 00 00 in those for colour; ones fill up.
    bits = "001010" * (across * down) + "0000" * 2
    bits += "1" * (-len(bits) % 8)
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return frame_changed(head + pixels + END, 8 * across, 8 * down, sampling)


def _up_to_its_pixels(jpeg: bytes) -> bytes:
    return jpeg[: jpeg.rindex(b"\xff\xda") + 14]


def cut_in_half(jpeg: bytes) -> bytes:
    """Returns the first half of a JPEG's pixel data, with an end marker as if it were whole."""
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[: (start + len(jpeg)) // 2] + END


def last_scan_repeated(progressive: bytes, count: int) -> bytes:
    """Returns a progressive JPEG with its last scan `count` times more."""
    body = progressive.removesuffix(END)
    return body + body[body.rindex(b"\xff\xda") :] * count + END


def jpegs() -> dict[str, bytes]:
    """Returns JPEGs of many kinds that decode, by name."""
    plain, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    noise = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))[1].tobytes()
    usual = saved(plain, "JPEG")
    tables, scan = usual.index(b"\xff\xdb"), usual.index(b"\xff\xda")
    return {
        "opencv": noise,
        "progressive": saved(plain, "JPEG", progressive=True),
        "444": saved(plain, "JPEG", subsampling=0),
        "441": grey_of_sampling(0x14),
        "exif": saved(picture(24, 16), "JPEG", exif=exif.tobytes()),
        "grey": saved(plain, "JPEG", "L"),
        "cmyk": saved(plain, "JPEG", "CMYK"),
        "restarts": saved(plain, "JPEG", restart_marker_blocks=1),
        "optimised": saved(plain, "JPEG", optimize=True),
        "padded": usual[:tables] + b"\0\0\0" + usual[tables:],
        "of a later JFIF": usual[:11] + b"\2" + usual[12:],
        "of a later Adobe": JPEG_START + ADOBE % 7 + usual[20:],
        "without spectrum": usual[: scan + 11] + bytes(3) + usual[scan + 14 :],
        # Arithmetic coding: nothing at all means some image, by the start of its statistics.
        "arithmetic": frame_changed(_up_to_its_pixels(saved(plain, "JPEG")) + END, kind=0xC9),
    }


def refused_jpegs() -> dict[str, bytes]:
    """Returns JPEGs that must be refused, by name."""
    sound = saved(picture(), "JPEG", subsampling=0)
    progressive = saved(picture(), "JPEG", progressive=True)
    odd = {f"sampling {sampling:x}": grey_of_sampling(sampling) for sampling in ODD_SAMPLING}
    huge = {
        f"20,000 pixels, {name}": frame_changed(sound, 20000, 20000, sampling)
        for name, sampling in (("usual", None), *((f"{sampling:x}", sampling) for sampling in ODD_SAMPLING))
    }
    return {
        **odd,
        **huge,
        "half": cut_in_half(sound),
        "half progressive": cut_in_half(progressive),
        "many scans": last_scan_repeated(progressive, 100),
        "12 bits": frame_changed(sound, precision=12),
        "no lines": frame_changed(sound, height=0),
        "lossless": frame_changed(sound, kind=0xC3),
    }


def others() -> dict[str, bytes]:
    """Returns images of the other formats that decode here, by name."""
    plain = picture()
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("png", "PNG", {}),
        ("bmp", "BMP", {}),
        ("gif", "GIF", {}),
        ("webp", "WEBP", {}),
        ("lossless webp", "WEBP", {"lossless": True}),
        ("tiff", "TIFF", {}),
        ("tiff of lzw", "TIFF", {"compression": "tiff_lzw"}),
        ("tiff of jpeg", "TIFF", {"compression": "jpeg"}),
        ("jpeg 2000", "JPEG2000", {}),
        ("ppm", "PPM", {}),
        *([("avif", "AVIF", {"speed": 10})] if HAS_AVIF else []),
        *([("heic", "HEIF", {})] if HAS_HEIC else []),
    ]
    found = {name: saved(plain, file_format, **options) for name, file_format, options in kinds}
    found["tiff in a tile"] = tiff(32, 32)
    found["palette"] = saved(plain, "PNG", "P")
    found["alpha"] = saved(plain, "PNG", "RGBA")
    found["sixteen bits"] = cv2.imencode(".png", plain.astype(np.uint16) * 257)[1].tobytes()
    found["animated gif"] = saved(plain, "GIF", save_all=True, append_images=[Image.fromarray(plain[::-1])])
    found["animated webp"] = saved(plain, "WEBP", save_all=True, append_images=[Image.fromarray(plain[::-1])])
    return found


PART_LENGTHS = (2**29, 2**32 - 45)  # OpenCV took and filled so much memory


def refused_others() -> dict[str, bytes]:
    """Returns images of other formats that must be refused before a decoder takes memory, by name."""
    png, side = saved(picture(), "PNG"), 16000
    gif = struct.pack("<HHBBBBHHHHB", side, side, 0, 0, 0, ord(","), 0, 0, side, side, 0)
    return {
        "png": png[:16] + struct.pack(">II", side, side) + png[24:],
        "png without header": png[:12] + b"tEXt" + png[16:],
        **{
            f"png, part of {length:,} bytes": png[:33] + struct.pack(">I", length) + png[37:] for length in PART_LENGTHS
        },
        "bmp": b"BM" + struct.pack("<IHHIIiiHH", 600, 0, 0, 54, 40, side, -side, 1, 24) + bytes(500),
        "ppm": b"P6 %d %d 255\n" % (side, side) + bytes(100),
        "pgm of 12 bits": b"P5 4 4 # of a sensor\n4095\n" + bytes(32),
        "ppm of 2 values": b"P6\n4\n4\n1\n" + bytes(48),
        "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n" + bytes(64),
        "pfm": b"PF\n4 4\n-1.0\n" + bytes(192),
        "pam": b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(48),
        "tiff": tiff(side),
        "gif": b"GIF89a" + gif + b"\2\1\0\0;",
        **{f"tiff, tile of kind {kind}": tiff(16, side, kind) for kind in (UNSIGNED, SIGNED, SIGNED_LONG8)},
    }


def tiff(side: int, tile: int = 0, kind: int = UNSIGNED) -> bytes:
    """Returns a grey TIFF with 1,024 bytes of pixels, in one strip, or in a tile if its side is given.

    Args:
        side: width and height that it announces.
        tile: width and height of the tile.
        kind: the TIFF's number for how they are written; 17 has eight bytes, and gets a strip as well.
    """
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1}
    if not tile or kind == SIGNED_LONG8:
        tags |= {273: 0, 278: side, 279: 1024}
    if tile:
        tags |= {322: tile, 323: tile, 324: 0, 325: 1024}
    behind = 8 + 2 + 12 * len(tags) + 4
    tags |= {tag: behind + 8 for tag in (273, 324) if tag in tags}
    entries = [
        (tag, kind, 1, behind if kind == SIGNED_LONG8 else value) if tag in (322, 323) else (tag, UNSIGNED, 1, value)
        for tag, value in sorted(tags.items())
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + directory + bytes(4) + struct.pack("<Q", tile) + bytes(range(256)) * 4
