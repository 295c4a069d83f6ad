"""Reads verification protocols: a pack, and its list of names if any, as a validated `PairSet`. No maths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError
from facekd.verification import fold_indices


@dataclass(frozen=True)
class PairSet:
    """Holds N pairs of images, their labels, folds and subjects.

    Attributes:
        name: name for tables and pictures; by default that of the file without `.bin`.
        path: path of the pack.
        images: 2N encoded images; pair i is images 2i and 2i + 1.
        is_same: bool (N,), true for genuine pairs.
        fold_of: int64 (N,), the fold of each pair, from 0.
        subjects: (N, 2) the names of the two subjects of each pair, or None if they are not known.
    """

    name: str
    path: Path
    images: Sequence[bytes]
    is_same: np.ndarray
    fold_of: np.ndarray
    subjects: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of pairs N."""
        return len(self.is_same)

    @property
    def num_folds(self) -> int:
        """Returns the number of folds K."""
        return int(self.fold_of.max()) + 1

    @property
    def num_subjects(self) -> int | None:
        """Returns the number of distinct subjects, or None if their names are not known."""
        return None if self.subjects is None else len(np.unique(self.subjects))

    @property
    def num_subjects_in_several_folds(self) -> int | None:
        """Counts the subjects that occur in several folds: 0 in LFW's own protocol, None if names are not known."""
        if self.subjects is None:
            return None
        pairs = np.column_stack([self.subjects.reshape(-1), np.repeat(self.fold_of, 2).astype(str)])
        _, counts = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
        return int((counts > 1).sum())

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop` (of 2N) to uint8 RGB (B, H, W, 3)."""
        return decode_images(self.images[start:stop], first_image=start, source=self.path)


def load_pair_set(
    path: str | os.PathLike[str],
    folds: int = 10,
    names: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> PairSet:
    """Reads a verification pack and checks that the protocol can be run on it.

    Args:
        path: the pack, `.bin` or `.npz`.
        folds: number of contiguous folds; outside each there must be genuine and impostor pairs. If an `.npz` records
            as many folds, those are used.
        names: a text file with one line for each pair, `nameA<TAB>nameB<TAB>label`; the subject is the folder part of a
            name (`Abel_Pacheco/Abel_Pacheco_0001.jpg`), the label 1 or 0 as in the pack.
        name: name of the set.

    Raises:
        DataError: only one kind of pair; names that do not belong to the pack (which line, and why); or see
            `facekd.data.pair_packs.reading.read_pair_pack`.
        InputError: more folds than pairs, or fewer than two.
        OSError: a file cannot be read.
    """
    # A pack with both kinds of pairs.
    path = Path(path)
    pack = read_pair_pack(path)
    num_genuine = int(pack.is_same.sum())
    if num_genuine in (0, len(pack)):
        present, absent = ("impostor", "genuine") if num_genuine == 0 else ("genuine", "impostor")
        raise DataError(
            f"{path}: all {len(pack):,} pairs are {present}, none is {absent}; verification metrics compare the two "
            "kinds: use a pack that holds both"
        )
    # Subjects and folds: from the list of names and the arguments, or as the pack records them.
    subjects = pack.subjects if names is None else read_subjects(names, pack.is_same, path)
    fold_of = fold_indices(len(pack), folds)
    if pack.fold_of is not None and int(pack.fold_of.max()) + 1 == folds:
        fold_of = pack.fold_of  # the pack's own, which may differ in size
    return PairSet(name or path.stem, path, pack.images, pack.is_same, fold_of, subjects)


def read_subjects(path: str | os.PathLike[str], is_same: np.ndarray, pack_path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the two subjects of each pair, (N, 2) str, and checks every line against the labels of the pack.

    Raises:
        DataError: the numbers of lines and pairs differ, or a line has another form or contradicts the pack.
        OSError: the file cannot be read.
    """
    # One line for each pair; blank lines at the end are ignored.
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text: {error}; expected lines nameA<TAB>nameB<TAB>label") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != len(is_same):
        raise DataError(
            f"{path}: names {len(lines):,} pairs, but {pack_path} holds {len(is_same):,}; give the list that the pack "
            "was made from, a line a pair in the order of the pack"
        )
    # Each line must say what the pack says.
    subjects = []
    for number, (line, same) in enumerate(zip(lines, is_same.tolist(), strict=True), start=1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[2].strip() not in ("0", "1"):
            raise DataError(f"{path}: line {number} is {line!r}; expected nameA<TAB>nameB<TAB>label, label 0 or 1")
        first, second = (_subject_of(field.strip(), path, number) for field in fields[:2])
        if (fields[2].strip() == "1") != same:
            raise DataError(
                f"{path}: line {number} is labelled {fields[2].strip()}, pair {number - 1} of {pack_path} {int(same)}; "
                "the list belongs to another pack, or is in another order"
            )
        if (first == second) != same:
            kind = "genuine" if same else "impostor"
            raise DataError(
                f"{path}: line {number} is a pair of {first} and {second}, labelled {kind}; the subject is the folder "
                "part of the name: correct the name or the label"
            )
        subjects.append((first, second))
    return np.array(subjects)


def _subject_of(name: str, path: Path, number: int) -> str:
    subject, slash, image = name.rpartition("/")
    if not (subject and slash and image):
        raise DataError(f"{path}: line {number}: {name!r} has no folder part; expected SUBJECT/IMAGE")
    return subject
