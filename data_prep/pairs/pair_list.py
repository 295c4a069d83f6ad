"""Defines a list of image pairs by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairList:
    """Holds N pairs as a list gives them.

    Attributes:
        names: names of the two images of each pair.
        is_same: bool (N,).
        fold_of: int64 (N,), or None if the list has no folds.
        layout: one of `LAYOUTS`.
        subjects: the two people of each pair, if the list itself names them.
    """

    names: list[tuple[str, str]]
    is_same: np.ndarray
    fold_of: np.ndarray | None
    layout: str
    subjects: list[tuple[str, str]] | None = None
