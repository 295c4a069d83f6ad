"""Lists the readers of lists that users and strangers write: of images, of pairs, of landmarks, of what to change."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_prep.inspection.clean_lists import Changes, read_clean_lists
from data_prep.pairs.pair_list import PairList
from data_prep.pairs.published_lists import read_pair_list
from data_prep.photographs.landmark_files import GivenLandmarks, read_landmarks
from data_prep.sources.image_lists import ListedImage, labels_from_key_list, read_lst
from data_prep.sources.image_sources import read_tsv
from evaluation.sets.pair_set import read_subjects
from facekd.data.datasets.record_pack import open_record_pack, read_property
from facekd.faces.image_inputs import Images, list_images
from tests.fuzz.target import Target, lines, rows_of, text_of
from tests.fuzz.targets.set_targets import rec_seeds

FIVE_POINTS = "38.29 51.69 73.53 51.5 56.02 71.73 41.54 92.36 70.72 92.2"
PART = b"\n=====\n"  # between the files of a folder that one input stands for
CFP_FILES = ("Pair_list_F.txt", "Pair_list_P.txt", "Split/FP/01/same.txt", "Split/FP/01/diff.txt")


NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)\s*", re.ASCII | re.IGNORECASE)


def _is_float(text: str) -> bool:
    """Says whether a text is a number as C writes them: `1_000`, which Python reads too, is a name."""
    return NUMBER.fullmatch(text) is not None


def _check_lst(content: bytes, images: list[ListedImage]) -> None:
    """Has the name and the label of each line: the columns are told apart by which one is a number."""
    for row, image in zip(rows_of(content), images, strict=True):
        columns = row.split("\t")
        name, label = (columns[-1], columns[1]) if _is_float(columns[1]) else columns[1:3]
        assert (image.name, image.label) == (name, float(label))


def _check_tsv(content: bytes, images: list[ListedImage]) -> None:
    """Has the name of each line, and one label for each text of the last column: its number, if all are numbers."""
    rows = [row.split("\t") for row in rows_of(content, lambda line: line != "")]
    rows = [[*row[:-1], row[-1].strip()] for row in rows]
    rows = rows[1:] if rows[0][-1].lower() in ("label", "id", "identity") and len(rows) > len(images) else rows
    assert [image.name for image in images] == [row[-2] for row in rows]
    number_of = {row[-1]: image.label for row, image in zip(rows, images, strict=True)}
    assert [image.label for image in images] == [number_of[row[-1]] for row in rows]
    if all(re.fullmatch("[0-9]{1,15}", label) for label in number_of):
        assert all(int(label) == number for label, number in number_of.items())


def _check_changes(content: bytes, changes: Changes) -> None:
    """Has the numbers behind each action."""
    rows = [row.strip().split("\t") for row in rows_of(content) if not row.startswith("#")]
    assert changes.keys == {int(row[1]) for row in rows if row[0] == "drop"}
    assert changes.labels == {int(row[1]) for row in rows if row[0] == "drop-identity"}
    assert changes.merges == [(int(row[1]), int(row[2])) for row in rows if row[0] == "merge"]


def _pair_columns(line: str) -> list[str]:
    separator = next((mark for mark in "\t," if mark in line), None)
    return [column.strip() for column in line.split(separator)]


def _check_pair_list(content: bytes, pairs: PairList) -> None:
    """Has the names and the label of each line."""
    rows = [_pair_columns(row.strip()) for row in rows_of(content) if not row.strip().startswith("#")]
    if pairs.layout == "names":
        expected = [((row[0], row[1]), row[2] == "1") for row in rows]
    elif pairs.layout == "two-lines":
        expected = [((row[0], other[0]), int(row[1]) > 0) for row, other in zip(rows[::2], rows[1::2], strict=True)]
    else:
        rows = rows[1:] if len(rows[0]) < 3 else rows
        rows = [row if len(row) == 4 else [row[0], row[1], row[0], row[2]] for row in rows]
        names = [(f"{row[0]}/{row[0]}_{int(row[1]):04d}", f"{row[2]}/{row[2]}_{int(row[3]):04d}") for row in rows]
        expected = list(zip(names, pairs.is_same.tolist(), strict=True))
    assert list(zip(pairs.names, pairs.is_same.tolist(), strict=True)) == expected


def _check_pair_names(content: bytes, subjects: np.ndarray) -> None:
    """Has the folder of each name."""
    expected = [[name.strip().rpartition("/")[0] for name in row.split("\t")[:2]] for row in rows_of(content)]
    assert subjects.tolist() == expected


def _check_landmarks(content: bytes, found: dict[str, GivenLandmarks]) -> None:
    """Has numbers that end a line, as Python reads them."""
    rows = [re.split("\t" if "\t" in row else " ", row.split("\t#")[0]) for row in rows_of(content)]
    ends = [[word.strip() for word in row if word.strip() and not word.strip().startswith("#")] for row in rows]
    for given in found.values():
        numbers = [*given.landmarks.ravel().tolist(), *([] if given.score is None else [given.score])]
        ended = [row[-len(numbers) :] for row in ends]
        assert any(all(map(_is_float, row)) and [*map(float, row)] == numbers for row in ended)


def _read_key_list(path: Path) -> Any:
    labels, names = labels_from_key_list(open_record_pack(path.with_name("train.rec"), "fail"), path)
    return labels.tolist(), names


def _check_key_list(content: bytes, result: Any) -> None:
    """Has the people of two records alike exactly where their folders are."""
    labels, names = result
    path_of = {int(row.split("\t")[0]): row.split("\t")[1] for row in rows_of(content)}
    assert (len(labels) == 4 and not names) or names == [path_of[key] for key in range(4)]


def _check_paths(content: bytes, images: Images) -> None:
    """Has each path once, in the order of the lines, with the person beside it."""
    rows = rows_of(content, lambda row: row.split("\t")[0].strip())
    expected: dict[str, tuple[str, str]] = {}
    for row in rows:
        name, person = (row + "\t").split("\t")[:2]
        expected.setdefault(os.path.abspath(name), (name, person.strip()))  # noqa: PTH100 - asks no disk
    assert list(zip(images.names, images.people, strict=True)) == list(expected.values())


def _read_cfp(path: Path) -> PairList:
    """Reads CFP's folder of four lists, which the parts of the input are."""
    parts = (path.read_bytes().split(PART) + [b""] * 4)[:4]
    for name, part in zip(CFP_FILES, parts, strict=True):
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(part)
    return read_pair_list(path.parent, "cfp-fp")


