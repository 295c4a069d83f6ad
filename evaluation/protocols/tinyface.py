"""Reads TinyFace: closed-set identification of low-resolution faces among distractors, by rank and average precision.

The counts were checked in programs that read the release; the release itself was not at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.protocols.listed_set import Entries, ListedSet, check_mates, check_names, images_in
from evaluation.protocols.mat_lists import named_ids, read_mat_lists
from facekd.errors import DataError
from facekd.utils.foreign import some_of

TESTING = "Testing_Set"
PUBLISHED = {"num_gallery": 4_443, "num_probes": 3_728, "num_distractors": 153_428}
ROLES = (
    ("gallery_match_img_ID_pairs.mat", "gallery_set", "gallery_ids", "Gallery_Match"),
    ("probe_img_ID_pairs.mat", "probe_set", "probe_ids", "Probe"),
)


def load_tinyface(root: Path) -> ListedSet:
    """Reads the release.

    Args:
        root: the folder that holds Testing_Set, or that folder.

    Raises:
        DataError: a list or folder is missing, or they contradict each other.
    """
    below = f"{TESTING}/" if (root / TESTING).is_dir() else ""
    folder = root / TESTING if below else root
    if not (folder / "Gallery_Match").is_dir() or not (folder / "Probe").is_dir():
        raise DataError(f"{folder}: expected the folders Gallery_Match, Probe and Gallery_Distractor of TinyFace")
    paths = [folder / file for file, *_ in ROLES]
    names, subjects = [], []
    for path, found, (_, set_name, ids_name, inside) in zip(paths, read_mat_lists(paths), ROLES, strict=True):
        own, ids = named_ids(path, found, set_name, ids_name)
        check_names(path, own)
        names.append([f"{below}{inside}/{name}" for name in own])
        subjects.append(ids)
    check_mates(paths[1], subjects[1], subjects[0], "in closed-set identification everybody is")

    # Distractors are whatever lies in their folder.
    place = folder / "Gallery_Distractor"
    strangers = images_in(place)
    listed = {name.rpartition("/")[2] for own in names for name in own}
    again = [name for name in strangers if name in listed]
    remarks = () if strangers else (f"{place}: holds no images, so the gallery has no distractors",)
    if again:
        remarks += (f"distractors named as gallery or probe images: {len(again):,}, the first {some_of(again)}",)
    num_known = len(names[0]) + len(names[1])
    return ListedSet(
        "tinyface",
        root,
        [*names[0], *names[1], *(f"{below}Gallery_Distractor/{name}" for name in strangers)],
        {"gallery": Entries.single(subjects[0], 0)},
        Entries.single(subjects[1], len(names[0])),
        num_known + np.arange(len(strangers)),
        published=PUBLISHED,
        remarks=remarks,
    )
