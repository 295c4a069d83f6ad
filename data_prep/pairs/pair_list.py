"""Defines a list of image pairs by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairList:
    """N pairs as listed.

    Attributes:
        names: N times the names of two images.
        is_same: bool (N,).
        fold_of: int64 (N,), or None where the list knows no folds.
        layout: one of `LAYOUTS`.
        subjects: N times who is on the two images, where the list itself says so.
    """

    names: list[tuple[str, str]]
    is_same: np.ndarray
    fold_of: np.ndarray | None
    layout: str
    subjects: list[tuple[str, str]] | None = None
