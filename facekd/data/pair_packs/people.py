"""Counts the people behind the pairs of a pack, and finds labels that contradict who is on the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekd.utils.foreign import shown
from facekd.utils.wording import counted

FEW_PEOPLE = 10  # genuine pairs of fewer people give no usable interval
FEW_PEOPLE_PAIRS, MANY_COMPARISONS = 100, 10  # fewer pairs of people, each compared more often than that, are few


@dataclass(frozen=True)
class PeopleCompared:
    """Holds how many people are behind the pairs: comparisons of the same two people depend on each other.

    Attributes:
        num_people: distinct people.
        num_genuine_people: distinct people in genuine pairs.
        num_impostor_people_pairs: distinct pairs of people in impostor pairs.
        num_possible: pairs of people that the folds allow to compare: all, or if the folds share nobody those within.
    """

    num_people: int
    num_genuine_people: int
    num_impostor_people_pairs: int
    num_possible: int


def count_people(subjects: np.ndarray, is_same: np.ndarray, fold_of: np.ndarray) -> PeopleCompared:
    """Counts distinct people and distinct pairs of people.

    Args:
        subjects: str (N, 2), the two people of each pair.
        is_same: bool (N,).
        fold_of: int64 (N,), the fold of each pair.
    """
    names, codes = np.unique(subjects, return_inverse=True)
    codes = codes.reshape(-1, 2)
    num_people = len(names)
    # Whom each fold holds; folds that share nobody never compare people of two folds.
    members = np.unique(np.column_stack([np.repeat(fold_of, 2), codes.reshape(-1)]), axis=0)
    possible = num_people * (num_people - 1) // 2
    if len(members) == num_people:
        sizes = np.bincount(members[:, 0])
        possible = int((sizes * (sizes - 1) // 2).sum())
    return PeopleCompared(
        num_people,
        len(np.unique(codes[is_same, 0])),
        len(np.unique(np.sort(codes[~is_same], axis=1), axis=0)),
        possible,
    )


def warn_of_few_people(people: PeopleCompared, num_genuine: int, num_impostor: int) -> list[str]:
    """Returns a sentence for each kind of pair behind which there are few people, and how to have more."""
    warnings = []
    if people.num_genuine_people < min(FEW_PEOPLE, num_genuine):
        warnings.append(
            f"people in the {counted(num_genuine, 'genuine pair')}: only {people.num_genuine_people}, so they say "
            "little about others; add people"
        )
    found = people.num_impostor_people_pairs
    if found < FEW_PEOPLE_PAIRS and num_impostor > MANY_COMPARISONS * found:
        there_are = people.num_people * (people.num_people - 1) // 2
        why = "add people"
        if people.num_possible < there_are:
            why = (
                f"{counted(people.num_people, 'person')} make {there_are:,}, but folds that share nobody allow "
                f"{people.num_possible:,}: take fewer folds, or compare all images of a folder with `facekd evaluate "
                "folder`"
            )
        elif found < there_are:
            why = f"{counted(people.num_people, 'person')} make {there_are:,}: `facekd evaluate folder` compares all"
        warnings.append(
            f"pairs of people in the {counted(num_impostor, 'impostor pair')}: only {found}, so they depend on each "
            f"other; {why}"
        )
    return warnings


def contradicted_labels(subjects: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    """Returns the positions of pairs whose label is not what their two subjects (N, 2) say, ascending."""
    return np.flatnonzero((subjects[:, 0] == subjects[:, 1]) != is_same)


def describe_contradiction(subjects: np.ndarray, is_same: np.ndarray, position: int) -> str:
    """Writes one such pair: `pair 7, labelled impostor, compares Bob with Bob`."""
    kind = "genuine" if is_same[position] else "impostor"
    first, second = (shown(subject, 60) for subject in subjects[position])
    return f"pair {position}, labelled {kind}, compares {first} with {second}"
