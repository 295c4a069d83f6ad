"""Checks that files of named arrays come back mapped, and that damaged or foreign ones are refused."""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.files import array_file
from facekd.files.array_file import MAGIC, open_arrays, save_arrays

ARRAYS = {
    "rows": np.arange(12, dtype=np.int64).reshape(3, 4),
    "names": np.array(["a", "bcd"]),
    "flags": np.array([True, False, True]),
    "none": np.zeros((0, 5), np.float32),
    "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
}


def write(folder: Path) -> Path:
    save_arrays(folder / "arrays", {"what": "é", "stamp": [1, 2]}, ARRAYS)
    return folder / "arrays"


def test_arrays_come_back_mapped_and_read_only(tmp_path: Path) -> None:
    about, arrays = open_arrays(write(tmp_path))
    assert about == {"what": "é", "stamp": [1, 2]} and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert not arrays[name].flags.owndata and not arrays[name].flags.writeable
    assert all(array.__array_interface__["data"][0] % 64 == 0 for array in arrays.values() if array.size)


def test_a_damaged_header_is_always_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b'"rows"') + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged in its first"):
        open_arrays(path)


def test_a_damaged_array_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["rows"].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="the checksum of 'rows' differs"):
        open_arrays(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-100], r"is cut short: [\d,]+ bytes, expected"),
        (lambda content: content[:100], "is cut short or damaged in its first"),
        (lambda content: content[:6], "is not an array file"),
        (lambda content: content[:-1], r"is cut short"),
        (lambda content: b"", "is not an array file"),
        (lambda content: b"facekda1" + content[8:], "is not an array file of this version"),
    ],
)
def test_what_is_cut_or_of_another_kind_is_refused(tmp_path: Path, change, message: str) -> None:
    path = write(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        open_arrays(path)


def test_the_arrays_are_those_of_the_file_whose_header_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    loads = array_file.json.loads

    def replace_and_load(header: bytes) -> object:
        path.unlink()
        path.write_bytes(b"another file")
        return loads(header)

    monkeypatch.setattr(array_file.json, "loads", replace_and_load)
    np.testing.assert_array_equal(open_arrays(path)[1]["rows"], ARRAYS["rows"])


def test_a_part_of_the_file_belongs_to_one_array(tmp_path: Path) -> None:
    """A megabyte that thousands of arrays share would be read, for its checksum, thousands of times."""
    content = bytes(1 << 20)
    place = {"dtype": "u1", "shape": [len(content)], "offset": 0, "crc32": zlib.crc32(content)}
    whole = {"about": {}, "num_bytes": len(content), "arrays": {str(number): place for number in range(4000)}}
    header = json.dumps(whole).encode()
    path, checksum = tmp_path / "a", zlib.crc32(header)
    path.write_bytes(MAGIC + len(header).to_bytes(4, "little") + checksum.to_bytes(4, "little") + header + content)
    started = time.process_time()
    with pytest.raises(DataError, match="describes arrays of more bytes than it has"):
        open_arrays(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"[]",
        b'{"about": 5, "num_bytes": 0, "arrays": {}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": 5}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "O", "shape": [1], "offset": 0, "crc32": 0}}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "<f4", "shape": [8], "offset": -32, "crc32": 0}}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "<U0", "shape": [4000], "offset": 0, "crc32": 0}}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "V0", "shape": [9, 9], "offset": 0, "crc32": 0}}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "<f4", "shape": [-1], "offset": 0, "crc32": 0}}}',
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "<f4", "shape": [1' + b"0" * 5000 + b"]}}}",
        # Multiplying the sizes would take seconds, and minutes for ten times as many.
        b'{"about": {}, "num_bytes": 0, "arrays": {"a": {"dtype": "u1", "shape": ['
        + b"9, " * 200_000
        + b'9], "offset": 0, "crc32": 0}}}',
    ],
)
def test_a_header_from_elsewhere_with_a_right_checksum_is_refused_too(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little") + header)
    started = time.process_time()
    with pytest.raises(DataError, match=str(path)):
        open_arrays(path)
    assert time.process_time() - started < 1
