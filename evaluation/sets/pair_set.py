"""Reads verification protocols: a pack, and its list of names if any, as a validated `PairSet`. No maths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.sets.embedding_cache import EncodedImages, distinct_images
from facekd.data.pair_packs.pair_pack import PairPack, decode_images
from facekd.data.pair_packs.people import PeopleCompared, count_people, warn_of_few_people
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError, InputError
from facekd.files.reading import read_text_file, sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.utils.foreign import shown, some_of
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import counted
from facekd.verification.kfold import USUAL_FOLDS, FoldKind, choose_folds
from facekd.verification.label_consistency import contradicted_impostors
from facekd.verification.scores import cosines

MAX_SUBJECT = 255  # characters, as of the name of a folder: arrays give each as much room as the longest takes


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
        fold_kind: how the folds were made: "contiguous" ranges of the pairs, as "recorded" in the pack, or "balanced",
            where genuine and impostor pairs are each cut into contiguous parts.
        warnings: sentences about what in the pack makes its numbers doubtful.
        sha256: of the file that the images were read from.
        image_names: 2N names of the images, `SUBJECT/IMAGE`, or None if they are not known.
    """

    name: str
    path: Path
    images: Sequence[bytes]
    is_same: np.ndarray
    fold_of: np.ndarray
    subjects: np.ndarray | None = None
    fold_kind: str = "contiguous"
    warnings: tuple[str, ...] = ()
    sha256: str = ""
    image_names: Sequence[str] | None = None

    def __len__(self) -> int:
        """Returns the number of pairs N."""
        return len(self.is_same)

    @property
    def num_folds(self) -> int:
        """Returns the number of folds K."""
        return int(self.fold_of.max()) + 1

    @property
    def people(self) -> PeopleCompared | None:
        """Counts the people behind the pairs; returns None if their names are not known."""
        return None if self.subjects is None else count_people(self.subjects, self.is_same, self.fold_of)

    @property
    def num_subjects_in_several_folds(self) -> int | None:
        """Counts the subjects that occur in several folds: 0 in LFW's own protocol, None if names are not known."""
        if self.subjects is None:
            return None
        codes = np.unique(self.subjects, return_inverse=True)[1].reshape(-1)
        pairs = np.column_stack([codes, np.repeat(self.fold_of, 2)])
        _, counts = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
        return int((counts > 1).sum())

    @property
    def embedded(self) -> EncodedImages:
        """Returns the images to embed, M of them."""
        return self

    @property
    def places(self) -> np.ndarray:
        """Returns which of the images that are embedded each of the 2N images of the pairs is."""
        return np.arange(2 * len(self))

    def cosines(self, embeddings: np.ndarray) -> np.ndarray:
        """Computes the cosine of each pair, float64 (N,), from the embeddings (M, D) of the images embedded.

        Raises:
            DataError: an embedding has no direction.
        """
        return cosines(embeddings[0::2], embeddings[1::2], self.path)

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop` (of 2N) to uint8 RGB (B, H, W, 3)."""
        return decode_images(self.images[start:stop], first_image=start, source=self.path)


def load_pair_set(
    path: str | os.PathLike[str],
    folds: int = USUAL_FOLDS,
    names: str | os.PathLike[str] | None = None,
    name: str | None = None,
    fold_kind: FoldKind = "auto",
    fewer_folds: bool = False,
) -> PairSet:
    """Reads a verification pack and checks that the protocol can be run on it.

    Args:
        path: the pack, `.bin` or `.npz`.
        folds: number of folds; if an `.npz` records as many, its own count as contiguous ones.
        names: a text file with one line for each pair, `nameA<TAB>nameB<TAB>label`; the subject is the folder part of a
            name (`Abel_Pacheco/Abel_Pacheco_0001.jpg`), the label 1 or 0 as in the pack.
        name: name of the set.
        fold_kind: "contiguous"; "balanced", see `facekd.verification.balanced_folds`; or "auto", which takes contiguous
            folds if each holds both kinds of pair, and otherwise balanced ones, with a warning.
        fewer_folds: whether to take fewer folds where there are not enough pairs of a kind for all of them.

    Raises:
        DataError: only one kind of pair; names that do not belong to the pack (which line, and why); or see
            `facekd.data.pair_packs.reading.read_pair_pack`.
        InputError: fewer than two folds, or more than there are pairs, or pairs of a kind for balanced ones.
        OSError: a file cannot be read.
    """
    # A pack with both kinds of pairs.
    path = Path(path)
    with unchanged(path):
        pack, digest = read_pair_pack(path), sha256_of_file(path)
    num_genuine = int(pack.is_same.sum())
    if num_genuine in (0, len(pack)):
        present, absent = ("impostor", "genuine") if num_genuine == 0 else ("genuine", "impostor")
        raise DataError(
            f"{path}: all {counted(len(pack), 'pair is', 'pairs are')} {present}, none is {absent}; verification "
            "metrics compare the two kinds: use a pack that holds both"
        )
    # Subjects and folds: from the list of names and the arguments, or as the pack records them.
    subjects = pack.subjects if names is None else read_subjects(names, pack.is_same, path)
    try:
        chosen = choose_folds(pack.is_same, folds, pack.fold_of, fold_kind, fewer_folds)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # What else makes the numbers doubtful.
    about = [*chosen.warnings, *_doubtful_images(pack, subjects)]
    if subjects is not None:
        comparisons = count_people(subjects, pack.is_same, chosen.fold_of)
        about += warn_of_few_people(comparisons, num_genuine, len(pack) - num_genuine)
    return PairSet(
        name or path.stem,
        path,
        pack.images,
        pack.is_same,
        chosen.fold_of,
        subjects,
        chosen.kind,
        tuple(f"{path}: {warning}" for warning in about),
        digest,
        None if names is None else read_image_names(names),
    )


def _doubtful_images(pack: PairPack, subjects: np.ndarray | None) -> list[str]:
    """Returns a sentence for each way in which equal images contradict the labels, or make a pair worthless."""
    place_of, first_at = distinct_images(pack.images)
    first, second, is_same = place_of[0::2], place_of[1::2], pack.is_same
    warnings = []
    # Labels that cannot all be right.
    odd = contradicted_impostors(first, second, is_same, len(first_at))
    if odd.size:
        warnings.append(
            "pairs labelled impostor whose images are one, or are joined to one person by genuine pairs: "
            f"{odd.size:,} of {len(pack):,}, the first pair {odd[0]}; some of these labels are wrong"
        )
    itself = np.flatnonzero((first == second) & is_same)
    if itself.size:
        warnings.append(
            f"genuine pairs that compare an image with itself: {itself.size:,}, the first pair {itself[0]}; any model "
            "accepts them"
        )
    # One image under several names.
    if subjects is not None:
        people = np.unique(subjects, return_inverse=True)[1].reshape(-1)
        named = np.unique(np.column_stack([place_of, people]), axis=0)[:, 0]
        several = np.unique(named[1:][named[1:] == named[:-1]])
        if several.size:
            image = int(first_at[several[0]])
            names = sorted(set(subjects.reshape(-1)[place_of == several[0]].tolist()))
            warnings.append(
                f"images under several names: {several.size:,}, the first image {image} (pair {image // 2}): "
                f"{some_of(names)}"
            )
    return warnings


def read_subjects(path: str | os.PathLike[str], is_same: np.ndarray, pack_path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the two subjects of each pair, (N, 2) str, and checks every line against the labels of the pack.

    Raises:
        DataError: the numbers of lines and pairs differ, or a line has another form or contradicts the pack.
        OSError: the file cannot be read.
    """
    # One line for each pair; blank lines at the end are ignored.
    path = Path(path)
    lines = read_text_file(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != len(is_same):
        raise DataError(
            f"{path}: names {counted(len(lines), 'pair')}, but {pack_path} holds {len(is_same):,}; give the list that "
            "the pack was made from, a line a pair in the order of the pack"
        )
    # Each line must say what the pack says.
    subjects = []
    for number, (line, same) in enumerate(zip(lines, is_same.tolist(), strict=True), start=1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[2].strip() not in ("0", "1"):
            raise DataError(
                f"{path}: line {number} is '{shown(line)}'; expected nameA<TAB>nameB<TAB>label, label 0 or 1"
            )
        first, second = (_subject_of(field.strip(), path, number) for field in fields[:2])
        if (fields[2].strip() == "1") != same:
            raise DataError(
                f"{path}: line {number} is labelled {fields[2].strip()}, pair {number - 1} of {pack_path} {int(same)}; "
                "the list belongs to another pack, or is in another order"
            )
        if (first == second) != same:
            kind = "genuine" if same else "impostor"
            raise DataError(
                f"{path}: line {number} is a pair of {shown(first)} and {shown(second)}, labelled {kind}; the "
                "subject is the folder part of the name: correct the name or the label"
            )
        subjects += first, second
    return text_array(subjects, path).reshape(-1, 2)


def read_image_names(path: str | os.PathLike[str]) -> list[str]:
    """Reads the names of the images of a list that `read_subjects` has checked: two a line."""
    lines = [line for line in read_text_file(path).split("\n") if line.strip()]
    return [name.strip() for line in lines for name in line.split("\t")[:2]]


def _subject_of(name: str, path: Path, number: int) -> str:
    subject, slash, image = name.rpartition("/")
    if not (subject and slash and image):
        raise DataError(f"{path}: line {number}: '{shown(name)}' has no folder part; expected SUBJECT/IMAGE")
    if len(subject) > MAX_SUBJECT:
        raise DataError(
            f"{path}: line {number}: the subject '{shown(subject)}' has {counted(len(subject), 'character')}; the "
            f"most are {MAX_SUBJECT}"
        )
    return subject
