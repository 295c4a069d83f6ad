"""Checks that a file replaced while it is read is noticed, however it is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facekd.errors import DataError
from facekd.files.unchanged import unchanged


def replace_by_rename(path: Path) -> None:
    """Replaces a file by one of the same size and modification time."""
    status = path.stat()
    path.with_name("new").write_bytes(b"B" * status.st_size)
    path.with_name("new").rename(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replace_by_rename, Path.unlink, lambda path: path.write_bytes(b"longer")])
def test_a_changed_file_is_named(change, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"AAAA")
    with pytest.raises(DataError, match=rf"{tmp_path / 'b'}: was replaced"), unchanged(tmp_path / "a", tmp_path / "b"):
        change(tmp_path / "b")


def test_files_that_stay_or_were_never_there_pass(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"AAAA")
    with unchanged(tmp_path / "a", tmp_path / "absent"):
        assert (tmp_path / "a").read_bytes() == b"AAAA"
