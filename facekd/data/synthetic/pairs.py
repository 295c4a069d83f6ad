"""Chooses the pairs of generated images for a verification pack: ten folds that share nobody, as in LFW."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekd.errors import DataError
from facekd.utils.wording import agreeing, counted

NUM_FOLDS = 10
MIN_IDENTITIES = 2 * NUM_FOLDS  # an impostor pair takes two people, and folds share nobody


@dataclass(frozen=True)
class PairPlan:
    """Lists N pairs of images by number.

    Attributes:
        identities: int64 (N, 2), positions 0..M-1 among the M people of the plan.
        images: int64 (N, 2), image numbers of these people.
        is_same: bool (N,).
    """

    identities: np.ndarray
    images: np.ndarray
    is_same: np.ndarray


def plan_pairs(num_pairs: int, num_identities: int, images_per_identity: int, seed: int) -> PairPlan:
    """Draws distinct pairs: ten contiguous folds of disjoint people, each half genuine, then half impostor.

    Args:
        num_pairs: N, a multiple of 20.
        num_identities: M people, at least 20.
        images_per_identity: images to choose from, at least 2.
        seed: random seed of the draw.

    Raises:
        DataError: the numbers allow no such plan; the message says which to change.
    """
    # Refuse numbers that cannot be divided into folds.
    if num_pairs < 2 * NUM_FOLDS or num_pairs % (2 * NUM_FOLDS):
        raise DataError(
            f"{counted(num_pairs, 'pair')} cannot be split into {NUM_FOLDS} folds of equal halves: "
            f"use a multiple of {2 * NUM_FOLDS}"
        )
    if num_identities < MIN_IDENTITIES:
        raise DataError(
            f"{counted(num_identities, 'test identity is', 'test identities are')} too few: {NUM_FOLDS} folds that "
            f"share nobody need {MIN_IDENTITIES}"
        )
    # Refuse more pairs than the people of the smallest fold can give.
    per_identity = images_per_identity * (images_per_identity - 1) // 2
    wanted = num_pairs // (2 * NUM_FOLDS)
    smallest = num_identities // NUM_FOLDS
    possible = min(smallest * per_identity, smallest * (smallest - 1) // 2 * images_per_identity**2)
    if wanted > possible:
        raise DataError(
            f"{counted(num_pairs, 'pair')} want {wanted} genuine and {wanted} impostor ones a fold, but "
            f"{counted(smallest, 'person')} of {counted(images_per_identity, 'image')} "
            f"{agreeing(smallest, 'gives', 'give')} only {possible}: use more test identities, more images or fewer "
            "pairs"
        )
    # Deal the people out to the folds, and draw each fold's pairs.
    generator = np.random.Generator(np.random.PCG64([seed % 2**63, 0x7E57]))
    people = generator.permutation(num_identities)
    identities, images = [], []
    for fold in np.array_split(people, NUM_FOLDS):
        for draw in (_genuine, _impostor):
            who, which = draw(generator, fold, images_per_identity, wanted)
            identities.append(who)
            images.append(which)
    is_same = np.tile(np.repeat([True, False], wanted), NUM_FOLDS)
    return PairPlan(np.concatenate(identities), np.concatenate(images), is_same)


def _genuine(
    generator: np.random.Generator, people: np.ndarray, images_per_identity: int, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.triu_indices(images_per_identity, 1)
    chosen = generator.choice(len(people) * len(first), wanted, replace=False)
    who, pair = np.divmod(chosen, len(first))
    return np.stack([people[who]] * 2, axis=1), np.stack([first[pair], second[pair]], axis=1)


def _impostor(
    generator: np.random.Generator, people: np.ndarray, images_per_identity: int, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.triu_indices(len(people), 1)
    chosen = generator.choice(len(first) * images_per_identity**2, wanted, replace=False)
    couple, images = np.divmod(chosen, images_per_identity**2)
    who = np.stack([people[first[couple]], people[second[couple]]], axis=1)
    return who, np.stack(np.divmod(images, images_per_identity), axis=1)