def _check_cfp(content: bytes, pairs: PairList) -> None:
    """Has the images that each pair of numbers names."""
    first, second, same, diff = (rows_of(part) for part in (content.split(PART) + [b""] * 4)[:4])
    views = [{int(row.split()[0]): row.split()[1] for row in rows} for rows in (first, second)]
    numbered = [tuple(map(int, word.split(","))) for row in (*same, *diff) for word in row.split()]
    for name, number in zip(pairs.names, numbered, strict=True):
        assert all(PurePosixPath(views[side][number[side]]).name == PurePosixPath(name[side]).name for side in (0, 1))
    assert int(pairs.is_same.sum()) == sum(len(row.split()) for row in same)


def _cfp_seeds() -> list[bytes]:
    frontal, profile = b"1 ../Data/Images/001/frontal/01.jpg\n2 a/b.jpg\n", b"1 ../Data/Images/001/profile/01.jpg\n"
    return [PART.join((frontal, profile, b"1,1\n", b"2,1\n1,1\n"))]


def _check_property(content: bytes, found: dict[str, Any] | None) -> None:
    """Has the three numbers of the first line."""
    if found is not None:
        first = text_of(content).split("\n")[0].strip()
        assert [*found.values()] == [int(word.strip()) for word in first.split(",")]


LST = lines("1\tann/1.jpg\t0", "1\tann/2.jpg\t0", "1\tbob/1.jpg\t1")
LST += lines("0\t0.0\tann/1.jpg", "1\t1.0\tbob/1.jpg")
PAIRS = [
    *lines("2\t1", "Ann\t1\t2", "Ann\t1\tBob\t1", "Bob\t1\t2", "Bob\t2\tAnn\t1"),
    *lines("Ann/1.jpg 1", "Ann/2.jpg 1", "Ann/1.jpg 0", "Bob/1.jpg 0"),
    *lines("Ann/1.jpg\tAnn/2.jpg\t1", "Ann/1.jpg\tBob/1.jpg\t0"),
]
NUMBERS = ("\t", ",", "\r\n", "0", "1", "-1", "1.0", "1e3", "0x1", "1_0", "99999999999999999999")

TARGETS = [
    Target("lst", "train.lst", read_lst, lambda: LST, _check_lst, words=NUMBERS),
    Target(
        "tsv",
        "train.tsv",
        read_tsv,
        lambda: lines("path\tlabel", "a/1.jpg\t0", "b/1.jpg\t1"),
        _check_tsv,
        words=("path\tlabel", "identity", "id", *NUMBERS),
    ),
    Target(
        "clean_list",
        "clean.tsv",
        lambda path: read_clean_lists([path]),
        lambda: lines("# why", "drop\t5\t0.3", "drop-identity\t3", "merge\t4\t5"),
        _check_changes,
        words=("drop", "drop-identity", "merge", "# pack:", *NUMBERS),
    ),
    Target("pair_list", "pairs.txt", read_pair_list, lambda: PAIRS, _check_pair_list, words=("#", *NUMBERS)),
    Target("cfp", "lists", _read_cfp, _cfp_seeds, _check_cfp, is_named=False, copies=30, words=(PART, *NUMBERS)),
    Target(
        "pair_names",
        "names.txt",
        lambda path: read_subjects(path, np.array([True, False]), "pack.bin"),
        lambda: lines("Ann/1.jpg\tAnn/2.jpg\t1", "Ann/1.jpg\tBob/1.jpg\t0"),
        _check_pair_names,
        words=("/", *NUMBERS),
    ),
    Target(
        "landmarks",
        "landmarks.txt",
        read_landmarks,
        lambda: lines(f"a.jpg {FIVE_POINTS}", f"b.jpg {FIVE_POINTS} 0.9"),
        _check_landmarks,
        words=(FIVE_POINTS, "#", "./", "nan", "inf", *NUMBERS),
    ),
    Target(
        "key_list",
        "list.txt",
        _read_key_list,
        lambda: lines("0\tann/1.jpg", "1\tbob/1.jpg\tx", "2\tann/2.jpg", "3\tbob/2.jpg", "4\tcid/1.jpg"),
        _check_key_list,
        prepare=lambda folder: (folder / "train.rec").write_bytes(rec_seeds()[0]),
        words=("../", "./", "/", *NUMBERS),
    ),
    Target(
        "path_list",
        "list.txt",
        lambda path: list_images([], [path]),
        lambda: lines("a/1.jpg\tAnn", "b.png", "a/1.jpg\tAnn", "c d.jpg\t"),
        _check_paths,
        words=("/", "../", "~", "\t", "\r\n"),
    ),
    Target(
        "property", "property", lambda path: read_property(path, []), lambda: lines("85742,112,112"), _check_property
    ),
]
