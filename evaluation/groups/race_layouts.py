"""Reads RFW and BFW, two verification sets of faces by group, from the layouts in which they are published.

RFW ("Racial Faces in-the-Wild", Wang et al., ICCV 2019): `data/GROUP/PERSON/PERSON_0001.jpg`, and for each group
`txts/GROUP/GROUP_pairs.txt` with lines `PERSON N M` or `PERSON N OTHER M`, in ten folds of 300 of each kind.
BFW ("Balanced Faces in the Wild", Robinson et al., CVPRW 2020): a CSV file with columns `p1`, `p2` (images below the
folder of the faces, GROUP/PERSON/IMAGE), `label`, `att1`, `att2` and `fold`, and perhaps `g1`, `g2` (gender) and
`e1`, `e2` (ethnicity).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from evaluation.groups.group_file import GroupFile
from evaluation.sets.file_pairs import FilePairs, ListedPairs
from facekd.errors import DataError
from facekd.files.reading import is_listed_file, read_text_file, rows_of_table, sha256_of_file
from facekd.utils.foreign import leads_out, shown
from facekd.utils.wording import counted
from facekd.verification.kfold import FoldKind

RFW_PAIRS = 6000  # of each group
NUMBER = "[0-9]{1,8}"  # of an image or a fold
SUFFIXES = (".jpg", ".png", ".jpeg")
# Columns of BFW's table: the attribute that each pair of columns gives.
BFW_ATTRIBUTES = {"subgroup": ("att1", "att2"), "gender": ("g1", "g2"), "ethnicity": ("e1", "e2")}
BFW_COLUMNS = {"p1", "p2", "label", "fold", *(side for sides in BFW_ATTRIBUTES.values() for side in sides)}


def is_race_layout(path: Path) -> bool:
    """Tells whether a path is read by `load_race_layout`: the folder of RFW, or a CSV file."""
    return path.suffix == ".csv" or (path.is_dir() and bool(_rfw_lists(path)))


def load_race_layout(path: Path, images: Path | None, folds: int, fold_kind: FoldKind) -> FilePairs:
    """Reads RFW (its folder, with `data` and `txts`) or BFW (its CSV file).

    Args:
        path: the folder or the file.
        images: folder of the images; None takes `data` of RFW, and the folder of BFW's file.
        folds, fold_kind: see `facekd.verification.kfold.choose_folds`; the sets record folds of their own.

    Raises:
        DataError: a line has another form, contradicts itself, or names images that are missing.
    """
    if path.suffix == ".csv":
        return _load_bfw(path, images or path.parent, folds, fold_kind)
    return _load_rfw(path, images or path / "data", folds, fold_kind)


def _rfw_lists(root: Path) -> list[Path]:
    return sorted(root.glob("txts/*/*_pairs.txt"))


def _load_rfw(root: Path, images: Path, folds: int, fold_kind: FoldKind) -> FilePairs:
    pairs, group_of, warnings = ListedPairs(), dict[str, str](), list[str]()
    lists = _rfw_lists(root)
    for path in lists:
        group, before = path.parent.name, len(pairs.is_same)
        rows = [line.split() for line in read_text_file(path).split("\n") if line.strip()]
        for number, row in enumerate(rows):
            people, numbers = _rfw_pair(row, path)
            subjects = (f"{group}/{people[0]}", f"{group}/{people[1]}")
            names = tuple(
                _rfw_name(images, subject, person, int(word))
                for subject, person, word in zip(subjects, people, numbers, strict=True)
            )
            group_of.update(dict.fromkeys(subjects, group))
            pairs.add((names[0], names[1]), subjects, number * folds // len(rows))
        if len(pairs.is_same) - before != RFW_PAIRS:
            count = len(pairs.is_same) - before
            warnings.append(f"{path.name} has {counted(count, 'pair')}, and that of RFW as published {RFW_PAIRS:,}")
    if len(set(group_of.values())) != 4:
        warnings.append(f"has lists of {counted(len(set(group_of.values())), 'group')}, and RFW as published of 4")
    groups = GroupFile(root / "txts", "", "person", {"race": group_of}, frozenset(group_of))
    return pairs.to_set(root, images, lists, groups, warnings, folds, fold_kind)


def _rfw_pair(row: list[str], path: Path) -> tuple[tuple[str, str], tuple[str, str]]:
    """Returns the two people of a line of RFW's lists, and the numbers of their images.

    Raises:
        DataError: it has another form.
    """
    people = (row[0], row[2] if len(row) == 4 else row[0]) if len(row) in (3, 4) else ("", "")
    numbers = (row[1], row[3] if len(row) == 4 else row[2]) if len(row) in (3, 4) else ("", "")
    # Plain names of folders lead to no other place.
    are_names = all(person not in ("", ".", "..") and "/" not in person for person in people)
    are_numbers = all(re.fullmatch(NUMBER, word) for word in numbers)
    if not are_names or not are_numbers or (len(row) == 4 and people[0] == people[1]):
        raise DataError(
            f"{path}: a line is '{shown(' '.join(row))}'; expected PERSON N M for two images of a person, or "
            "PERSON N OTHER M for two people"
        )
    return people, numbers


def _rfw_name(images: Path, subject: str, person: str, number: int) -> str:
    names = [f"{subject}/{person}_{number:04d}{suffix}" for suffix in SUFFIXES]
    return next((name for name in names if is_listed_file(images / name)), names[0])


def _load_bfw(path: Path, images: Path, folds: int, fold_kind: FoldKind) -> FilePairs:
    try:
        columns, table = rows_of_table(read_text_file(path).removeprefix("\ufeff"), BFW_COLUMNS, strict=True)
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); expected the table of BFW") from error
    lacking = {"p1", "p2", "label", "att1", "att2"} - {*columns}
    if lacking or not table:
        raise DataError(f"{path}: has no {', '.join(sorted(lacking)) or 'pairs'}; expected the table of BFW: p1, p2, "
                        "label, att1, att2")  # fmt: skip
    attributes = {name: sides for name, sides in BFW_ATTRIBUTES.items() if {*sides} <= {*columns}}
    pairs, found = ListedPairs(), {name: dict[str, str]() for name in attributes}
    for number, row in enumerate(table, start=2):
        names = tuple(row[side].strip().replace("\\", "/") for side in ("p1", "p2"))
        subjects = tuple(name.rpartition("/")[0] for name in names)
        label = row["label"].strip()
        if not all(subjects) or any(leads_out(name) for name in names):
            raise DataError(f"{path}: line {number} names '{shown(' and '.join(names))}'; expected GROUP/PERSON/IMAGE")
        if label not in ("0", "1", "0.0", "1.0") or label.startswith("1") != (subjects[0] == subjects[1]):
            raise DataError(
                f"{path}: line {number} is labelled '{shown(label)}', and compares {shown(subjects[0])} with "
                f"{shown(subjects[1])}; expected 1 for one person, 0 for two"
            )
        for name, sides in attributes.items():
            for subject, side in zip(subjects, sides, strict=True):
                group = row[side].strip()
                if group and found[name].setdefault(subject, group) != group:
                    raise DataError(
                        f"{path}: line {number}: {shown(subject)} is in two groups of {name}, "
                        f"{shown(found[name][subject])} and {shown(group)}"
                    )
        fold = re.fullmatch(rf"({NUMBER})(?:\.0+)?", (row.get("fold") or "0").strip())  # 1.0, as of a column with gaps
        if fold is None:
            raise DataError(f"{path}: line {number} has the fold '{shown(row['fold'], 60)}'; expected a whole number")
        pairs.add((names[0], names[1]), (subjects[0], subjects[1]), int(fold[1]))
    everybody = frozenset(pairs.subjects)
    groups = GroupFile(path, sha256_of_file(path), "person", found, everybody)
    return pairs.to_set(path, images, [path], groups, [], folds, fold_kind)
