"""Lists the readers of data sets: RecordIO packs, their indexes and the copies of what was read, tars, and CIFAR."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import pickle
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sources.image_sources import open_source
from facekd.data.datasets.cifar_dataset import GENERATED, GENERATED_FORMAT, CifarDataset
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.recordio import Header, idx_file, pack
from facekd.data.recordio.format import frame
from facekd.errors import RecordError
from facekd.files.array_cache import load_cached, save_cached
from facekd.files.array_file import ALIGNMENT, MAGIC, START_BYTES
from tests.fuzz.target import Target, rows_of
from tests.fuzz.targets.binary_targets import encoded
from tests.hostile_values import JSON_KINDS, changed_by

RECORD_MAGIC = (0xCED7230A).to_bytes(4, "little")
CACHED = {"labels": np.arange(40, dtype=np.int64), "keys": np.arange(7, dtype=np.uint32)[:, None]}
SOURCE = {"stamp": [1, 2]}
HEADER_KINDS = {
    **JSON_KINDS,
    **{text: text for text in ("<f4", "|u1", "<U3", "|V0", "|O", "<M8[s]", "(2,)<i4")},
    **{str(shape): shape for shape in ([], [0], [-1, -2], [2, 20], [2**40, 0], [7, True], [40, 1])},
    **{str(offset): offset for offset in (0, 8, 63, 64, 320)},
}
IDX_CHUNK = 96  # bytes; a block then ends within most lines


def record(label: Any, content: bytes, key: int) -> bytes:
    """Returns the bytes of a record that needs no splitting."""
    payload = pack(Header(0, label, key, 0), content)
    return RECORD_MAGIC + len(payload).to_bytes(4, "little") + payload + bytes(-len(payload) % 4)


def rec_seeds() -> list[bytes]:
    """Returns an im2rec file, one of InsightFace's layout, and one of split records, all without .idx."""
    image = encoded()
    plain = b"".join(record(float(key % 2), image, key) for key in range(4))
    # InsightFace numbers records from 0 only by its .idx, so without one this is a file of odd records.
    people = [record(np.array([1.0, 3.0]), b"", 5), record(np.array([3.0, 5.0]), b"", 6)]
    # Content that looks like the beginning of a record is cut there.
    split = [frame(pack(Header(0, float(key % 2), key, 0), b"\xff\xd8" + RECORD_MAGIC * 2 + b"ab")) for key in range(3)]
    return [plain, plain + b"".join(people) + record(np.array([5.0, 7.0]), b"", 0), b"".join(split)]


def _read_pack(path: Path) -> list[tuple[bytes, int]]:
    """Reads a pack image by image; many at once, as training does, must give the same."""
    path = path.with_name("train.rec")
    lenient = open_record_pack(path, "skip")
    labels = lenient.labels().tolist()
    for image in range(min(lenient.num_images, 50)):
        alone, together = _read_image(lenient, image), _read_images(lenient, [image])
        assert together == (None if alone is None else [alone])
        assert alone is None or labels[image] == alone[1]

    found = open_record_pack(path, "fail")
    labels = found.labels().tolist()
    images = [found.read_image(image) for image in range(min(found.num_images, 50))]
    assert labels[: len(images)] == [label for _, label in images]
    assert _read_images(found, range(len(images))) == images
    return images


def _read_image(found: RecordPack, image: int) -> tuple[bytes, int] | None:
    try:
        return found.read_image(image)
    except RecordError:
        return None


def _read_images(found: RecordPack, images: Any) -> list[tuple[bytes, int]] | None:
    try:
        contents, labels = found.read_images(np.array(images, np.int64))
    except RecordError:
        return None
    return [(bytes(content), label) for content, label in zip(contents, labels.tolist(), strict=True)]


def _check_records(content: bytes, images: list[tuple[bytes, int]]) -> None:
    """Has images that lie in the file as they are; where a record is split, its parts do, between which the mark is."""
    for image, _ in images:
        assert all(part in content for part in image.split(RECORD_MAGIC))


def _rec_beside(folder: Path) -> None:
    (folder / "train.rec").write_bytes(rec_seeds()[0])


def _idx_seeds() -> list[bytes]:
    """Returns indexes as they are written, in other forms, and one of many lines of equal width."""
    lengths = np.cumsum([0, *(len(record(0.0, encoded(), 0)) for _ in range(3))])
    texts = ["".join(f"{key}\t{offset}\n" for key, offset in enumerate(lengths)), "3 4\n1  0\n"]
    texts += ["0\t0\r\n1\t16\r\n12\t2048\r\n", "\ufeff0\t0\n1\t16"]
    texts.append("".join(f"{key}\t{1000 * key}\n" for key in range(95, 115)))
    return [*(text.encode() for text in texts), texts[0].encode("utf-16")]


def _read_idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads an index by each of the ways, in blocks that end anywhere, and the pack beside it."""
    found = idx_file.parse_idx(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idx_file, "BYTES_CHUNK", IDX_CHUNK)
        ways = idx_file._parse_runs(path), idx_file._parse_plain(path.read_bytes()), idx_file._parse_any(path)
    for way in ways:
        if way is not None:
            np.testing.assert_array_equal(way, found)
    with contextlib.suppress(RecordError):
        _read_pack(path)
    return found


def _check_idx(content: bytes, found: Any) -> None:
    """Compares with Python's own parsing, a line at a time."""
    rows = [[int(word) for word in row.split()] for row in rows_of(content)]
    keys, offsets = found
    assert [[key, offset] for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True)] == rows


