"""Joins a file of groups to the templates of an IJB-style set, and measures the groups on its 1:1 comparisons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.groups.group_file import GroupFile, join_groups, read_groups
from evaluation.groups.measuring import describe_groups, measure_listed
from evaluation.ijb.metrics import PairScores
from evaluation.ijb.problems import Kept, names_of_subjects
from evaluation.ijb.protocol import IjbProtocol
from facekd.errors import DataError, FacekdError
from facekd.verification import Rule


def read_template_groups(
    path: str | None, protocol: IjbProtocol, evaluated: str, subjects: np.ndarray
) -> TemplateGroups | None:
    """Reads the groups of the templates of a set; returns None without a file.

    Args:
        path: the CSV file; see `TemplateGroups`.
        protocol: the set.
        evaluated: "1:1", "1:N" or "both".
        subjects: (T,) the subject of each template.

    Raises:
        DataError: see `TemplateGroups`.
        FacekdError: no 1:1 comparisons are evaluated.
    """
    if path is not None and evaluated == "1:N":
        raise FacekdError("--groups are measured on 1:1 comparisons, and --protocol 1:N has none")
    return None if path is None else TemplateGroups(path, protocol, subjects)


class TemplateGroups:
    """Holds the groups of the templates of a set.

    Args:
        path: the CSV file of the groups; its first column is `person` (subject ids), `template` (template ids) or
            `image` (names as in the lists; a template has a group if all its images that have one agree).
        protocol: the set.
        subjects: (T,) the subject of each template.

    Raises:
        DataError: see `read_groups` and `join_groups`.
    """

    def __init__(self, path: str | os.PathLike[str], protocol: IjbProtocol, subjects: np.ndarray) -> None:
        self._protocol, self._subjects = protocol, subjects
        file = read_groups(path)
        names = {"template": [str(template) for template in protocol.template_ids.tolist()]}
        named = names_of_subjects(protocol)
        if named is not None:
            names["person"] = [str(subject) for subject in named.tolist()]
        if file.key == "image":
            file = _of_templates(file, protocol)
        self._file = file
        self._memberships = join_groups(file, names, subjects, str(protocol.root))

    def measure(
        self,
        pairs: PairScores,
        kept: Kept,
        points: Sequence[dict[str, Any]],
        fars: Sequence[float],
        rule: Rule,
        replicates: int,
        seed: int,
    ) -> dict[str, Any]:
        """Returns the entry `groups` of results.json.

        Args:
            pairs: the scores.
            kept: which pairs of the protocol were kept.
            points: the entries of `tar_at_far`.
            fars, rule, replicates, seed: what they were measured with.
        """
        protocol = self._protocol
        chosen = slice(None) if kept.pairs is None else np.flatnonzero(kept.pairs)
        first, second = protocol.pair_first[chosen], protocol.pair_second[chosen]
        measure = measure_listed(
            pairs.scores[chosen],
            protocol.is_same[chosen],
            (self._subjects[first], self._subjects[second]),
            lambda codes: (codes[first], codes[second]),
            fars,
            rule,
            replicates,
            seed,
        )
        return describe_groups(self._file, self._memberships, self._subjects, measure, points, replicates, seed)


def _of_templates(file: GroupFile, protocol: IjbProtocol) -> GroupFile:
    """Returns the groups of the templates of which all images that have a group have the same."""
    images = [protocol.image_name(image) for image in range(len(protocol.image_names))]
    if file.names.isdisjoint(images):
        raise DataError(f"{file.path}: names no image of {protocol.root}; give them as the lists of the set do")
    faces = [
        (str(template), images[image])
        for template, image in zip(
            protocol.template_ids[protocol.face_templates].tolist(), protocol.face_images.tolist(), strict=True
        )
        if image >= 0
    ]
    attributes = {}
    for attribute, group_of in file.attributes.items():
        found: dict[str, set[str]] = {}
        for template, image in faces:
            if image in group_of:
                found.setdefault(template, set()).add(group_of[image])
        attributes[attribute] = {template: next(iter(own)) for template, own in found.items() if len(own) == 1}
    names = frozenset(template for template, image in faces if image in file.names)
    return GroupFile(file.path, file.sha256, "template", attributes, names)
