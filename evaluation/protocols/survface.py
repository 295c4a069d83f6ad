"""Reads QMUL-SurvFace: open-set and closed-set identification, and 1:1 pairs.

The layout is what programs that read the release expect; the release itself was not at hand. Of its counts only the
5,320 pairs of each kind are checked, because sources differ about the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.protocols.listed_set import NOBODY, Entries, ImagePairs, ListedSet, check_mates, check_names, images_in
from evaluation.protocols.mat_lists import named_ids, read_mat_lists
from facekd.errors import DataError
from facekd.utils.foreign import shown, some_of
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import agreeing, counted

IDENTIFICATION, VERIFICATION = "Face_Identification_Test_Set", "Face_Verification_Test_Set"
LIST_FOLDERS = (IDENTIFICATION, "Face_Identification_Evaluation")
PUBLISHED = {"num_genuine_pairs": 5_320, "num_impostor_pairs": 5_320}


def load_survface(root: Path) -> ListedSet:
    """Reads the release.

    Args:
        root: the folder that holds Face_Identification_Test_Set and Face_Verification_Test_Set, or one of them.

    Raises:
        DataError: a list or folder is missing, or they contradict each other.
    """
    has_search, has_pairs = (root / IDENTIFICATION).is_dir(), (root / VERIFICATION).is_dir()
    if not has_search and not has_pairs:
        raise DataError(f"{root}: holds neither {IDENTIFICATION} nor {VERIFICATION}; give the folder QMUL-SurvFace")
    paths = _search_lists(root) if has_search else []
    if has_pairs:
        paths += [root / VERIFICATION / f"{kind}_pairs_names.mat" for kind in ("positive", "negative")]
    lists = dict(zip(paths, read_mat_lists(paths), strict=True))

    # Images of the search, then those of the pairs.
    names: list[str] = []
    roles: dict[str, Any] = {"remarks": ()}
    if has_search:
        names, roles = _search_roles(root, {path: lists[path] for path in paths[:2]})
    pairs = None
    if has_pairs:
        pairs = _pairs(root, [lists[path] for path in paths[-2:]], paths[-2:], names)
    return ListedSet("survface", root, names, pairs=pairs, published=PUBLISHED if has_pairs else {}, **roles)


def _search_lists(root: Path) -> list[Path]:
    """Returns the lists of gallery and mated probes, which releases keep in one of two folders."""
    found = []
    for name in ("gallery_img_ID_pairs.mat", "mated_probe_img_ID_pairs.mat"):
        places = [root / folder / name for folder in LIST_FOLDERS]
        found.append(next((place for place in places if place.is_file()), places[0]))
    return found


def _search_roles(root: Path, lists: dict[Path, dict[str, list[Any]]]) -> tuple[list[str], dict[str, Any]]:
    """Returns the names of the images, and the arguments of `ListedSet` about gallery and probes."""
    files, subjects = [], []
    for (path, found), role in zip(lists.items(), ("gallery", "mated_probe"), strict=True):
        prefix = "gallery" if role == "gallery" else "mated_probe"
        own, ids = named_ids(path, found, f"{prefix}_set", f"{prefix}_ids")
        check_names(path, own)
        files.append([f"{IDENTIFICATION}/{role}/{name}" for name in own])
        subjects.append(ids)
    check_mates(list(lists)[1], subjects[1], subjects[0], "mated probes have a mate there")

    # Unmated probes are whatever lies in their folder.
    folder = root / IDENTIFICATION / "unmated_probe"
    unmated = images_in(folder)
    strangers, remarks = _strangers(unmated, files[0])
    names = [*files[0], *files[1], *(f"{IDENTIFICATION}/unmated_probe/{name}" for name in unmated)]
    if not unmated:
        remarks.append(f"{folder}: holds no images, so only the closed set can be measured")
    return names, {
        "galleries": {"gallery": Entries.single(subjects[0], 0)},
        "probes": Entries.single([*subjects[1], *strangers], len(files[0])),
        "remarks": tuple(remarks),
    }


def _strangers(unmated: list[str], gallery: list[str]) -> tuple[list[str], list[str]]:
    """Returns a subject for each unmated probe, by the number its name begins with, and remarks about them."""
    known = {_person(file) for file in gallery} - {None}
    inside = [name for name in unmated if _person(name) in known]
    remarks = []
    if inside:
        remarks.append(
            f"unmated probes whose names begin with a person of the gallery: {len(inside):,}, the first "
            f"{some_of(inside)}; each is counted as a stranger, as the set says, and raises the false positives"
        )
    people = [_person(name) for name in unmated]
    return [NOBODY + (f"{person}" if person else name) for person, name in zip(people, unmated, strict=True)], remarks


def _pairs(root: Path, lists: list[dict[str, list[Any]]], paths: list[Path], names: list[str]) -> ImagePairs:
    """Reads both lists of pairs; appends their images to `names`."""
    pairs: list[tuple[str, str]] = []
    for path, found, key in zip(paths, lists, ("positive_pairs_names", "negative_pairs_names"), strict=True):
        if key not in found or len(found[key]) % 2:
            raise DataError(f"{path}: holds {some_of(list(found), 6)}; expected {key}, two names a row")
        pairs += zip(found[key][::2], found[key][1::2], strict=True)
    is_same = np.arange(len(pairs)) < len(lists[0]["positive_pairs_names"]) // 2
    images = sorted({name for pair in pairs for name in pair})
    check_names(paths[0], images)
    people = text_array([str(_person(name)) for pair in pairs for name in pair], paths[0].parent).reshape(-1, 2)
    wrong = np.flatnonzero((people[:, 0] == people[:, 1]) != is_same)
    if wrong.size:
        first, second = pairs[wrong[0]]
        raise DataError(
            f"{paths[0 if is_same[wrong[0]] else 1]}: {wrong.size:,} of {counted(len(pairs), 'pair')} "
            f"{agreeing(wrong.size, 'contradicts', 'contradict')} the numbers {agreeing(wrong.size, 'its', 'their')} "
            f"names begin with, the first {shown(first)} and {shown(second)}"
        )
    number = {name: len(names) + place for place, name in enumerate(images)}
    names += [f"{VERIFICATION}/verification_images/{name}" for name in images]
    columns = np.array([[number[name] for name in pair] for pair in pairs], dtype=np.int64).reshape(-1, 2)
    return ImagePairs(columns[:, 0], columns[:, 1], is_same, people)


def _person(name: str) -> str | None:
    """Returns the number that a name begins with, before its first `_`; None for other names."""
    number = name.rpartition("/")[2].partition("_")[0]
    return number.lstrip("0") or "0" if number.isdecimal() else None
