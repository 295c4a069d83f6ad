"""Joins a file of groups to the pairs of a verification pack, and measures the groups on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.groups.group_file import GroupFile, join_groups, read_groups
from evaluation.groups.measuring import describe_groups, measure_listed
from evaluation.sets.file_pairs import FilePairs
from evaluation.sets.pair_set import PairSet
from facekd.errors import FacekdError
from facekd.verification import Rule


def read_pack_groups(path: str | None, pair_sets: Sequence[PairSet]) -> list[PackGroups | None]:
    """Reads the groups of the people or images of every pack; without a file those that the set itself gives, or None.

    Raises:
        DataError: see `read_groups` and `join_groups`.
        FacekdError: a pack whose people are not known.
    """
    if path is None:
        own = [pair_set.groups if isinstance(pair_set, FilePairs) else None for pair_set in pair_sets]
        return [file and PackGroups(file, pair_set) for file, pair_set in zip(own, pair_sets, strict=True)]
    file = read_groups(path)
    return [PackGroups(file, pair_set) for pair_set in pair_sets]


class PackGroups:
    """Holds the groups of the images of a pack.

    Args:
        file: the groups; by `person`, or by `image` if the pack's list of names is known.
        pair_set: the pack.

    Raises:
        DataError: see `join_groups`.
        FacekdError: it is not known who is in the pairs.
    """

    def __init__(self, file: GroupFile, pair_set: PairSet) -> None:
        if pair_set.subjects is None:
            raise FacekdError(f"--groups: {pair_set.path} does not say who is in its pairs; give its list with --names")
        people = pair_set.subjects.reshape(-1)
        names = {"person": people.tolist()}
        if pair_set.image_names is not None:
            names["image"] = list(pair_set.image_names)
        self._file, self._subjects, self._is_same = file, pair_set.subjects, pair_set.is_same
        self._memberships = join_groups(file, names, people, str(pair_set.path))

    def measure(
        self,
        scores: np.ndarray,
        points: Sequence[dict[str, Any]],
        fars: Sequence[float],
        rule: Rule,
        replicates: int,
        seed: int,
    ) -> dict[str, Any]:
        """Returns the entry `groups` of results.json.

        Args:
            scores: (N,) of the pairs.
            points: the entries of `tar_at_far`.
            fars, rule, replicates, seed: what they were measured with.
        """
        sides = (self._subjects[:, 0], self._subjects[:, 1])
        measure = measure_listed(scores, self._is_same, sides, _sides, fars, rule, replicates, seed)
        people = self._subjects.reshape(-1)
        return describe_groups(self._file, self._memberships, people, measure, points, replicates, seed)


def _sides(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return codes[0::2], codes[1::2]
