"""Rows of embeddings in .npy files: header and rows are of one file, whatever becomes of its path."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evaluation.sets.embedding_rows import NpyRows
from facekd.errors import DataError


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_those_of_the_file_whose_header_was_read(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.npy"
    rows = np.random.default_rng(0).normal(size=(4, 8))
    np.save(path, rows if order == "C" else np.asfortranarray(rows))
    read_magic = np.lib.format.read_magic

    def replace_and_read(stream: object) -> object:
        path.unlink()
        np.save(path, np.zeros((4, 8)))
        return read_magic(stream)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "read_magic", replace_and_read)
        opened = NpyRows(path, None, False, 4)
    np.testing.assert_array_equal(opened.read(1, 4)[0], rows[1:])


def test_a_pipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.npy")
    with pytest.raises(DataError, match=r"e\.npy: is a named pipe"):
        NpyRows(tmp_path / "e.npy", None, False, 4)


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        NpyRows(tmp_path, None, False, 4)
    assert str(caught.value.filename) == str(tmp_path)
