"""Checks that archives of arrays are refused by a sentence if they are damaged, or made to exhaust the memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.files.npy_files import FREE_UNPACKED_BYTES, read_npz


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


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
