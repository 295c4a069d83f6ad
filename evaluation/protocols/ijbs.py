"""Reads an IJB-S style set: tables of templates, galleries of different people, probes of still images or video frames.

The official names of IJB-S's own tables could not be checked, so any CSV with the columns of NIST's IJB-C tables is
read: `gallery_NAME.csv` and `probe_NAME.csv`. A probe whose subject is not in a gallery is non-mated there: that makes
the open set; the closed set is the mated probes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.protocols.listed_set import NO_ENTRIES, Entries, ListedSet, check_names
from facekd.errors import DataError
from facekd.files.reading import read_text_file, rows_of_table
from facekd.utils.foreign import reading, shown, some_of
from facekd.utils.text_arrays import join_text_arrays, text_array

COLUMNS = ("TEMPLATE_ID", "SUBJECT_ID", "FILENAME")


def load_ijbs(root: Path) -> ListedSet:
    """Reads the tables.

    Args:
        root: the folder that holds `protocols/` with the tables, and `images/` that FILENAME begins at.

    Raises:
        DataError: tables are missing, lack a column, or give a template to two subjects.
    """
    folder = root / "protocols"
    tables = {kind: sorted(folder.glob(f"{kind}_*.csv")) for kind in ("gallery", "probe")}
    if not tables["gallery"] or not tables["probe"]:
        columns = ", ".join(COLUMNS)
        raise DataError(f"{folder}: expected gallery_NAME.csv and probe_NAME.csv, with the columns {columns}")
    number: dict[str, int] = {}
    galleries = {path.stem.removeprefix("gallery_"): read_table(path, number) for path in tables["gallery"]}
    parts = [read_table(path, number) for path in tables["probe"]]
    check_names(folder, list(number))
    # A person in two galleries is usual for no IJB set: each has people of its own.
    people = [{*gallery.subjects.tolist()} for gallery in galleries.values()]
    shared = set.intersection(*people) if len(people) > 1 else set()
    remarks = (f"people in every gallery: {len(shared):,}, the first {some_of(sorted(shared))}",) if shared else ()
    names = [f"images/{name}" for name in number]
    return ListedSet("ijbs", root, names, galleries, _joined(parts, root), remarks=remarks)


def _joined(parts: list[Entries], root: Path) -> Entries:
    """Returns the entries of several tables as those of one."""
    whole = NO_ENTRIES
    for part in parts:
        whole = Entries(
            join_text_arrays([whole.subjects, part.subjects], root),
            np.concatenate([whole.images, part.images]),
            np.concatenate([whole.of_entry, part.of_entry + len(whole)]),
        )
    return whole


def read_table(path: Path, number: dict[str, int]) -> Entries:
    """Reads the templates of a table; `number` gets the images that it names first.

    Raises:
        DataError: no table of these columns, a row that lacks one, or a template of two subjects; it names the line.
    """
    text = read_text_file(path, has_file_names=True)
    with reading(path, "a table with commas", remedy="write it again"):
        columns, rows = rows_of_table(text, COLUMNS, skipinitialspace=True)
    lacking = [name for name in COLUMNS if name not in columns]
    if lacking:
        raise DataError(f"{path}: has no column {' and no '.join(lacking)}; expected {', '.join(COLUMNS)}")
    subject_of: dict[str, str] = {}
    images: dict[str, list[int]] = {}
    for line, row in enumerate(rows, start=2):
        template, subject, file = (row[name].strip() for name in COLUMNS)
        if not template or not subject or not file:
            raise DataError(f"{path}, line {line}: lacks {COLUMNS[[template, subject, file].index('')]}")
        if subject_of.setdefault(template, subject) != subject:
            raise DataError(
                f"{path}, line {line}: gives template {shown(template)} to subject {shown(subject)}, and an earlier "
                f"line to {shown(subject_of[template])}"
            )
        images.setdefault(template, []).append(number.setdefault(file, len(number)))
    if not images:
        raise DataError(f"{path}: has no rows; expected a row for each image of a template")
    counts = [len(own) for own in images.values()]
    return Entries(
        text_array([subject_of[template] for template in images], path),
        np.concatenate([np.array(own) for own in images.values()]),
        np.repeat(np.arange(len(counts)), counts),
    )
