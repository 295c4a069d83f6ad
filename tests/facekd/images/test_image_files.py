"""The one rule of which files in a folder are images: suffixes, hidden names, links, order, and what is left out."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import DataError
from facekd.images.decoding import decode_rgb
from facekd.images.heif import HEIC_SUFFIXES
from facekd.images.image_files import IMAGE_SUFFIXES, is_image_name, list_by_folder, list_nested


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_suffixes_count_in_any_case(suffix: str) -> None:
    assert is_image_name(f"a{suffix}") and is_image_name(f"a.b{suffix.upper()}")
    assert not is_image_name(f"a{suffix}.txt") and not is_image_name(f"a{suffix[1:]}")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_listed_is_of_a_format_that_decodes(suffix: str) -> None:
    if suffix in HEIC_SUFFIXES:
        pytest.skip("no encoder")
    pixels = np.full((16, 16, 3), 200, np.uint8)
    image = Image.fromarray(pixels).convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB"))
    stream = io.BytesIO()
    Image.init()
    image.save(stream, Image.EXTENSION[suffix])
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode_rgb(stream.getvalue()) - expected).max() <= 4


def test_both_listings_give_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    # As text "Ada-2/1.jpg" would come before "Ada/1.jpg"; the order is that of the folders' names.
    names = ["Ada/1.jpg", "Ada/2.PNG", "Ada-2/1.jpg", "bo/ü.gif"]
    make(tmp_path, *reversed(names))
    by_folder = list_by_folder(tmp_path).by_folder
    assert [f"{folder}/{file}" for folder, files in by_folder.items() for file in files] == names
    assert list_nested(tmp_path)[0] == names


def test_folders_of_one_name_in_two_forms_are_named(tmp_path: Path) -> None:
    composed, apart = "Jos\u00e9", "Jose\u0301"  # NFC, and NFD as macOS may store it
    make(tmp_path, f"{composed}/1.jpg", f"{apart}/1.jpg", "Jose/1.jpg", "Empty/.x", "empty/.x")
    (warning,) = [text for text in list_by_folder(tmp_path).warnings() if "left out" not in text]
    assert warning.endswith("differ only in how accents are stored (Unicode NFC and NFD), and count as two")
    make(tmp_path, "JOSE/1.jpg")
    (warning,) = [text for text in list_by_folder(tmp_path).warnings() if "left out" not in text]
    assert warning == "folders JOSE and Jose differ only in case, and count as two; so does 1 more pair"


def test_whatever_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    make(
        tmp_path, "a/1.jpg", "a/deeper/2.jpg", "a/.3.jpg", ".git/4.jpg", "5.jpg", "list.csv", "a/6", "a/7.txt", "a/8.md"
    )
    listing = list_by_folder(tmp_path)
    assert (listing.by_folder, listing.outside) == ({"a": ["1.jpg"]}, ["5.jpg"])
    assert listing.left_out.warnings() == [
        "left out: 3 files that are not images (list.csv, a/7.txt, a/8.md), 1 file whose name has no suffix (a/6), 2 "
        "hidden files and folders (.git, a/.3.jpg), 1 folder inside a folder, with 1 image in it (a/deeper); move "
        "images up into the folder of their person, or give the folder whose subfolders are the people"
    ]
    found, left_out = list_nested(tmp_path)
    assert found == ["5.jpg", "a/1.jpg", "a/deeper/2.jpg"]
    assert "3 files that are not images" in left_out.warnings()[0]


def test_a_clean_folder_gives_no_warning(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    assert list_by_folder(tmp_path).left_out.warnings() == list_nested(tmp_path)[1].warnings() == []


def test_names_that_are_no_unicode_are_listed_and_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (b"\xff.jpg", b"\xfe.txt"):
        os.close(os.open(os.fsencode(tmp_path / "a") + b"/" + name, os.O_CREAT))
    found, left_out = list_nested(tmp_path)
    assert [os.fsencode(name) for name in found] == [b"a/\xff.jpg"]
    assert left_out.warnings()[0].encode() == b"left out: 1 file that is not an image (a/\\udcfe.txt)"


def test_links(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "cy/1.jpg")
    root = tmp_path / "people"
    make(root, "ada/1.jpg", "bo/1.jpg")
    for link, target in (
        ("cy", "../elsewhere/cy"),
        ("bo/2.jpg", "../ada/1.jpg"),
        ("bo/gone.jpg", "nowhere"),
        ("bo/self.jpg", "self.jpg"),
        ("bo/up", ".."),
        ("gone", "nowhere"),
    ):
        (root / link).symlink_to(target)
    names = ["ada/1.jpg", "bo/1.jpg", "bo/2.jpg", "bo/gone.jpg", "bo/self.jpg", "cy/1.jpg"]
    by_folder = list_by_folder(root).by_folder
    assert [f"{folder}/{file}" for folder, files in by_folder.items() for file in files] == names
    found, left_out = list_nested(root)
    assert found == names
    assert left_out.warnings() == [
        "left out: 1 file that is not an image (gone), 1 link to a folder listed already (bo/up)"
    ]


def test_two_names_for_one_folder_are_refused_where_they_would_be_two_people(tmp_path: Path) -> None:
    make(tmp_path, "ada/1.jpg")
    (tmp_path / "zoe").symlink_to("ada")
    with pytest.raises(DataError, match=r"zoe and .*ada are one folder, by a link"):
        list_by_folder(tmp_path)
    found, left_out = list_nested(tmp_path)
    assert found == ["ada/1.jpg"] and "1 link to a folder listed already (zoe)" in left_out.warnings()[0]


def test_pipes_sockets_and_devices_are_left_out_whatever_their_names(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a" / "2.jpg")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(str(tmp_path / "a" / "3.png"))
    (tmp_path / "a" / "4.jpg").symlink_to("/dev/zero")
    listing = list_by_folder(tmp_path)
    assert listing.by_folder == {"a": ["1.jpg"]}
    said = ["left out: 3 pipes, sockets and devices (a/2.jpg, a/3.png, a/4.jpg)"]
    assert listing.left_out.warnings() == list_nested(tmp_path)[1].warnings() == said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["train/ada/1.jpg", "train/ada/2.jpg", "train/bo/1.jpg", "val/ada/3.jpg", "val/.hidden/4.jpg"],
            "; its images lie deeper: {root}/train has 2 folders with 3 images, {root}/val has 1 folder with 1 image; "
            "give the folder whose subfolders are the people, or move the images up",
        ),
        (
            ["x/y/ada/1.jpg"],
            "; its images lie deeper: {root}/x/y has 1 folder with 1 image; give the folder whose subfolders are the "
            "people, or move the images up",
        ),
        (["1.jpg", "2.jpg", "list.txt"], "; it holds 2 images itself, such as 1.jpg"),
        (["ada/list.txt"], "left out: 1 file that is not an image (ada/list.txt)"),
        ([], "; images end in .jpg, .jpeg, "),
    ],
)
def test_an_error_says_where_the_images_are(tmp_path: Path, names: list[str], said: str) -> None:
    make(tmp_path, *names)
    assert said.format(root=tmp_path) in list_by_folder(tmp_path).explain()


def test_an_endless_number_of_images_too_deep_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.images.image_files.MAX_COUNTED", 5)
    make(tmp_path, *(f"ada/video{v}/{frame}.jpg" for v in range(4) for frame in range(3)), "ada/1.jpg")
    [said] = list_by_folder(tmp_path).left_out.warnings()
    assert said.startswith("left out: 4 folders inside folders, with 5 or more images in them (ada/video0, ")
