"""Checks that arrays mapped for writing have their room on the disk first: without it a full disk ends the process."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from facekd.files.mapped_arrays import create_npy, map_for_writing
from tests.full_disk import full_disk

SHAPE = (1000, 512)


def test_a_new_array_has_its_room_and_is_read_as_numpy_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = create_npy(path, np.dtype("<f4"), SHAPE)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > array.nbytes == 4 * 512_000
    array[7] = 7
    array.flush()
    np.save(tmp_path / "b.npy", np.where(np.arange(1000)[:, None] == 7, 7, np.zeros(SHAPE, "<f4")).astype("<f4"))
    assert path.read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_an_array_with_holes_gets_its_room_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, "w+", np.int64, SHAPE)[3] = 3  # as an earlier facekd made them
    assert path.stat().st_blocks * 512 < path.stat().st_size
    array = map_for_writing(path)
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert array[3].tolist() == [3] * 512 and array.sum() == 3 * 512


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    create_npy(tmp_path / "victim.npy", np.dtype("<f4"), (2, 3)).flush()
    (tmp_path / "a.npy").symlink_to(tmp_path / "victim.npy")
    with pytest.raises(OSError, match="a link or a device lies where facekd writes a file of its own"):
        map_for_writing(tmp_path / "a.npy")


def test_too_little_room_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with full_disk(100_000), pytest.raises(OSError) as caught:
        create_npy(path, np.dtype("<f4"), SHAPE)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
