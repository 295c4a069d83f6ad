"""Computes average precisions of searches in which a probe may have several mates."""

from __future__ import annotations

import numpy as np

from facekd.verification.search.block_search import Mates


def average_precisions(mates: Mates, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the average precision of each probe: the area under precision over recall, by the trapezoid rule.

    A probe with n mates at ranks r_1 < ... < r_n has AP = (1/n) sum of (i / r_i + (i - 1) / (r_i - 1)) / 2, where the
    second term is 1 for r_i = 1. That is the rule of the Oxford buildings tool (J. Philbin et al., "Object retrieval
    with large vocabularies and fast spatial matching", CVPR 2007), which TinyFace's tool uses too; the mean of
    i / r_i, which other tools call AP, is a little higher.

    Args:
        mates: all mates of the probes.
        before: (P,) how many others have the score of the mate or more.

    Returns:
        The probes that have mates, ascending (M,), and their average precisions (M,).
    """
    # The mates of each probe by falling score: the i-th one has i - 1 mates and `before` others ahead.
    order = np.lexsort((before, -mates.scores, mates.probe))
    probe, ahead = mates.probe[order], before[order]
    probes, first, count = np.unique(probe, return_index=True, return_counts=True)
    number = np.arange(len(probe)) - np.repeat(first, count) + 1
    rank = number + ahead
    earlier = np.where(rank == 1, 1.0, (number - 1) / np.maximum(rank - 1, 1))
    sums = np.add.reduceat((number / rank + earlier) / 2, first) if len(probe) else np.zeros(0)
    return probes, sums / count
