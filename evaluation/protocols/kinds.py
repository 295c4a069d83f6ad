"""Lists the protocols: how each set is read and what is measured on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.protocols.ijbs import load_ijbs
from evaluation.protocols.listed_set import ListedSet
from evaluation.protocols.masked import load_masked
from evaluation.protocols.megaface import load_megaface
from evaluation.protocols.survface import load_survface
from evaluation.protocols.tinyface import load_tinyface


@dataclass(frozen=True)
class Kind:
    """Describes a protocol.

    Attributes:
        title: name of the set.
        load: reads it from its folder.
        layout: what its folder holds, for help.
        ranks: ranks whose rates are measured.
        fpirs: false positive identification rates at which misses are measured.
        within: the rank that a mate must reach to be found in the open set.
        has_precision: whether average precision is measured.
        text: the rule of the search, in words.
    """

    title: str
    load: Callable[[Path], ListedSet]
    layout: str
    ranks: tuple[int, ...] = (1, 5, 20)
    fpirs: tuple[float, ...] = (0.01, 0.1, 0.2, 0.3)
    within: int = 1
    has_precision: bool = False
    text: str = "a probe counts at the rank of its person's best entry"


KINDS = {
    "survface": Kind(
        "QMUL-SurvFace", load_survface, "Face_Identification_Test_Set/, Face_Verification_Test_Set/", within=20
    ),
    "tinyface": Kind(
        "TinyFace", load_tinyface, "Testing_Set/ with two .mat lists and three folders", has_precision=True
    ),
    "megaface": Kind(
        "MegaFace (FaceScrub)",
        load_megaface,
        "facescrub_lst, megaface_lst, *_noises.txt, *_images/",
        text="each probe against each other image of its person, alone among the distractors",
    ),
    "ijbs": Kind("IJB-S style", load_ijbs, "protocols/gallery_*.csv, protocols/probe_*.csv, images/"),
    "masked": Kind("masked pairs (MFR style)", load_masked, "masked/PERSON/*.jpg, unmasked/PERSON/*.jpg"),
}
