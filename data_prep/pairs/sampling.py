"""Draws verification pairs from labelled images: folds share no people, and people occur about equally often."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from facekd.errors import DataError
from facekd.utils.wording import agreeing, counted


def sample_pairs(
    labels: np.ndarray, num_pairs: int, num_folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws distinct pairs in K folds of different people, each fold half genuine, then half impostor.

    Within a fold the genuine pairs are dealt to the people in turn, and so are the impostor pairs (neighbours at a
    growing distance in a random circle), so that no person's images dominate.

    Args:
        labels: int64 (M,), the identity of each image.
        num_pairs: N, a multiple of 2K.
        num_folds: K.
        seed: random seed of the draw.

    Returns:
        Image numbers int64 (N, 2), is_same bool (N,), fold_of int64 (N,), fold by fold.

    Raises:
        DataError: too few people or images; the message says which numbers work.
    """
    if num_folds < 2 or num_pairs < 2 * num_folds or num_pairs % (2 * num_folds):
        raise DataError(
            f"{counted(num_pairs, 'pair')} cannot be split into {counted(num_folds, 'fold')} of equal halves; use a "
            f"multiple of {2 * max(num_folds, 2)}, and at least 2 folds"
        )

    # The images of each person.
    generator = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    identities, starts = np.unique(labels[order], return_index=True)
    images_of = dict(zip(identities.tolist(), np.split(order, starts[1:]), strict=True))

    # People with several images are dealt to the folds first: only they give genuine pairs, and every fold needs some.
    people = generator.permutation(identities)
    people = people[np.argsort([len(images_of[int(person)]) == 1 for person in people], kind="stable")]

    # Each fold draws its genuine and its impostor pairs.
    wanted = num_pairs // (2 * num_folds)
    pairs, is_same = [], []
    for fold in range(num_folds):
        members = [images_of[int(person)] for person in people[fold::num_folds]]
        for draw, same, kind in ((_genuine, True, "genuine"), (_impostor, False, "impostor")):
            drawn = draw(members, wanted, generator)
            if len(drawn) < wanted:
                raise DataError(
                    f"{counted(num_pairs, 'pair')} want {wanted:,} {kind} {agreeing(wanted, 'one')} a fold, but the "
                    f"{counted(len(members), 'person')} of fold {fold} {agreeing(len(members), 'gives', 'give')} only "
                    f"{len(drawn)}: ask for fewer pairs or folds, or bring more images"
                )
            pairs += drawn
            is_same += [same] * wanted
    return np.array(pairs), np.array(is_same), np.repeat(np.arange(num_folds), 2 * wanted)


def all_pairs(labels: np.ndarray, num_folds: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns every pair of images as `sample_pairs` does, dealt at random to folds that share people."""
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    generator = np.random.default_rng(seed)
    fold_of = np.empty(len(same), dtype=np.int64)
    for kind in (True, False):
        members = np.flatnonzero(same == kind)
        if len(members) < num_folds:
            pairs = counted(len(members), "genuine pair" if kind else "impostor pair")
            raise DataError(f"only {pairs} for {counted(num_folds, 'fold')}")
        fold_of[generator.permutation(members)] = np.arange(len(members)) % num_folds
    order = np.lexsort((~same, fold_of))
    return np.stack([first, second], axis=1)[order], same[order], fold_of[order]


def _genuine(members: list[np.ndarray], wanted: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Returns distinct pairs within people, one person after the other in turn."""
    # Up to `most` pairs of each person, in random order.
    most = min(wanted, 4096)  # not all pairs of a thousand images are needed
    queues = []
    for images in members:
        count = len(images) * (len(images) - 1) // 2
        if count <= 4 * most:
            pairs = list(combinations(images.tolist(), 2))
            queues.append([pairs[i] for i in generator.permutation(len(pairs))[:most]])
        else:
            drawn: dict[tuple[int, int], None] = {}
            while len(drawn) < most:
                a, b = sorted(generator.choice(images, 2, replace=False).tolist())
                drawn[a, b] = None
            queues.append(list(drawn))
    # One pair of each person in turn.
    turns = max(map(len, queues), default=0)
    dealt = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return dealt[:wanted]


def _impostor(members: list[np.ndarray], wanted: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Returns distinct pairs of two people: neighbours at distance 1, 2, ... in a circle, over and over."""
    count = len(members)
    drawn: dict[tuple[int, int], None] = {}
    distances = range(1, count // 2 + 1)
    while len(drawn) < wanted and count > 1:
        before = len(drawn)
        for distance in distances:
            # At half the circle, each pair of people would come twice.
            starts = range(count // 2 if 2 * distance == count else count)
            for start in starts:
                one, other = members[start], members[(start + distance) % count]
                for _ in range(8):  # a few tries to find a pair that is not drawn yet
                    pair = int(generator.choice(one)), int(generator.choice(other))
                    if pair not in drawn:
                        drawn[pair] = None
                        break
                if len(drawn) == wanted:
                    return list(drawn)
        if len(drawn) == before:  # nearly all pairs are drawn: take those left in order
            for one, other in combinations(members, 2):
                for pair in ((a, b) for a in one.tolist() for b in other.tolist()):
                    if pair not in drawn and pair[::-1] not in drawn:
                        drawn[pair] = None
                    if len(drawn) == wanted:
                        return list(drawn)
            break
    return list(drawn)
