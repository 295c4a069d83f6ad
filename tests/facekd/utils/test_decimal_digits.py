"""Checks that texts of files are numbers only as people write them, wherever a reader takes one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.pairs.published_lists import read_pair_list
from data_prep.photographs.landmark_files import read_landmarks
from data_prep.sources.image_lists import read_lst
from data_prep.sources.image_sources import read_tsv
from data_prep.sources.webdataset import TarSource
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from facekd.errors import DataError
from facekd.utils.decimal_digits import real_number, whole_number


@pytest.mark.parametrize("text", ["7", "+7", "-7", " 7 ", "007", b"7"])
def test_whole_numbers_are_read(text: str | bytes) -> None:
    assert whole_number(text) == int(text)
    assert isinstance(text, bytes) or real_number(text) == float(text)


@pytest.mark.parametrize("text", ["1_2", "", "٣", "７", "1,2", "0x1", b"1_2", "9" * 5000])
def test_other_texts_are_none(text: str | bytes) -> None:
    assert whole_number(text) is None
    assert isinstance(text, bytes) or real_number(text) is None or len(text) == 5000


def write_tar(path: Path, fields: dict[str, bytes]) -> TarSource:
    with tarfile.open(path, "w") as archive:
        for name, content in {"jpg": b"x", **fields}.items():
            member = tarfile.TarInfo(f"a.{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return TarSource([path])


LINES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pairs of IJB": (read_pairs, "1 2 1\n1 1_2 0\n"),
    "faces of IJB": (lambda path: read_named_numbers(path, 2, np.int64), "a.jpg 1 2\nb.jpg 1_1 2\n"),
    "people of IJB": (read_template_subjects, "TEMPLATE_ID,SUBJECT_ID\n1,2\n2,1_2\n"),
    "list of im2rec": (read_lst, "0\t0_12\ta/1.jpg\n1\t1_2\tb/1.jpg\n"),
    "list of InsightFace": (read_lst, "1\ta/1.jpg\t0_12\n1\tb/1.jpg\t1_2\n"),
    "a list with empty labels": (read_tsv, "a/1.jpg\t5\t\nb/1.jpg\t6\t\n"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_name_with_an_underscore_is_no_number(kind: str, tmp_path: Path) -> None:
    read, content = LINES[kind]
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=r"list.txt, line \d"):
        read(path)


def test_labels_of_tars_are_plain_numbers(tmp_path: Path) -> None:
    assert write_tar(tmp_path / "a.tar", {"cls": b" 12\n"}).labels.tolist() == [12]
    assert write_tar(tmp_path / "b.tar", {"json": json.dumps({"label": "12"}).encode()}).labels.tolist() == [12]
    for name, content in (("cls", b"1_2"), ("json", b'{"label": "1_2"}')):
        with pytest.raises(DataError, match="has no label"):
            write_tar(tmp_path / f"{name}.tar", {name: content})


def test_pairs_of_cfp_are_plain_numbers(tmp_path: Path) -> None:
    for view in "FP":
        (tmp_path / f"Pair_list_{view}.txt").write_text("".join(f"{n} ../001/frontal/{n}.jpg\n" for n in range(13)))
    fold = tmp_path / "Split" / "FP" / "01"
    fold.mkdir(parents=True)
    (fold / "same.txt").write_text("1,12\n")
    (fold / "diff.txt").write_text("1,2\n")
    assert len(read_pair_list(tmp_path).names) == 2
    (fold / "same.txt").write_text("1,1_2\n")
    with pytest.raises(DataError, match=r"same.txt, line 1: '1,1_2'; expected `i,j`"):
        read_pair_list(tmp_path)


def test_a_name_that_ends_in_an_underscored_number_moves_no_landmark(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.txt"
    path.write_text(f"photo 0_1 {' '.join(map(str, range(10)))}\n")
    ((name, given),) = read_landmarks(path).items()
    assert name == "photo 0_1" and given.landmarks.reshape(-1).tolist() == [*range(10)] and given.score is None


def test_labels_that_are_numbers_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("a/1.jpg\t2.0\nb/1.jpg\t10.0\n")
    assert [image.label for image in read_tsv(path)] == [2, 10]
    for odd in ("-1", "nan", "inf", "0.5"):
        path.write_text(f"a/1.jpg\t2\nb/1.jpg\t{odd}\n")
        with pytest.raises(DataError, match=r"b/1.jpg has (the )?label"):
            read_tsv(path)


def test_spaces_behind_a_label_make_no_other_person(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("image\tlabel \na/1.jpg\t2\nb/1.jpg\t10 \na/2.jpg\t2 \r\n")
    assert [image.label for image in read_tsv(path)] == [2, 10, 2]
