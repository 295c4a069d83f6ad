"""Checks that archives of arrays are refused by a sentence if they are damaged, or made to exhaust the memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.files.npy_files import FREE_UNPACKED_BYTES, read_npy, read_npz


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(dtype: str | list, shape: tuple[int, ...], version: int = 1) -> bytes:
    """A header that states any type and shape; nothing follows it."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 * version, "little") + text


def write(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", zeros=npy(np.zeros(FREE_UNPACKED_BYTES + (8 << 20), np.uint8)))
    with pytest.raises(DataError, match=r"a\.npz: unpacks to 75,497,600 bytes, but the file has \d\d,\d{3}"):
        read_npz(path, "write it again")


def test_sparse_numbers_in_a_compressed_archive_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", some=np.eye(500, dtype=np.float32), name=np.array(["Ann", "Bé"]))
    found = read_npz(tmp_path / "a.npz", "write it again")
    assert found["some"].sum() == 500
    assert found["name"].tolist() == ["Ann", "Bé"]


def test_what_is_no_text_and_no_array_is_refused(tmp_path: Path) -> None:
    codes = np.array([0x110000, 65], np.uint32)
    with pytest.raises(DataError, match="names in it is no text"):
        read_npz(write(tmp_path / "a.npz", names=npy(codes.view("<U2"))), "")
    with pytest.raises(DataError, match="names in it is no text"):
        read_npz(write(tmp_path / "a.npz", names=npy(codes.byteswap().view(">U2"))), "")
    with pytest.raises(DataError, match="odd in it is no array of numbers"):
        read_npz(write(tmp_path / "a.npz", odd=b"text"), "")
    encrypted = bytearray(write(tmp_path / "a.npz", x=npy(np.ones(3))).read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):  # sets the flag of encryption, there and in the directory
        encrypted[encrypted.index(start) + (6 if start[2] == 3 else 8)] |= 1
    (tmp_path / "a.npz").write_bytes(encrypted)
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as a \.npz archive of arrays .*encrypted"):
        read_npz(tmp_path / "a.npz", "")


STATED = [
    (header("<U0", (4 * 10**8,)), "values without bytes"),
    (header("<U0", (2**62, 2**62)), "values without bytes"),
    (header("|S0", (7,)), "values without bytes"),
    (header("|V0", (7,)), "values without bytes"),
    (header([], (7,)), "values without bytes"),
    (header([("a", "|V0")], (7,)), "values without bytes"),
    (header("<f4", (-1,)), "values without bytes"),
    (header("<f4", (10**12,)), "takes 4,000,000,000,000 bytes, and 0 are there"),
    (header("<f4", (2**62, 4)), "takes 73,786,976,294,838,206,464 bytes, and 0 are there"),
    (header("<f4", (2**62, 4), 2), "and 0 are there"),
    (b"\x93NUMPY\2\0\xff\xff\xff\xff{}", r"a header of 4,294,967,295 bytes; the file has 14"),
    (header("|O", (1,)), "could run code"),
    (header("<f4", (1,), 3), r"format 3\.0; expected 1\.0 or 2\.0"),
]


@pytest.mark.parametrize(("content", "message"), STATED)
def test_a_header_states_no_more_than_is_there(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    for mmap_mode in (None, "r"):
        with pytest.raises(DataError, match=rf"a\.npy: cannot be read as a \.npy file of numbers .*{message}"):
            read_npy(tmp_path / "a.npy", "", mmap_mode)
    with pytest.raises(DataError, match=rf"a\.npz: cannot be read as a \.npz archive of arrays .*{message}"):
        read_npz(write(tmp_path / "a.npz", names=content), "")


def test_arrays_of_nothing_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", none=np.zeros((0, 5)), text=np.array([], np.str_), one=np.array(3), empty=np.array(""))
    found = read_npz(tmp_path / "a.npz", "")
    assert found["none"].shape == (0, 5) and found["text"].shape == (0,)
    assert found["one"].item() == 3 and found["empty"].item() == ""


def test_arrays_that_nobody_asks_for_are_left_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x=npy(np.arange(3)), odd=b"text", huge=npy(np.zeros(80 << 20, np.uint8)))
    assert {name: value.tolist() for name, value in read_npz(path, "", ("x", "y")).items()} == {"x": [0, 1, 2]}
    for name, message in (("odd", "odd in it is no array"), ("huge", r"unpacks to 83,886,\d+ bytes")):
        with pytest.raises(DataError, match=message):
            read_npz(path, "", ("x", name))


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_order_are_read_and_mapped(order: str, tmp_path: Path) -> None:
    array = np.asarray(np.arange(12, dtype=">f4").reshape(3, 4), order=order)  # pyright: ignore[reportCallIssue, reportArgumentType]
    np.save(tmp_path / "a.npy", array)
    read, mapped = read_npy(tmp_path / "a.npy", ""), read_npy(tmp_path / "a.npy", "", "r")
    for found in (read, mapped):
        assert found.dtype == array.dtype and found.flags.f_contiguous == array.flags.f_contiguous
        np.testing.assert_array_equal(found, array)
    assert read.flags.writeable and isinstance(mapped, np.memmap) and not mapped.flags.writeable
