"""Defines the names, ranges and defaults of the margins, for configs and checks; facekd/margins.py has the formulas."""

from __future__ import annotations

import math
from typing import Literal, get_args

from facekd.errors import InputError

MarginName = Literal["none", "arcface", "cosface", "combined", "adaface"]
MARGIN_NAMES: tuple[str, ...] = get_args(MarginName)
Gradient = Literal["exact", "straight_through"]
DEFAULT_MARGIN_VALUES = {"arcface": 0.5, "cosface": 0.35, "adaface": 0.4}  # those of the papers

# (name of the margin, name of the value): lowest, highest, is the highest allowed, unit.
_VALUE_RANGES: dict[tuple[str, str], tuple[float, float, bool, str]] = {
    ("arcface", "margin"): (0.0, math.pi, False, "radians"),
    ("cosface", "margin"): (0.0, 2.0, True, "units of cosine"),
    ("combined", "m1"): (1.0, math.inf, False, "a factor on the angle"),
    ("combined", "m2"): (0.0, math.pi, False, "radians"),
    ("combined", "m3"): (0.0, 2.0, True, "units of cosine"),
    ("adaface", "margin"): (0.0, 1.0, True, "radians and units of cosine"),
    ("adaface", "h"): (1e-6, math.inf, False, "1 / standard deviations"),
}


def check_margin_value(margin: str, value_name: str, value: float, *, key: str | None = None) -> None:
    """Refuse a margin value that the maths is not monotone for.

    Args:
        margin: a name of `facekd.margins.MARGINS`.
        value_name: the argument of that function: "margin", "m1", "m2", "m3" or "h".
        value: what was given.
        key: how the user spells it, such as "head.margin_value"; the default names function and argument.

    Raises:
        InputError: not a finite number in the range, naming the key, the range and the unit.
    """
    low, high, closed, unit = _VALUE_RANGES[margin, value_name]
    inside = math.isfinite(value) and low <= value and (value <= high if closed else value < high)
    if not inside:
        upper = f"{high:.4g}{']' if closed else ')'}"
        hint = f"; if that was degrees, give {math.radians(value):.4g}" if unit == "radians" and value > high else ""
        raise InputError(
            f"{key or f'{value_name} of {margin}'} = {value} is outside [{low:.4g}, {upper} ({unit}){hint}"
        )
