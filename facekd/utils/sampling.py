"""Chooses some of many things, evenly spread, so that the choice is the same each time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_evenly(count: int, at_most: int) -> NDArray[np.int64]:
    """Returns up to `at_most` different positions from 0 to `count - 1`, ascending: first, last, and evenly between."""
    return np.linspace(0, count - 1, min(at_most, count)).astype(np.int64)
