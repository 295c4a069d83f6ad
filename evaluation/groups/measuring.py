"""Measures the groups of people of an evaluated set: `--groups` of the evaluate verbs, and `groups` of results.json."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation.groups.all_pairs_errors import AllPairsErrors
from evaluation.groups.group_file import GroupFile, Membership
from evaluation.sets.all_pairs import AllPairs
from facekd.errors import InputError
from facekd.verification import Rule
from facekd.verification.groups.cell_rates import CellErrors, ListedErrors
from facekd.verification.groups.group_rates import (
    MeasureGroup,
    cell_of_pairs,
    cells_of_groups,
    measure_groups,
    thin_cells,
)
from facekd.verification.measures import (
    Subjects,
    add_intervals,
    add_intervals_of_all_pairs,
    measure_verification,
)
from facekd.verification.ranked_scores import RankedScores

MeasureAttribute = Callable[[Membership], "tuple[CellErrors, MeasureGroup]"]
ONE_KIND = "needs mated and non-mated comparisons within the group"


def add_groups_option(parser: argparse.ArgumentParser, keys: str) -> None:
    """Adds `--groups`.

    Args:
        parser: where to add it.
        keys: what the first column may be called, for the help: "person or image".
    """
    parser.add_argument(
        "--groups",
        metavar="CSV",
        help=f"measure error rates by group: a file whose first column is called {keys}, and every other column is an "
        "attribute; adds groups.html, and `groups` in results.json",
    )


def describe_groups(
    file: GroupFile,
    memberships: Sequence[Membership],
    people: np.ndarray,
    measure: MeasureAttribute,
    points: Sequence[dict[str, Any]],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Returns the entry `groups` of results.json (docs/results.md).

    Args:
        file: the file of the groups.
        memberships: the groups of each attribute.
        people: (N,) who is on each image, as the memberships number images.
        measure: returns the comparisons of an attribute, and what measures those within one group.
        points: the entries of `tar_at_far`.
        replicates: number of draws of the intervals; 0 leaves Wilson's.
        seed: random seed of the draws.
    """
    attributes = []
    for membership in memberships:
        source, measure_group = measure(membership)
        found = measure_groups(membership.groups, source, points, measure_group, replicates, seed)
        attributes.append(
            {
                "name": membership.attribute,
                "groups": [
                    {
                        "name": name,
                        "num_people": len(np.unique(people[membership.codes == number])),
                        "num_images": int((membership.codes == number).sum()),
                    }
                    for number, name in enumerate(membership.groups)
                ],
                "num_without_group": int((membership.codes < 0).sum()),
                "notes": membership.notes,
                "points": found,
                "thin": thin_cells(found),
            }
        )
    return {"path": str(file.path), "sha256": file.sha256, "key": file.key, "attributes": attributes}


def measure_listed(
    scores: np.ndarray,
    is_same: np.ndarray,
    subjects: Subjects,
    sides: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    fars: Sequence[float],
    rule: Rule,
    replicates: int,
    seed: int,
) -> MeasureAttribute:
    """Measures groups on comparisons that are listed.

    Args:
        scores, is_same: (P,).
        subjects: the first and the second subject of each, (P,) each.
        sides: returns the two groups of each comparison from the codes of a `Membership`.
        fars, rule: what `tar_at_far` was measured for.
        replicates, seed: of the bootstrap.
    """

    def measure(membership: Membership) -> tuple[CellErrors, MeasureGroup]:
        num_groups = len(membership.groups)
        cells = cell_of_pairs(*sides(membership.codes), num_groups)
        own_cell = [cell for cell, (one, other) in enumerate(cells_of_groups(num_groups)) if one == other]

        def measure_group(group: int) -> list[dict[str, Any]] | str:
            some = np.flatnonzero(cells == own_cell[group])
            genuine, impostor = scores[some[is_same[some]]], scores[some[~is_same[some]]]
            if not genuine.size or not impostor.size:
                return ONE_KIND
            ranked = RankedScores(genuine, impostor)
            measured = measure_verification(ranked, fars, rule)
            if replicates:
                own = (subjects[0][some], subjects[1][some])
                add_intervals(measured, ranked, scores[some], is_same[some], own, replicates, seed)
            return measured["tar_at_far"]

        return ListedErrors(scores, is_same, subjects, cells, len(cells_of_groups(num_groups))), measure_group

    return measure


def measure_all_pairs(
    pairs: AllPairs, embeddings: np.ndarray, fars: Sequence[float], replicates: int, seed: int
) -> MeasureAttribute:
    """Measures groups on all pairs of images.

    Args:
        pairs: the pairs.
        embeddings: float64 (N, D) of unit length.
        fars: what `tar_at_far` was measured for.
        replicates, seed: of the bootstrap.
    """

    def measure(membership: Membership) -> tuple[CellErrors, MeasureGroup]:
        def measure_group(group: int) -> list[dict[str, Any]] | str:
            some = np.flatnonzero(membership.codes == group)
            try:
                own = AllPairs(embeddings[some], pairs.units[some], fars)
            except InputError:
                return ONE_KIND
            measured = measure_verification(own.ranked, fars, "exact")
            add_intervals_of_all_pairs(measured, own.ranked, own, own.num_genuine_people, replicates, seed)
            return measured["tar_at_far"]

        return AllPairsErrors(pairs, membership.codes, len(membership.groups)), measure_group

    return measure
