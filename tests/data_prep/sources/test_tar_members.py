"""Checks that no damage of a tar loses samples without a word, or has tarfile read without limit."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from data_prep.sources.image_sources import open_source
from facekd.errors import DataError

IMAGE = b"\xff\xd8\xff" + bytes(range(100))
END = bytes(1024)


def member(name: str, content: bytes, kind: bytes = b"0", size: int | None = None) -> bytes:
    """Returns a member; with `size`, its header says that instead, in the binary form that holds any number."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    head[156:157] = kind
    if size is not None:
        head[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % (1 << 88)).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def samples(count: int) -> bytes:
    """Returns samples of two members; each takes 2,048 bytes."""
    pairs = [(member(f"{at:04d}.jpg", IMAGE), member(f"{at:04d}.cls", b"%d" % (at % 2))) for at in range(count)]
    return b"".join(image + label for image, label in pairs)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def pax(records: bytes) -> bytes:
    return member("pax", records, b"x")


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n"
    return f"{len(text) + len(str(len(text) + 2))}{text}".encode()


BROKEN = {
    "a damaged header": (flipped(samples(4) + END, 4096 + 20), "bad checksum at byte 4,096"),
    "cut in a member": (samples(4)[:4700], "0002.jpg at byte 4,096 has 103 bytes, and the whole file 4,700"),
    "cut in a header": (samples(4)[:4200], "truncated header at byte 4,096"),
    "cut between members": (samples(4)[:4096], "stops at byte 4,096, without the empty blocks"),
    "two tars joined": (samples(2) + END + samples(3) + END, "something follows the end of the archive at byte 4,096"),
    "an absurd size": (
        samples(1) + member("x.jpg", IMAGE, size=1 << 44),
        "17,592,186,044,416 bytes, and the whole file",
    ),
    "an absurd label": (
        member("a.jpg", IMAGE) + member("a.cls", b"1", size=1 << 44),
        "a.cls at byte 1,024 has 17,592,",
    ),
    "a negative size": (samples(1) + member("x.jpg", b"", size=-1024) + END, "x.jpg has a negative size"),
    "an absurd pax header": (samples(1) + member("p", b"", b"x", 1 << 44), "a header of 17,592,186,044,416 bytes"),
    "an absurd long name": (samples(1) + member("p", b"", b"L", 1 << 44), "a header of 17,592,186,044,416 bytes"),
    "a negative pax size": (pax(record("size", "-512")) + samples(1) + END, "not a complete tar file"),
    "a sparse member": (member("a.jpg", IMAGE, b"S") + member("a.cls", b"1") + END, "a.jpg is a sparse member"),
    "damaged sparse records": (
        pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")) + member("a.jpg", IMAGE) + END,
        "a complete tar file",
    ),
    "nested JSON": (member("a.jpg", IMAGE) + member("a.json", b"[" * 100_000) + END, "sample a has no label"),
    "a long number": (member("a.jpg", IMAGE) + member("a.cls", b"9" * 5000) + END, "sample a has no label"),
    "a long label": (member("a.jpg", IMAGE) + member("a.cls", b" " * (1 << 21)) + END, r"\.cls has 2,097,152 bytes"),
    "a name that moves the cursor": (
        member("\x1b]0;a.jpg", IMAGE) + member("\x1b]0;a.cls", b"x") + END,
        r"\\x1b\]0;a has",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tar_is_refused_by_a_sentence(name: str, tmp_path: Path) -> None:
    content, expected = BROKEN[name]
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"t.tar.*{expected}"):
        open_source(tmp_path / "t.tar")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whole_tars_of_every_format_are_read(kind: int, tmp_path: Path) -> None:
    folder = "d" * 150 + "é" if kind != tarfile.USTAR_FORMAT else "d"
    with tarfile.open(tmp_path / "t.tar", "w", format=kind) as archive:
        for at in range(3):
            for suffix, content in ((".jpg", IMAGE + bytes([at])), (".json", b'{"label": %d, "name": "n"}' % (at % 2))):
                info = tarfile.TarInfo(f"{folder}/{at}{suffix}")
                info.size, info.mtime = len(content), 0.5
                archive.addfile(info, io.BytesIO(content))
    source = open_source(tmp_path / "t.tar")
    assert source.labels.tolist() == [0, 1, 0]
    assert [source.read(image) for image in range(3)] == [IMAGE + bytes([at]) for at in range(3)]
