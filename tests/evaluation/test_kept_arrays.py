"""Checks that kept embeddings which others have made are not used."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from evaluation.kept_arrays import END_MARK, read_kept, write_kept


def signed(path: Path, content: bytes) -> None:
    checksum = zlib.crc32(content, zlib.crc32(path.name.encode()))
    path.write_bytes(content + END_MARK + checksum.to_bytes(4, "little"))


def test_an_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_kept(tmp_path / "a.npy", array)
    found = read_kept(tmp_path / "a.npy")
    assert found is not None and found.dtype == array.dtype and (found == array).all()
    assert read_kept(tmp_path / "b.npy") is None


def test_what_others_have_signed_is_no_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, objects = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.zeros(2))
    np.save(objects, np.array([{}]), allow_pickle=True)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"
    for number, content in enumerate((archive.getvalue(), objects.getvalue(), header.ljust(127) + b"\n")):
        path = tmp_path / f"{number}.npy"
        signed(path, content)
        assert read_kept(path) is None
        assert capsys.readouterr().err.startswith(f"{path}: cannot be used (")
    os.mkfifo(tmp_path / "pipe.npy")
    assert read_kept(tmp_path / "pipe.npy") is None
    assert "is a named pipe" in capsys.readouterr().err
