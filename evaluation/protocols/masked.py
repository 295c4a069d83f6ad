"""Reads an MFR-style set: every masked face of a person against every face without a mask, 1:1.

InsightFace's MFR set is not public. Its rule is: all masked images against all unmasked ones, where those of one person
are the genuine pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.protocols.listed_set import ImagePairs, ListedSet
from facekd.errors import DataError
from facekd.images.image_files import list_by_folder
from facekd.utils.foreign import some_of
from facekd.utils.wording import counted

MAX_PAIRS = 30_000_000  # each takes about 40 bytes


def load_masked(root: Path) -> ListedSet:
    """Reads the folders `masked` and `unmasked`, with a folder of images for each person in either.

    Raises:
        DataError: a folder is missing or holds no images, no person is in both, or there are too many pairs.
    """
    names: list[str] = []
    people: dict[str, np.ndarray] = {}
    remarks = []
    for side in ("masked", "unmasked"):
        if not (root / side).is_dir():
            raise DataError(f"{root / side}: is missing; expected masked/PERSON/*.jpg and unmasked/PERSON/*.jpg")
        listing = list_by_folder(root / side)
        own = [(person, file) for person, files in listing.by_folder.items() for file in files]
        if not own:
            raise DataError(f"{root / side}: holds no folders of images{listing.explain()}")
        remarks += [f"{root / side}: {warning}" for warning in listing.warnings()]
        names += [f"{side}/{person}/{file}" for person, file in own]
        people[side] = np.array([person for person, _ in own])
    for side, other in (("masked", "unmasked"), ("unmasked", "masked")):
        if alone := sorted({*people[side].tolist()} - {*people[other].tolist()}):
            remarks.append(f"people only in {side}/: {len(alone):,}, the first {some_of(alone)}")

    # All images of one side against all of the other.
    masked, unmasked = people["masked"], people["unmasked"]
    num_pairs = len(masked) * len(unmasked)
    if num_pairs > MAX_PAIRS:
        raise DataError(
            f"{root}: {len(masked):,} masked and {counted(len(unmasked), 'unmasked image')} make "
            f"{counted(num_pairs, 'pair')}, more than {MAX_PAIRS:,}; evaluate parts of it, with all images of a "
            "person in one part"
        )
    first = np.repeat(np.arange(len(masked), dtype=np.int32), len(unmasked))
    second = np.tile(len(masked) + np.arange(len(unmasked), dtype=np.int32), len(masked))
    codes = np.unique(np.concatenate([masked, unmasked]), return_inverse=True)[1].astype(np.int32).reshape(-1)
    subjects = np.stack([codes[first], codes[second]], axis=1)
    is_same = subjects[:, 0] == subjects[:, 1]
    if not is_same.any() or is_same.all():
        kind = "no person is in both" if not is_same.any() else "both show one person"
        raise DataError(f"{root}: masked/ and unmasked/ make no pairs of both kinds: {kind}")
    return ListedSet("masked", root, names, pairs=ImagePairs(first, second, is_same, subjects), remarks=tuple(remarks))
