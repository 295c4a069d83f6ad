"""Checks that no verb writes where it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from data_prep import (
    align_faces,
    clean_records,
    convert_records,
    make_ijb_layout,
    make_pair_set,
    pack_records,
    unpack_records,
)
from facekd.commands.places import check_apart
from facekd.data.datasets.record_pack_writer import RecordPackWriter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with images of two people, and one with their pack."""
    for person in ("a", "b"):
        (tmp_path / "data" / "faces" / person).mkdir(parents=True)
        (tmp_path / "data" / "faces" / person / "1.jpg").write_bytes(b"\xff\xd8\xff")
    with RecordPackWriter(tmp_path / "data" / "pack", 32) as writer:
        writer.add(0, b"\xff\xd8\xff", "a/1.jpg")
    (tmp_path / "list.tsv").write_text("drop\t1\n")
    return tmp_path


def state_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("verb", "source", "options"),
    [
        (pack_records, "faces", ()),
        (convert_records, "faces", ()),
        (convert_records, "pack", ("--force",)),
        (align_faces, "faces", ("--landmarks", "{place}/list.tsv")),
        (make_ijb_layout, "faces", ()),
        (unpack_records, "pack", ()),
        (unpack_records, "pack/train.rec", ()),
        (clean_records, "pack", ("--apply", "{place}/list.tsv", "--force")),
        (clean_records, "pack/train.rec", ("--apply", "{place}/list.tsv")),
        (pack_records, "pack/train.lst", ("--root", "{place}/data/faces", "--force")),
    ],
)
def test_an_output_that_overlaps_is_refused_before_anything_is_written(
    place: Path, run: Run, verb: ModuleType, source: str, options: tuple
) -> None:
    read = place / "data" / source
    options = tuple(option.format(place=place) for option in options)
    before = state_of(place)
    inside = [read / "new"] if read.is_dir() else []
    (place / "link").symlink_to(read.parent)
    for output in (read, place / "data", read.parent, place / "link", *inside):
        status, _, err = run(verb.main, read, output, *options)
        assert status == 2 and "choose an output that does not overlap" in err and err.count("\n") == 1, (output, err)
    assert state_of(place) == before


def test_pairs_are_not_written_over_their_list(place: Path, run: Run) -> None:
    (place / "mine_pairs.txt").write_text("a/1.jpg b/1.jpg 0\n")
    before = state_of(place)
    faces = place / "data" / "faces"
    for output, pairs in ((place / "mine.bin", place / "mine_pairs.txt"), (faces / "new.bin", place / "list.tsv")):
        status, _, err = run(make_pair_set.main, faces, output, "--pairs", pairs)
        assert status == 2 and "does not overlap" in err
    assert state_of(place) == before


def test_places_beside_each_other_are_fine(place: Path) -> None:
    data = place / "data"
    check_apart(data / "new", data / "faces", data / "pack" / "train.rec", None, place / "not there")
    check_apart(data / "faces2", data / "faces")
    check_apart(data / "pairs.bin", data / "faces", place / "list.tsv")
    check_apart(place / "new.rec", data / "pack", place / "list.tsv")
