"""Finds labels of comparisons that contradict one another: genuine ones join images or templates to one person."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def join_by_genuine(first: np.ndarray, second: np.ndarray, is_same: np.ndarray, count: int) -> NDArray[np.int32]:
    """Numbers the people that genuine comparisons make of what is compared: int32 (count,), from 0.

    Args:
        first, second: (P,) what each comparison compares, such as images or templates, each from 0 below `count`.
        is_same: bool (P,).
        count: number of them.
    """
    from scipy import sparse  # not at the top: it takes a while to import

    links = sparse.coo_array((np.ones(int(is_same.sum()), np.int8), (first[is_same], second[is_same])), (count, count))
    return sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int32)


def contradicted_impostors(first: np.ndarray, second: np.ndarray, is_same: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions of impostor comparisons whose two sides genuine comparisons join to one person, ascending.

    Some label among them is wrong: one of these, or one of the genuine ones that join them. Arguments are those of
    `join_by_genuine`.
    """
    people = join_by_genuine(first, second, is_same, count)
    return np.flatnonzero((people[first] == people[second]) & ~is_same)