@functools.cache
def _saved() -> tuple[dict[str, Any], bytes]:
    """Returns the header of a file of arrays, and what is behind it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        save_cached(path, SOURCE, CACHED)
        whole = path.read_bytes()
    start = START_BYTES + int.from_bytes(whole[8:12], "little")
    return json.loads(whole[START_BYTES:start]), whole[start:]


def _read_cache(path: Path) -> Any:
    """Reads a file of arrays with this header, in which all checksums are right and the stamp is known.

    Bytes that are no JSON choose values of the header that change.
    """
    content, (sound, arrays) = path.read_bytes(), copy.deepcopy(_saved())
    header: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(content)
    header = header if isinstance(header, dict) else changed_by(content, sound, HEADER_KINDS)
    if isinstance(header.get("about"), dict):
        header["about"] = {**header["about"], "source": SOURCE}
    for place, end in _places_in(header, len(arrays)):
        place["crc32"] = zlib.crc32(arrays[place["offset"] : end])
    text = json.dumps(header).encode()
    text += b" " * (-(START_BYTES + len(text)) % ALIGNMENT)
    whole = MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text + arrays
    path.write_bytes(whole)

    # Whatever arrays the header describes, they are bytes of the file.
    found = load_cached(path, SOURCE)
    for array in {} if found is None else found[1].values():
        assert array.tobytes() in whole and not array.dtype.hasobject
    return found


def _places_in(content: dict[str, Any], most: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields the places of arrays that a header describes, and their ends, where both are within so many bytes."""
    places = content.get("arrays")
    for place in places.values() if isinstance(places, dict) else ():
        with contextlib.suppress(Exception):
            end = place["offset"] + np.dtype(place["dtype"]).itemsize * int(np.prod(place["shape"]))
            if type(end) is int and 0 <= place["offset"] <= end <= most:
                yield place, end


def _tar_seeds() -> list[bytes]:
    """Returns two archives; a byte more says that checksums of headers are put right before they are read."""
    stream, described = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2):
            for suffix, content in ((".jpg", encoded()), (".cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    with tarfile.open(fileobj=described, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for suffix, content in ((".png", encoded(".png")), (".json", b'{"label": 1, "name": "n/1.png"}')):
            member = tarfile.TarInfo("\u00e9" * 60 + suffix)
            member.size, member.mtime = len(content), 0.5
            archive.addfile(member, io.BytesIO(content))
    return [stream.getvalue(), stream.getvalue() + b"\0", described.getvalue() + b"\0"]


def _read_tar(path: Path) -> list[bytes]:
    """Reads a tar, half of them with right checksums in all headers, which damage would almost never leave."""
    content = bytearray(path.read_bytes())
    if len(content) % 2:
        del content[-1]
        for start in range(0, len(content) - 511, 512):
            if content[start + 257 : start + 262] == b"ustar":
                content[start + 148 : start + 156] = b" " * 8
                content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
        path.write_bytes(content)
    source = open_source(path)
    assert len(source.labels) == 0 or source.labels.min() >= 0
    images = [source.read(image) for image in range(min(len(source.labels), 20))]

    # They are members of the archive, by Python's own reading.
    with tarfile.open(path, "r:") as archive:
        opened = (archive.extractfile(member) for member in archive if member.isreg())
        members = {content.read() for content in opened if content is not None}
    assert members.issuperset(images)
    return images


CIFAR_TEXTS = {"fine_label_names": ["a", "b"], "coarse_label_names": ["c"]}


def cifar_file(count: int) -> dict[str, Any]:
    return {
        "data": np.zeros((count, 3072), np.uint8),
        "fine_labels": [0, 1] * (count // 2),
        "coarse_labels": [0] * count,
    }


def _cifar_seeds() -> list[bytes]:
    return [pickle.dumps(cifar_file(2), protocol) for protocol in (2, 4)]


def prepare_cifar(folder: Path) -> None:
    (folder / "meta").write_bytes(pickle.dumps(CIFAR_TEXTS, 2))
    (folder / "test").write_bytes(pickle.dumps(cifar_file(2), 2))


def read_cifar(path: Path) -> CifarDataset:
    """Reads the file as part of a generated set, whose list says the md5 that it has now."""
    md5 = {name: hashlib.md5((path.parent / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    (path.parent / GENERATED).write_text(json.dumps({"format": GENERATED_FORMAT, "md5": md5}))
    return CifarDataset(path.parent)


def check_cifar(_: bytes, found: Any) -> None:
    images, labels = found.load(np.arange(len(found)))
    assert len(images) == len(labels) > 0
    assert set(labels.tolist()) <= {0, 1}


TARGETS = [
    Target("rec", "train.rec", _read_pack, rec_seeds, _check_records, copies=60),
    Target(
        "idx",
        "train.idx",
        _read_idx,
        _idx_seeds,
        _check_idx,
        prepare=_rec_beside,
    ),
    Target("cache", "cache", _read_cache, lambda: [json.dumps(_saved()[0]).encode(), b""]),
    Target("tar", "train.tar", _read_tar, _tar_seeds),
    Target("cifar", "train", read_cifar, _cifar_seeds, check_cifar, prepare_cifar, 10, is_named=False),
]
