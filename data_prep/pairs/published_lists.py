"""Reads lists of verification pairs as data sets publish them: LFW, CFP, CALFW, CPLFW, AgeDB, or two names and a label.

Image names are relative to the folder of the data set, and have a suffix only if the list gives one.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.pairs.pair_list import PairList
from data_prep.sources.image_lists import AGEDB_NAME
from facekd.errors import DataError
from facekd.files.reading import read_text_file, require_regular_file
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

LFW_NAME = re.compile(r"(?P<who>.+)_\d+")
LAYOUTS = ("lfw", "cfp-fp", "cfp-ff", "two-lines", "names", "agedb")
EXPECTED = (
    "expected LFW's pairs.txt (`name n1 n2`, `name1 n1 name2 n2`), lines of `image image label`, CALFW's and CPLFW's "
    "(`image label`, two lines a pair), the Protocol folder of CFP, or AgeDB's .mat"
)


def read_pair_list(path: Path, layout: str | None = None) -> PairList:
    """Reads a list of pairs.

    Args:
        path: the file; or for CFP the folder `Protocol` (with `Split` and `Pair_list_*.txt`), for AgeDB the `.mat`.
        layout: one of `LAYOUTS`; None finds out from the content.

    Raises:
        DataError: a line, or the whole file, is of no known kind.
        OSError: it cannot be read.
    """
    require_regular_file(path)
    if path.is_dir() or (layout or "").startswith("cfp"):
        return _read_cfp(path, layout or "cfp-fp")
    if layout == "agedb" or (layout is None and path.suffix.lower() == ".mat"):
        from data_prep.pairs.agedb import read_agedb_protocol  # imported here because it needs scipy

        return read_agedb_protocol(path)
    text = read_text_file(path, has_file_names=True)
    rows = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    rows = [(number, line) for number, line in rows if line and not line.startswith("#")]
    if not rows:
        raise DataError(f"{path} lists no pairs; {EXPECTED}")
    layout = layout or _detect(path, rows)
    reader = {"lfw": _read_lfw, "two-lines": _read_two_lines, "names": _read_names}[layout]
    return reader(path, rows)


Rows = list[tuple[int, str]]


def _detect(path: Path, rows: Rows) -> str:
    columns = _split(rows[0][1])
    if all(_is_count(column) for column in columns) and len(columns) <= 2:
        return "lfw"
    if len(columns) == 2 and _is_count(columns[1]):
        return "two-lines"
    if len(columns) == 3 and _is_count(columns[1]):
        return "lfw"
    if len(columns) == 3 and columns[2] in ("0", "1", "-1"):
        return "names"
    if len(columns) == 4:
        return "lfw"
    raise DataError(f"{path}, line {rows[0][0]}: {rows[0][1][:80]!r} is of no known kind; {EXPECTED}")


def _read_lfw(path: Path, rows: Rows) -> PairList:
    """Reads `pairs.txt`: folds and pairs per kind in the first line; each fold has genuine, then impostor pairs."""
    # The first line, which some copies lack.
    head = _split(rows[0][1])
    folds: tuple[int, int] | None = None
    if len(head) <= 2 and all(_is_count(value) for value in head):
        folds = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
        rows = rows[1:]

    # A line of three columns is a genuine pair, of four an impostor pair.
    names, is_same = [], []
    for number, line in rows:
        columns = _split(line)
        if len(columns) == 3 and _is_count(columns[1]) and _is_count(columns[2]):
            names.append((_lfw_name(columns[0], columns[1]), _lfw_name(columns[0], columns[2])))
        elif len(columns) == 4 and _is_count(columns[1]) and _is_count(columns[3]):
            names.append((_lfw_name(columns[0], columns[1]), _lfw_name(columns[2], columns[3])))
        else:
            raise DataError(f"{path}, line {number}: {line[:80]!r}; expected `name n1 n2` or `name1 n1 name2 n2`")
        is_same.append(len(columns) == 3)
    if folds is None:
        return PairList(names, np.array(is_same), None, "lfw")

    # What the first line announces must be there, in its order.
    num_folds, per_kind = folds
    announced = 2 * num_folds * per_kind
    if len(names) != announced or not names:
        raise DataError(
            f"{path}: its first line announces {counted(num_folds, 'fold')} of {per_kind} genuine and "
            f"{counted(per_kind, 'impostor pair')}, so {announced:,} in all, but it lists {len(names):,}; the file is "
            "cut short or its first line wrong"
        )
    expected = np.tile(np.repeat([True, False], per_kind), num_folds)
    if not np.array_equal(is_same, expected):
        first = int(np.argmax(np.array(is_same) != expected))
        raise DataError(
            f"{path}, line {rows[first][0]}: should be {'a genuine' if expected[first] else 'an impostor'} pair: "
            f"folds have {per_kind} genuine and then {counted(per_kind, 'impostor pair')}"
        )
    return PairList(names, expected, np.repeat(np.arange(num_folds), 2 * per_kind), "lfw")


def _lfw_name(person: str, number: str) -> str:
    return f"{person}/{person}_{int(number):04d}"


def _read_two_lines(path: Path, rows: Rows) -> PairList:
    """Reads CALFW or CPLFW: two lines `image label` per pair; label 0 for impostors, else the fold from 1 (or 1)."""
    if len(rows) % 2:
        raise DataError(f"{path} has {counted(len(rows), 'line')}, an odd number; a pair is two lines of `image label`")
    names, labels = [], []
    for (number, line), (_, second_line) in zip(rows[::2], rows[1::2], strict=True):
        first, second = _split(line), _split(second_line)
        if len(first) != 2 or len(second) != 2 or not _is_count(first[1]) or first[1] != second[1]:
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} and {second_line[:60]!r} should be `image label` of one pair, "
                "with one label"
            )
        names.append((first[0], second[0]))
        labels.append(int(first[1]))
    return PairList(names, np.array(labels) > 0, None, "two-lines")


def _read_names(path: Path, rows: Rows) -> PairList:
    """Reads `image image label`, split at tabs, commas or spaces; label 1 means one person, 0 or -1 two."""
    names, is_same = [], []
    for number, line in rows:
        columns = _split(line)
        if len(columns) != 3 or columns[2] not in ("0", "1", "-1"):
            raise DataError(f"{path}, line {number}: {line[:80]!r}; expected `image image label`, label 1 or 0")
        names.append((columns[0], columns[1]))
        is_same.append(columns[2] == "1")
    return PairList(names, np.array(is_same), None, "names")


def _read_cfp(path: Path, layout: str) -> PairList:
    """Reads CFP's `Protocol`.

    `Split/FP/01..10/{same,diff}.txt`, with lines `i,j` that number `Pair_list_F.txt` and `Pair_list_P.txt`.
    """
    if not (path / "Split").is_dir():
        raise DataError(f"{path}: has no folder Split; expected the folder Protocol of CFP")
    # "FF" pairs two frontal views, "FP" a frontal one with a profile.
    kind = layout.removeprefix("cfp-").upper()
    first, second = (_read_cfp_images(path / f"Pair_list_{view}.txt") for view in kind)
    folds = sorted(folder for folder in (path / "Split" / kind).iterdir() if folder.is_dir())
    # Each fold is a folder with a file of genuine and one of impostor pairs.
    names, is_same, fold_of = [], [], []
    for fold, folder in enumerate(folds):
        for file, same in (("same.txt", True), ("diff.txt", False)):
            for number, line in enumerate(read_text_file(folder / file).split(), start=1):
                try:
                    i, j = (int(value) if _is_count(value) else -1 for value in line.split(","))  # no image is -1
                    names.append((first[i], second[j]))
                except (ValueError, KeyError):
                    raise DataError(
                        f"{folder / file}, line {number}: '{shown(line)}'; expected `i,j`, numbers of the lists of "
                        "images"
                    ) from None
                is_same.append(same)
                fold_of.append(fold)
    if not names:
        raise DataError(f"{path / 'Split' / kind}: holds no folds with same.txt and diff.txt")
    return PairList(names, np.array(is_same), np.array(fold_of), layout)


def _read_cfp_images(path: Path) -> dict[int, str]:
    images = {}
    for number, line in enumerate(read_text_file(path, has_file_names=True).split("\n"), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 2 or not _is_count(columns[0]):
            raise DataError(f"{path}, line {number}: '{shown(line)}'; expected a number and the path of an image")
        parts = PurePosixPath(columns[1]).parts
        images[int(columns[0])] = "/".join(parts[-3:])  # PERSON/frontal/01.jpg
    return images


def subject_of(name: str) -> str | None:
    """Returns who an image shows: its first folder, or what LFW's and AgeDB's file names say; None if neither."""
    path = PurePosixPath(name)
    if len(path.parts) > 1:
        return path.parts[0]
    for pattern in (AGEDB_NAME, LFW_NAME):
        found = pattern.fullmatch(path.stem)
        if found:
            return found["who"]
    return None


def _split(line: str) -> list[str]:
    for separator in ("\t", ","):
        if separator in line:
            return [column.strip() for column in line.split(separator)]
    return line.split()


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
