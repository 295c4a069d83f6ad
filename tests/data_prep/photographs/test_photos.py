"""Folders of photographs: searched at any depth, loops of links end, and what is left out is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_prep.photographs.photos import find_photos
from facekd.errors import DataError


def test_folders_are_searched_and_loops_of_links_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["b/two words.JPG", "a/été.png", "a/deep/er/x.jpeg", "top.webp", "a/.hidden.jpg", ".h/y.jpg", "a/note.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    assert find_photos(tmp_path) == sorted(names[:4])
    assert (
        "left out: 1 file that is not an image (a/note.txt), 2 hidden files and folders (.h, a/.hidden.jpg), "
        "2 links to folders listed already (a/loop, b/self)"
    ) in capsys.readouterr().err
    outside = tmp_path.with_name(tmp_path.name + "_outside")
    outside.mkdir()
    (outside / "z.jpg").write_bytes(b"x")
    (tmp_path / "linked").symlink_to(outside)
    assert "linked/z.jpg" in find_photos(tmp_path)
    raw = os.fsencode(tmp_path) + b"/latin\xe9.jpg"
    with open(raw, "wb") as stream:  # noqa: PTH123
        stream.write(b"x")
    assert b"latin\xe9.jpg" in map(os.fsencode, find_photos(tmp_path))


def test_folders_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_photos(tmp_path / "absent")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds no photographs"):
        find_photos(tmp_path)
