"""Finds out who the labels of images are, where the names of the images say so."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_prep.sources.image_lists import AGEDB_NAME
from data_prep.sources.image_sources import ImageSource
from facekd.errors import DataError


def people_of(names: list[str], labels: Iterable[int]) -> dict[int, str]:
    """Returns the person of each label, by the names of the images; refuses names that do not say who is who.

    A person is a folder, or who AgeDB's file names say if no name has a folder: as `list_folder` reads them.

    Args:
        names: paths of images with `/` between folders.
        labels: their labels; images without a label (-1) are passed over.

    Returns:
        For each label the name of its person; each person has one label.

    Raises:
        DataError: a person has two labels, a label has two people, or a name does not say who it is.
    """
    folders = [name.rpartition("/")[0] for name in names]
    person_in = {folder: posixpath.normpath(folder) for folder in set(folders)}
    people = [person_in[folder] for folder in folders]
    if all(person == "." for person in people):
        found = [AGEDB_NAME.fullmatch(posixpath.splitext(name)[0]) for name in names]
        people = [name["who"] if name else "." for name in found]
    label_of: dict[str, int] = {}
    person_of: dict[int, str] = {}
    for name, person, label in zip(names, people, labels, strict=True):
        if label < 0:
            continue
        if person == ".":
            raise DataError(f"{name!r} lies in no folder, so folders do not say who is on an image")
        if label_of.setdefault(person, label) != label:
            raise DataError(f"{person!r} holds images of labels {label_of[person]} and {label}, so it is no person")
        if person_of.setdefault(label, person) != person:
            raise DataError(
                f"label {label} has images in {person_of[label]!r} and {person!r}, which would be two people"
            )
    return person_of


def describe_other_people(sources: Mapping[Path, ImageSource]) -> str | None:
    """Says which labels have images of two people, by their names, if sources are joined label by label; None if none.

    Sources whose names do not say who is who are passed over.
    """
    first_of: dict[int, tuple[str, Path]] = {}
    found = []
    for path, source in sources.items():
        names = [source.name(image) for image in range(len(source.labels))]
        try:
            people = people_of(names, source.labels.tolist())
        except DataError:
            continue
        for label, person in people.items():
            first, where = first_of.setdefault(label, (person, path))
            if first != person:
                found.append(f"label {label} is {first!r} in {where} and {person!r} in {path}")
    if not found:
        return None
    more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
    return f"--same-labels takes a label for one person in all sources, but {found[0]}{more}"
