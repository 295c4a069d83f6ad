"""Reads which group each person or image belongs to, from a CSV file, and joins it to a set by name.

The first column is called `person`, `image` or `template`, and says what its names are of; every other column is an
attribute, such as `sex`, whose values are the groups. An empty cell says that the group is not known.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.files.reading import read_text_file, sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.results.contradictions import MAX_GROUPS
from facekd.utils.foreign import shown, some_of
from facekd.utils.wording import agreeing, counted

KEYS = ("person", "image", "template")
MAX_ATTRIBUTES = 128  # each is compared over all images
EXPECTED = "expected a first line such as person,sex,region and then a line for each person (or image)"


@dataclass(frozen=True)
class GroupFile:
    """Holds the groups of people or images.

    Attributes:
        path: the file.
        sha256: its digest.
        key: what the names are of, one of `KEYS`.
        attributes: by attribute, the group of each name; names whose group is not known are left out.
        names: all names of the file.
    """

    path: Path
    sha256: str
    key: str
    attributes: Mapping[str, Mapping[str, str]]
    names: frozenset[str]


@dataclass(frozen=True)
class Membership:
    """Says which group of one attribute each image (or template) of a set belongs to.

    Attributes:
        attribute: the name of the attribute.
        groups: (G,) names of the groups, sorted.
        codes: int64 (N,) the group of each image, -1 if it is not known.
        notes: sentences about what is missing, doubtful or too small.
    """

    attribute: str
    groups: list[str]
    codes: np.ndarray
    notes: list[str]


def read_groups(path: str | os.PathLike[str]) -> GroupFile:
    """Reads a CSV file of groups.

    Raises:
        DataError: not such a file, or a name that is in two groups of one attribute.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with unchanged(path):
        text, digest = read_text_file(path), sha256_of_file(path)
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); {EXPECTED}") from error

    # The first line names the columns.
    head = [name.strip() for name in rows[0]] if rows else []
    if len(head) < 2 or head[0] not in KEYS or not all(head) or len(set(head)) < len(head):
        raise DataError(
            f"{path}: its first line is '{shown(','.join(head))}'; {EXPECTED}: a first column called "
            f"{', '.join(KEYS[:-1])} or {KEYS[-1]}, and at least one attribute, each with a name of its own"
        )
    if len(head) > 1 + MAX_ATTRIBUTES:
        raise DataError(
            f"{path}: its first line names {len(head) - 1:,} attributes, and at most {MAX_ATTRIBUTES} are compared; "
            "keep the columns that matter"
        )
    attributes: dict[str, dict[str, str]] = {name: {} for name in head[1:]}
    names: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            raise DataError(
                f"{path}: line {number} has {counted(len(row), 'column')}; expected {len(head)}, as its first line"
            )
        name = row[0].strip()
        names.add(name)
        for attribute, cell in zip(head[1:], row[1:], strict=True):
            group = cell.strip()
            if not group:
                continue
            earlier = attributes[attribute].setdefault(name, group)
            if earlier != group:
                raise DataError(
                    f"{path}: line {number}: {head[0]} {shown(name)} is in two groups of {shown(attribute)}, "
                    f"{shown(earlier)} and {shown(group)}; leave one, or leave the cell empty if it is not known"
                )
    if not any(attributes.values()):
        raise DataError(f"{path}: names no group; {EXPECTED}")
    return GroupFile(path, digest, head[0], attributes, frozenset(names))


def join_groups(file: GroupFile, names: Mapping[str, Sequence[str]], people: np.ndarray, what: str) -> list[Membership]:
    """Finds the group of each image of a set, for every attribute of the file.

    Args:
        file: the groups.
        names: for each key that the set can be joined by, the name of each image (N,): the person's for `person`.
        people: (N,) who is on each image, names or numbers.
        what: the set, for messages.

    Raises:
        DataError: the set has no such names, or none of them is in the file, or there are fewer than two groups.
    """
    if file.key not in names:
        known = " or ".join(names)
        raise DataError(
            f"{file.path}: its groups go by {file.key}, and {what} knows {known} only; name the first column so"
        )
    own = list(names[file.key])
    missing = sorted({name for name in own if name not in file.names})
    if len(missing) == len(set(own)):
        raise DataError(
            f"{file.path}: names no {file.key} of {what}: it has {some_of(sorted(file.names))}, and the set "
            f"{some_of(sorted(set(own)))}; names must be equal to the letter"
        )
    unused = len(file.names - set(own))
    notes = []
    if missing:
        notes.append(
            f"{file.path.name}: {len(missing):,} of {counted(len(set(own)), file.key, file.key + 's')} of the set "
            f"{agreeing(len(missing), 'is not in it, and counts', 'are not in it, and count')} in no group: "
            f"{some_of(missing)}"
        )
    if unused:
        notes.append(
            f"{file.path.name}: {unused:,} of its {counted(len(file.names), file.key, file.key + 's')} "
            f"{agreeing(unused, 'is', 'are')} not in the set"
        )
    return [
        _join(file, attribute, own, people, notes if number == 0 else [])
        for number, attribute in enumerate(file.attributes)
    ]


def _join(file: GroupFile, attribute: str, own: list[str], people: np.ndarray, notes: list[str]) -> Membership:
    group_of = file.attributes[attribute]
    groups = sorted({group_of[name] for name in own if name in group_of})
    if not 2 <= len(groups) <= MAX_GROUPS:
        raise DataError(
            f"{file.path}: {shown(attribute)} has {counted(len(groups), 'group')} in the set ({some_of(groups)}); "
            f"from 2 to {MAX_GROUPS} can be compared"
        )
    number_of = {group: number for number, group in enumerate(groups)}
    codes = np.array([number_of[group_of[name]] if name in group_of else -1 for name in own], np.int64)
    return Membership(attribute, groups, codes, [*notes, *_doubts(attribute, groups, codes, people)])


def _doubts(attribute: str, groups: list[str], codes: np.ndarray, people: np.ndarray) -> list[str]:
    """Returns a sentence for people in several groups, and for groups of fewer than two people."""
    notes = []
    persons, person_of = np.unique(people, return_inverse=True)
    has_group = codes >= 0
    member = np.unique(person_of[has_group] * len(groups) + codes[has_group])
    counts = np.bincount(member // len(groups), minlength=len(persons))
    if (several := np.flatnonzero(counts > 1)).size:
        own = [groups[key % len(groups)] for key in member.tolist() if key // len(groups) == several[0]]
        notes.append(
            f"{shown(attribute)}: {counted(several.size, 'person has', 'people have')} images in several groups, the "
            f"first {shown(persons[several[0]])} in {some_of(own)}; wrong unless the attribute is one of images, such "
            "as age"
        )
    sizes = np.bincount(member % len(groups), minlength=len(groups))
    if small := [groups[number] for number in np.flatnonzero(sizes < 2).tolist()]:
        notes.append(
            f"{shown(attribute)}: groups of fewer than two people have no false match rate of their own: "
            f"{some_of(small, 8)}"
        )
    return notes
