"""What a user names becomes a list of images, each with a name and perhaps a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.errors import DataError, RecordError
from facekd.faces.image_inputs import list_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/1.jpg", "in/Ada/1.jpg", "in/Ada/2.jpg", "in/2020/Bob/1.png", "other/3.jpg", "in/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_person_is_the_subfolder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = list_images(["in", "other/3.jpg"])
    expected = {"in/1.jpg": "", "in/2020/Bob/1.png": "Bob", "in/Ada/1.jpg": "Ada", "in/Ada/2.jpg": "Ada"}
    assert dict(zip(images.names, images.people, strict=True)) == {**expected, "other/3.jpg": ""}
    assert [Path(str(images.read(index))).read_bytes().decode() for index in range(5)] == list(images.names)
    assert "warning: in: left out: 1 file that is not an image (notes.txt)" in capsys.readouterr().err


def test_folders_of_one_name_are_one_person_and_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_images(["in"])
    assert "one person" not in capsys.readouterr().err
    (here / "other" / "Ada").mkdir()
    (here / "other" / "Ada" / "9.jpg").write_bytes(b"9")
    assert sum(person == "Ada" for person in list_images(["in", "other"]).people) == 3
    said = "1 person has images in several folders of one name, which count as one person each: the first Ada, in "
    assert said + "in/Ada, other/Ada" in capsys.readouterr().err


def test_records_and_packs_are_named_by_key_and_number(
    here: Path, write_records: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(here / "pack", [(9, 4, 1), (3, 5, 2)])
    write_pair_pack(here / "p.bin", [b"\xff\xd8a", b"\xff\xd8b"], [True])
    images = list_images(["pack/train.rec", "p.bin", "pack"])
    assert images.names == ["pack/train.rec#9", "pack/train.rec#3", "p.bin#0", "p.bin#1"]
    assert images.people == ["4", "5", "", ""]
    assert images.read(3) == b"\xff\xd8b" and bytes(images.read(0)).startswith(b"\xff\xd8")  # type: ignore[arg-type]
    assert "2 images are named more than once; each is embedded once" in capsys.readouterr().err


def test_labels_of_two_packs_are_not_the_same_people_and_those_of_shards_are(
    here: Path, write_records: Callable[..., Path]
) -> None:
    for name in ("a", "b"):
        write_records(here / name, [(1, 4, 1)])
    assert list_images(["a", "b/train.rec"]).people == ["a:4", "b/train.rec:4"]
    (here / "b" / "train.rec").rename(here / "a" / "more.rec")
    (here / "b" / "train.idx").rename(here / "a" / "more.idx")
    assert list_images(["a"]).people == ["4", "4"]


def test_lists_name_paths_and_people(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "list.txt").write_bytes(b"in/1.jpg\tEve Ng\r\n\n./in/../in/1.jpg\nin/Ada/\xe9.jpg\n")
    images = list_images(["in/1.jpg"], [here / "list.txt"])
    assert (images.names, images.people) == (["in/1.jpg", "in/Ada/\udce9.jpg"], ["", ""])
    assert list_images([], [here / "list.txt"]).people == ["Eve Ng", ""]


@pytest.mark.parametrize("line", ["a" * 4097, f"a.jpg\t{'a' * 4097}"])
def test_a_name_in_a_list_that_is_longer_than_any_path_is_refused(here: Path, line: str) -> None:
    Path("l.txt").write_text(f"x/1.jpg\n{line}\n")
    with pytest.raises(DataError, match=r"l\.txt: aaa.* has 4,097 characters, and a path at most 4,096"):
        list_images([], [Path("l.txt")])


def test_the_fingerprint_changes_with_names_people_and_files(here: Path) -> None:
    (here / "list.txt").write_text("in/1.jpg\tAda\n")
    known = {list_images(["in"]).fingerprint(), list_images([], [here / "list.txt"]).fingerprint()}
    assert list_images(["in"]).fingerprint() in known
    (here / "list.txt").write_text("in/1.jpg\tBob\n")
    known.add(list_images([], [here / "list.txt"]).fingerprint())
    (here / "in" / "1.jpg").write_bytes(b"longer than before")
    known |= {list_images(["in"]).fingerprint(), list_images([], [here / "list.txt"]).fingerprint()}
    (here / "in" / "1.jpg").unlink()
    known.add(list_images([], [here / "list.txt"]).fingerprint())
    assert len(known) == 6


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("absent", "absent: no such file or folder; expected a photograph, a folder"),
        ("in/notes.txt", r"notes\.txt: is no image by its name; expected a photograph"),
        ("empty", r"empty: holds no images, neither do its subfolders; images end in \.jpg"),
        ("broken.bin", r"broken\.bin: cannot be read as a pack"),
        ("broken.npz", r"broken\.npz: cannot be read as a pack of facekd"),
        ("broken.rec", r"broken\.rec"),
        ("gallery.npz", r"gallery\.npz: is a gallery, whose faces are embedded already; give images"),
        ("list:in", r"in: is a folder; expected a list of paths"),
        ("list:blank", "blank: lists no images; expected a path on each line"),
        ("list:columns", "columns: 1 line has more than two columns, the first that of a; expected a path"),
    ],
)
def test_what_is_no_input_is_said(here: Path, word: str, message: str) -> None:
    (here / "empty").mkdir()
    for name in ("broken.bin", "broken.npz", "broken.rec"):
        (here / name).write_bytes(b"PK\x03\x04 nothing")
    np.savez(here / "gallery.npz", about=np.array("{}"), embeddings=np.zeros(3))
    (here / "blank").write_text("\n \n")
    (here / "columns").write_text("a\tb\tc\n")
    kind, _, rest = word.rpartition(":")
    with pytest.raises((DataError, RecordError), match=message):
        list_images([] if kind else [word], [here / rest] if kind else [])
