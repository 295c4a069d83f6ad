"""Defines the table of margins: names, parameters, ranges and defaults; the other files here have the formulas.

Nothing here needs torch, so that a configuration is read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from facekd.errors import InputError

Gradient = Literal["exact", "straight_through"]


@dataclass(frozen=True)
class Parameter:
    """Describes one number that a margin takes.

    Args:
        default: its value where a configuration gives none; the same as in the function's signature.
        low: the lowest value for which the margined cosine still falls with the angle.
        high: the upper end of the range.
        unit: what the number is measured in, for messages.
        includes_high: whether `high` itself is allowed.
        key: the key of the `head` section that sets it; empty where that has the name of the argument.
    """

    default: float
    low: float
    high: float
    unit: str
    includes_high: bool = False
    key: str = ""

    def find_fault(self, name: str, value: float) -> str:
        """Returns what is wrong with a value: name, range and unit; an empty string where it is in the range."""
        if (
            math.isfinite(value)
            and self.low <= value
            and (value <= self.high if self.includes_high else value < self.high)
        ):
            return ""
        upper = f"{self.high:.4g}{']' if self.includes_high else ')'}"
        is_in_degrees = self.unit == "radians" and value > self.high
        hint = f"; if that was degrees, give {math.radians(value):.4g}" if is_in_degrees else ""
        return f"{name} = {value} is outside [{self.low:.4g}, {upper} ({self.unit}){hint}"


@dataclass(frozen=True)
class Margin:
    """Describes one margin: everything but its formula.

    Args:
        parameters: the numbers that its function takes, by the name of the argument.
        needs_norms: it also takes `norms`, `norm_mean` and `norm_std`, for which the classifier keeps statistics.
        needs_a_value: its defaults change nothing, so a configuration must give at least one value.
        example: what to write for the most common use; part of the message where no value is given.
        draws_margins: in training each image has a margin of its own, drawn from a normal distribution; the function
            takes them as `margins`.
        changes_others: the cosines of other classes change, too, by the function of the same name in
            `facekd.margins.functions.OTHER_COSINES`; the classifier keeps a running mean of the target cosines for it.
        learns_norms: it takes `norms`, through which the loss has a gradient, and the function of the same name in
            `facekd.margins.functions.NORM_LOSSES` is added to the loss.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs_norms: bool = False
    needs_a_value: bool = False
    example: str = ""
    draws_margins: bool = False
    changes_others: bool = False
    learns_norms: bool = False

    def key(self, argument: str) -> str:
        """Returns the key of the `head` section that sets a parameter."""
        return self.parameters[argument].key or argument


# The one table of margins. Each has its formula under the same name in `facekd.margins.functions.MARGIN_FUNCTIONS`.
MARGINS: dict[str, Margin] = {
    "none": Margin(),
    "arcface": Margin({"margin": Parameter(0.5, 0.0, math.pi, "radians", key="margin_value")}),
    "cosface": Margin({"margin": Parameter(0.35, 0.0, 2.0, "units of cosine", includes_high=True, key="margin_value")}),
    "combined": Margin(
        {
            "m1": Parameter(1.0, 1.0, math.inf, "a factor on the angle"),
            "m2": Parameter(0.0, 0.0, math.pi, "radians"),
            "m3": Parameter(0.0, 0.0, 2.0, "units of cosine", includes_high=True),
        },
        needs_a_value=True,
        example="ArcFace is head.m2 = 0.5",
    ),
    "adaface": Margin(
        {
            "margin": Parameter(0.4, 0.0, 1.0, "radians and units of cosine", includes_high=True, key="margin_value"),
            "h": Parameter(0.333, 1e-6, math.inf, "1 / standard deviations"),
        },
        needs_norms=True,
    ),
    "curricularface": Margin(
        {"margin": Parameter(0.5, 0.0, math.pi, "radians", key="margin_value")}, changes_others=True
    ),
    "magface": Margin(
        {
            "margin_low": Parameter(0.45, 0.0, 1.0, "radians"),
            "margin_high": Parameter(0.8, 0.0, 1.0, "radians"),
            "norm_low": Parameter(10.0, 1e-3, 1e6, "norms of embeddings"),
            "norm_high": Parameter(110.0, 1e-3, 1e6, "norms of embeddings"),
            "norm_weight": Parameter(35.0, 0.0, 1e6, "a factor on the loss of the norm"),
        },
        learns_norms=True,
    ),
    "elastic_arcface": Margin(
        {
            "margin": Parameter(0.5, 0.0, 1.0, "radians", key="margin_value"),
            "std": Parameter(0.0125, 0.0, 0.2, "radians", includes_high=True, key="margin_std"),
        },
        draws_margins=True,
    ),
    "elastic_cosface": Margin(
        {
            "margin": Parameter(0.35, 0.0, 1.0, "units of cosine", includes_high=True, key="margin_value"),
            "std": Parameter(0.0125, 0.0, 0.2, "units of cosine", includes_high=True, key="margin_std"),
        },
        draws_margins=True,
    ),
}


def check_margin_value(margin: str, argument: str, value: float) -> None:
    """Refuses a value for which the margined cosine would not fall steadily with the angle.

    Args:
        margin: a name of `MARGINS`.
        argument: an argument of its function: "margin", "m1", "m2", "m3" or "h".
        value: what was given.

    Raises:
        InputError: not a finite number in the range, naming the argument, the range and the unit.
    """
    fault = MARGINS[margin].parameters[argument].find_fault(f"{argument} of {margin}", value)
    if fault:
        raise InputError(fault)
