"""Opens the pairs that a result was measured on, to count its scores again or to test them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.race_layouts import is_race_layout
from evaluation.ijb.problems import subjects_of_templates
from evaluation.ijb.protocol import load_protocol
from evaluation.protocols.kinds import KINDS
from evaluation.sets.pair_set import load_pair_set
from facekd.errors import DataError
from facekd.files.reading import sha256_of_file
from facekd.results.schema import IJB_FORMAT, PROTOCOL_FORMAT
from facekd.utils.foreign import shown


@dataclass(frozen=True)
class ResultPairs:
    """Holds the pairs of a result.

    Attributes:
        is_same: bool (P,), true for genuine pairs.
        subjects: (P, 2) the two people of each pair, or None if they are not known.
        fold_of: (P,) the fold of each pair, or None if the protocol has none.
        why_no_subjects: why they are not known, if there is more to say than that.
    """

    is_same: np.ndarray
    subjects: np.ndarray | None
    fold_of: np.ndarray | None
    why_no_subjects: str = ""


def load_pairs(result: dict[str, Any], names: str | None = None) -> ResultPairs:
    """Opens the pairs that a result was measured on.

    Args:
        result: the content of a results.json, IJB-style, of one LFW-style pack, or of a protocol with pairs.
        names: for an LFW-style pack its list of names.

    Raises:
        FacekdError, OSError: the set is gone, damaged, or another one than was evaluated.
    """
    if result["format"] == IJB_FORMAT:
        dataset = result["dataset"]
        protocol = load_protocol(dataset["root"], dataset["target"], may_write=False)
        if protocol.fingerprint != dataset["fingerprint"]:
            raise DataError(f"{dataset['root']}: its lists have changed since the evaluation")
        subjects, _ = subjects_of_templates(protocol)
        subjects = np.stack([subjects[protocol.pair_first], subjects[protocol.pair_second]], axis=1)
        fits = np.array_equal(subjects[:, 0] == subjects[:, 1], protocol.is_same)
        if not fits:
            return ResultPairs(protocol.is_same, None, None, "the labels contradict the subjects")
        return ResultPairs(protocol.is_same, subjects, None)
    if result["format"] == PROTOCOL_FORMAT:
        return _pairs_of_protocol(result)
    path = result["pair_set"]["path"]
    if is_race_layout(Path(path)):
        raise DataError(f"{path}: pairs of RFW and BFW are not opened again for a report")
    # The results may be a stranger's, and name what gives bytes without end, or waits for them.
    if not Path(path).is_file():
        raise DataError(f"{path}: is gone, or no file")
    if sha256_of_file(path) != result["pair_set"]["sha256"]:
        raise DataError(f"{path}: has changed since the evaluation")
    # The folds as they were: balanced ones are recorded as such.
    kind = "balanced" if result["protocol"].get("fold_kind") == "balanced" else "contiguous"
    pair_set = load_pair_set(path, result["protocol"]["folds"], names, fold_kind=kind)
    return ResultPairs(pair_set.is_same, pair_set.subjects, pair_set.fold_of)


def _pairs_of_protocol(result: dict[str, Any]) -> ResultPairs:
    """Opens the pairs of a set that `facekd evaluate protocol` read.

    Raises:
        FacekdError, OSError: the set is gone or another one, or some of its images were left out.
    """
    dataset, root = result["dataset"], Path(result["dataset"]["root"])
    if dataset["target"] not in KINDS:
        raise DataError(f"{root}: there is no protocol called '{shown(dataset['target'])}'")
    listed = KINDS[dataset["target"]].load(root)
    listed = replace(listed, distractors=listed.distractors[: dataset.get("num_distractors") or 0])
    if listed.fingerprint() != dataset["fingerprint"]:
        raise DataError(f"{root}: its lists have changed since the evaluation")
    if result["failures"]["num_images"]:
        raise DataError(f"{root}: images were left out, so it is not known which pairs have a score")
    if listed.leave_one_out:
        raise DataError(f"{root}: its 1:1 scores are counted and not kept")
    if listed.pairs is None:
        raise DataError(f"{root}: has no pairs")
    return ResultPairs(listed.pairs.is_same, listed.pairs.subjects, None)
