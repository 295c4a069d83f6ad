"""Folders and lists as they come: links in a loop, names in any script, contradictory labels, very many files."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import (
    align_faces,
    convert_records,
    inspect_records,
    make_ijb_layout,
    make_pair_set,
    pack_records,
    unpack_records,
)
from data_prep.sources.image_lists import list_folder, read_lst_and_kind
from evaluation.sets.face_folder import FaceFolder
from facekd.data.datasets import FolderDataset, open_dataset
from facekd.data.datasets.record_pack import open_record_pack
from facekd.errors import DataError, ImageError
from facekd.images.decoding import decode_rgb
from facekd.images.image_files import IMAGE_SUFFIXES

Run = Callable[..., tuple[int, str, str]]
NAMES = [
    "Łukasz Żółć/zdjęcie 1.jpg",
    "山田 太郎/写真.jpg",
    "محمد/صورة ١.jpg",
    "ไทย/รูป ๑.jpg",
    "emoji 😀/a'b\"c.jpg",
    f"{unicodedata.normalize('NFC', 'café')}/1.jpg",
    f"{unicodedata.normalize('NFD', 'café')}/1.jpg",  # looks the same, is another name
    " blank at the start/ x .jpg",
    "percent%20#/a?b&c.jpg",
    "-dash/-1.jpg",
    "many  blanks/  .jpg",
]


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (32, 32)))[1].tobytes()


def write(root: Path, name: str, seed: int = 0) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed))
    return path


def files_below(folder: Path) -> dict[bytes, bytes]:
    found = {}
    for place, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = Path(os.fsdecode(place)) / os.fsdecode(name)
            found[os.fsencode(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_names_in_any_script_come_back(tmp_path: Path, run: Run, layout: str) -> None:
    faces = tmp_path / "some faces ü"
    for seed, name in enumerate([*NAMES, os.fsdecode(b"caf\xe9/\xff.jpg")]):  # the last is no UTF-8
        write(faces, name, seed)
    assert run(pack_records.main, faces, tmp_path / "p ö", "--size", 32, "--layout", layout)[0] == 0
    assert run(unpack_records.main, tmp_path / "p ö", tmp_path / "back", "--names")[0] == 0
    assert files_below(tmp_path / "back") == files_below(faces)
    assert run(convert_records.main, faces, tmp_path / "tars", "--to", "webdataset", "--shards", 2)[0] == 0
    assert run(convert_records.main, tmp_path / "tars", tmp_path / "again", "--layout", layout)[0] == 0
    for file in ("train.rec", "train.idx", "train.lst"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "p ö" / file).read_bytes()
    assert run(inspect_records.main, tmp_path / "p ö")[0] == 0


@pytest.mark.parametrize("verb", [pack_records, convert_records])
@pytest.mark.parametrize("name", ["tab\there.jpg", "line\nbreak.jpg", "carriage\rreturn.jpg"])
def test_a_name_that_no_list_can_hold_is_refused_or_passed_over(
    tmp_path: Path, run: Run, verb: ModuleType, name: str
) -> None:
    options = ("--size", 32) if verb is pack_records else ()
    write(tmp_path / "faces", "Ada/1.jpg")
    write(tmp_path / "faces", f"Ada/{name}", 1)
    status, _, err = run(verb.main, tmp_path / "faces", tmp_path / "out", *options)
    assert status == 2 and f"Ada/{name!r}"[5:-5] in err and "do not fit a list; rename the image" in err
    status, out, _ = run(verb.main, tmp_path / "faces", tmp_path / "out", *options, "--on-bad-record", "skip")
    assert status == 0 and out.rstrip().endswith("1 skipped")
    assert open_record_pack(tmp_path / "out").num_images == 1


def make_loops(faces: Path) -> None:
    write(faces, "Ada/1.jpg", 1)
    write(faces, "Bob/1.jpg", 2)
    (faces / "up").symlink_to("..")  # round and round
    (faces / "itself").symlink_to("itself")
    (faces / "nowhere").symlink_to("gone")
    (faces / "Ada" / "back").symlink_to("..")


@pytest.mark.parametrize("verb", [pack_records, convert_records])
def test_links_in_a_loop_end(tmp_path: Path, run: Run, verb: ModuleType) -> None:
    options = ("--size", 32) if verb is pack_records else ()
    make_loops(tmp_path / "faces")
    status, out, err = run(verb.main, tmp_path / "faces", tmp_path / "out", *options)
    assert status == 0 and "2 images of 2 identities" in out, err
    for link in ("itself.jpg", "other.jpg", "nowhere.jpg"):
        target = {"itself.jpg": "itself.jpg", "other.jpg": "../Bob/other.jpg", "nowhere.jpg": "gone.jpg"}[link]
        (tmp_path / "faces" / "Ada" / link).symlink_to(target)
    (tmp_path / "faces" / "Bob" / "other.jpg").symlink_to("../Ada/other.jpg")
    (tmp_path / "faces" / "Bob" / "folder.jpg").mkdir()
    status, _, err = run(verb.main, tmp_path / "faces", tmp_path / "bad", *options)
    assert status == 2 and "itself.jpg: Too many levels of symbolic links" in err
    again = (*options, "--on-bad-record", "skip")
    status, out, err = run(verb.main, tmp_path / "faces", tmp_path / "bad", *again)
    assert status == 0 and "2 images of 2 identities" in out and out.rstrip().endswith("4 skipped")
    assert "left out: 2 files that are not images (itself, nowhere), " in err
    assert " folders inside folders, with " in err and " in them (Ada/back, Bob/folder.jpg, " in err


def test_links_in_a_loop_end_when_aligning(tmp_path: Path, run: Run, scrfd: Path) -> None:
    make_loops(tmp_path / "photos")
    (tmp_path / "photos" / "Ada" / "itself.jpg").symlink_to("itself.jpg")
    status, out, err = run(align_faces.main, tmp_path / "photos", tmp_path / "out", "--detector", scrfd)
    assert status == 0 and "2 of 3 photographs aligned" in out, err
    assert (
        "itself.jpg\tunreadable\tToo many levels of symbolic links" in (tmp_path / "out" / "set_aside.tsv").read_text()
    )


def test_links_to_images_and_folders_elsewhere_are_followed_once(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "elsewhere", "Ada/1.jpg", 1)
    faces = tmp_path / "faces"
    write(faces, "Bob/1.jpg", 2)
    (faces / "Ada").symlink_to("../elsewhere/Ada")
    (faces / "Bob" / "2.jpg").symlink_to("../../elsewhere/Ada/1.jpg")
    assert [(image.name, image.label) for image in list_folder(faces)] == [
        ("Ada/1.jpg", 0),
        ("Bob/1.jpg", 1),
        ("Bob/2.jpg", 1),
    ]
    (faces / "Alias").symlink_to("../elsewhere/Ada")
    status, _, err = run(pack_records.main, faces, tmp_path / "out", "--size", 32)
    assert status == 2 and "Alias and " in err and "are one folder, by a link" in err


def test_every_command_reads_the_same_images_of_a_folder(tmp_path: Path, run: Run) -> None:
    faces = tmp_path / "faces"
    images = ["Ada/1.JPG", "Ada/10.jpeg", "Ada/2.jfif", "Ada-Zoe/1.jpg", "Bob/ü.jpg", "linked/1.jpg"]
    for seed, name in enumerate(images[:-1]):
        write(faces, name, seed)
    write(tmp_path / "elsewhere", "Eve/1.jpg", 9)
    (faces / "linked").symlink_to("../elsewhere/Eve")
    for name in (".ipynb_checkpoints/1.jpg", "Ada/._1.JPG", "Ada/.DS_Store", "Ada/jpg", "Bob/a.txt", "Bob/b.jpg.txt"):
        write(faces, name)
    (faces / "itself").symlink_to("itself")
    (faces / "Bob" / "nowhere").symlink_to("gone")
    left_out = (
        "left out: 4 files that are not images (itself, Bob/a.txt, Bob/b.jpg.txt, ...), "
        "1 file whose name has no suffix (Ada/jpg), "
        "3 hidden files and folders (.ipynb_checkpoints, Ada/.DS_Store, Ada/._1.JPG)"
    )

    training = open_dataset(faces, 32)
    assert isinstance(training, FolderDataset)
    assert [str(training.path_of(number).relative_to(faces)) for number in range(len(training))] == images
    assert training.warnings == [left_out]

    evaluated = FaceFolder(faces, 32)
    assert (evaluated.files, evaluated.warnings) == (images, [left_out])

    status, _, err = run(pack_records.main, faces, tmp_path / "packed", "--size", 32)
    assert status == 0 and f"warning: {faces}: {left_out}" in err
    lines = (tmp_path / "packed" / "train.lst").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines] == images

    (tmp_path / "landmarks.txt").write_text("somebody.jpg 1 1 2 1 1 2 1 3 2 3\n")
    status, _, err = run(align_faces.main, faces, tmp_path / "aligned", "--landmarks", tmp_path / "landmarks.txt")
    assert status == 2 and f"warning: {faces}: {left_out}" in err  # each photograph is set aside, and so listed
    aside = (tmp_path / "aligned" / "set_aside.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[:2] for line in aside] == [[name, "no_landmarks"] for name in images]


@pytest.mark.parametrize("suffix", [".tif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".gif", ".webp", ".bmp", ".avif"])
def test_an_image_of_any_format_is_packed_and_comes_back_under_its_suffix(
    tmp_path: Path, run: Run, suffix: str
) -> None:
    if suffix not in IMAGE_SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    image = Image.open(io.BytesIO(picture(1))).convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB"))
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[suffix], **({"no_jp2": True} if suffix == ".j2k" else {}))
    write(tmp_path / "faces", f"Ada/1{suffix}").write_bytes(content.getvalue())
    assert run(pack_records.main, tmp_path / "faces", tmp_path / "packed", "--size", 32)[0] == 0
    (tmp_path / "packed" / "train.lst").unlink()  # with it, the names would come back as they were
    assert run(unpack_records.main, tmp_path / "packed", tmp_path / "back")[0] == 0
    [(name, unpacked)] = files_below(tmp_path / "back").items()
    assert name.decode().endswith(suffix) and unpacked == content.getvalue()


@pytest.mark.parametrize(
    ("file", "line"), [("some.lst", "1\t{0}\t{1}\n"), ("im2rec.lst", "{2}\t{1}\t{0}\n"), ("train.tsv", "{0}\t{1}\n")]
)
def test_an_image_with_two_labels_is_refused(tmp_path: Path, run: Run, file: str, line: str) -> None:
    rows = [("Ada/1.jpg", 0), ("Bob/1.jpg", 1), ("Ada/1.jpg", 1), ("Ada/1.jpg", 0)]
    for name, label in rows[:2]:
        write(tmp_path, name, label)
    verbs = [(convert_records, ()), (pack_records, ("--size", 32))][: 1 if file == "train.tsv" else 2]
    for verb, options in verbs:
        (tmp_path / file).write_text("".join(line.format(*row, key) for key, row in enumerate(rows)))
        status, _, err = run(verb.main, tmp_path / file, tmp_path / verb.__name__, *options)
        assert status == 2 and "'Ada/1.jpg' is listed with label 0 and with label 1" in err and "(1 such line" in err
        (tmp_path / file).write_text("".join(line.format(*rows[i], key) for key, i in enumerate((0, 1, 0))))
        assert run(verb.main, tmp_path / file, tmp_path / verb.__name__, *options)[0] == 0
        assert open_record_pack(tmp_path / verb.__name__).labels().tolist() == [0, 0, 1]


@pytest.mark.slow
def test_ten_thousand_files_in_one_folder(tmp_path: Path, run: Run) -> None:
    """Links to one picture: what is tried is the number of names, not of bytes."""
    person = tmp_path / "faces" / "Ada"
    first = write(tmp_path / "faces", "Ada/00000.jpg")
    tiny = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    first.write_bytes(tiny)
    for number in range(1, 10_000):
        os.link(first, person / f"{number:05d}.jpg")
    images = list_folder(tmp_path / "faces")
    assert [image.name for image in images] == [f"Ada/{number:05d}.jpg" for number in range(10_000)]
    assert run(pack_records.main, tmp_path / "faces", tmp_path / "out", "--size", 8)[0] == 0
    data = open_record_pack(tmp_path / "out")
    assert data.num_images == 10_000 and data.read_image(9_999) == (tiny, 0)


class Entry(NamedTuple):
    """What `os.scandir` gives, of a file that is nowhere."""

    name: str

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return True


class Entries:
    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> Iterator[Entry]:
        return (Entry(f"{number * 999_983 % self.count:07d}.JPG") for number in range(self.count))

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_a_million_files_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    (tmp_path / "faces" / "Ada").mkdir(parents=True)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Entries(1_000_000) if Path(path).name == "Ada" else scandir(path))
    images = list_folder(tmp_path / "faces")
    assert len(images) == 1_000_000
    assert (images[0].name, images[-1].name) == ("Ada/0000000.JPG", "Ada/0999999.JPG")
    assert run(pack_records.main, tmp_path / "faces", tmp_path / "out")[0] == 2  # the first is nowhere
    lines = "".join(f"{number}\t{number % 1000}\t{image.name}\n" for number, image in enumerate(images))
    (tmp_path / "a.lst").write_text(lines)
    listed, kind = read_lst_and_kind(tmp_path / "a.lst")
    assert kind == "im2rec" and len(listed) == 1_000_000 and listed[-1] == ("Ada/0999999.JPG", 999, 999_999)


def test_unaligned_photographs_are_sent_to_align(tmp_path: Path, run: Run) -> None:
    photo = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    for name in (f"{person}/{number}.jpg" for person in "abcd" for number in (1, 2)):
        write(tmp_path / "faces", name).write_bytes(photo)
    for verb, words in ((pack_records, ()), (make_pair_set, ("--sample", 4, "--folds", 2)), (make_ijb_layout, ())):
        out = tmp_path / ("out.bin" if verb is make_pair_set else verb.__name__)
        status, _, err = run(verb.main, tmp_path / "faces", out, *words)
        assert status == 2 and "`facekd data align`" in err and "60x40" in err, err
    with pytest.raises(DataError, match=r"60x40 pixels, expected 112x112.*aligned first, by `facekd data align`"):
        open_dataset(tmp_path / "faces", 112)
    with pytest.raises(ImageError, match=r"1\.jpg: images are 40 x 60.*align the faces to that size \(`facekd data al"):
        FaceFolder(tmp_path / "faces", 112).decode(0, 1)


def test_that_the_first_of_several_images_is_taken_is_said_once(tmp_path: Path, run: Run, scrfd: Path) -> None:
    shades = [Image.fromarray(np.full((32, 32, 3), shade, np.uint8)) for shade in (200, 100)]
    for name, shown in (("a/1.gif", shades), ("a/2.tif", shades), ("b/1.gif", shades[:1])):
        write(tmp_path / "faces", name)
        shown[0].save(tmp_path / "faces" / name, save_all=True, append_images=shown[1:])
    status, _, err = run(pack_records.main, tmp_path / "faces", tmp_path / "packed", "--size", 32, "--workers", 1)
    assert status == 0 and err.count("holds several images") == 1
    assert f"note: {tmp_path / 'faces' / 'a/1.gif'} holds several images (an animation, or pages)" in err
    pack = open_record_pack(tmp_path / "packed")
    assert [int(decode_rgb(pack.read_image(number)[0]).max()) for number in range(3)] == [200, 200, 200]
    _, _, err = run(align_faces.main, tmp_path / "faces", tmp_path / "aligned", "--detector", scrfd)
    assert err.count("holds several images") == 1


def test_an_empty_file_is_a_bad_image_of_convert_too(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "faces", "a/1.jpg")
    write(tmp_path / "faces", "a/2.jpg").write_bytes(b"")
    status, _, err = run(convert_records.main, tmp_path / "faces", tmp_path / "out")
    assert status == 2 and f"{tmp_path / 'faces' / 'a/2.jpg'}: the file is empty" in err
    status, out, _ = run(convert_records.main, tmp_path / "faces", tmp_path / "out", "--on-bad-record", "skip")
    assert status == 0 and out.rstrip().endswith("1 skipped")


def test_a_file_or_a_pack_in_place_of_a_folder_of_people(tmp_path: Path, run: Run) -> None:
    photo = write(tmp_path / "faces", "a/1.jpg")
    assert run(pack_records.main, tmp_path / "faces", tmp_path / "packed", "--size", 32)[0] == 0
    for source, message in (
        (photo, "1.jpg: is one image; give the folder that holds a folder of images for each person"),
        (tmp_path / "packed", "packed: holds a record pack, train.rec, and no folders of images; `facekd data unpack`"),
    ):
        status, _, err = run(pack_records.main, source, tmp_path / "out", "--size", 32)
        assert status == 2 and message in err
    status, _, err = run(align_faces.main, photo, tmp_path / "out", "--landmarks", "none")
    assert status == 2 and "1.jpg: is a file; expected a folder of photographs" in err
    with pytest.raises(DataError, match=r"1\.jpg: is a file; expected one of images"):
        FaceFolder(photo, 32)
