"""Operating points: what is said about a threshold, and the arithmetic of one. Pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from facekd.errors import InputError

Rule = Literal["exact", "insightface"]
RULES: tuple[Rule, ...] = ("exact", "insightface")


@dataclass(frozen=True)
class TarAtFar:
    """One operating point; `tar` is None, with a `reason`, where the FAR cannot be measured with these comparisons."""

    far: float  # the target
    tar: float | None
    threshold: float | None  # accept when score >= threshold
    false_accepts: int | None
    achieved_far: float | None  # false_accepts / num_impostor
    num_impostor: int
    num_genuine: int
    ci95: tuple[float, float] | None  # of the TAR
    interval: str | None  # how ci95 was made: "wilson", "subject bootstrap"
    rule: Rule
    reason: str | None = None


@dataclass(frozen=True)
class RocCurve:
    """Every distinct operating point, from accepting nothing (0, 0) to accepting everything (1, 1): arrays of (P,)."""

    far: np.ndarray
    tar: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class EqualErrorPoint:
    """Where the false accept rate meets the false reject rate; see `equal_error_point`."""

    eer: float
    threshold: float  # the achievable threshold at which the two rates are nearest
    far: float  # at that threshold
    frr: float


def num_allowed_false_accepts(far: float, num_impostor: int) -> int:
    """floor(far * num_impostor), forgiving the rounding of a decimal FAR: 1e-3 of 3,000 is 3 and never 2."""
    return min(math.floor(far * num_impostor * (1 + 1e-12) + 1e-9), num_impostor)


def checked_far(far: float) -> float:
    if not 0 < far <= 1:
        raise InputError(f"a FAR must lie in (0, 1]; found {far}")
    return float(far)


def not_measurable(far: float, num_genuine: int, num_impostor: int, rule: Rule) -> TarAtFar:
    needed = f"{math.ceil(1 / far - 1e-6):,}" if far > 1e-15 else f"{1 / far:.0e}"
    reason = (
        f"not measurable: {num_impostor:,} impostor comparisons allow {far * num_impostor:.2g} false accepts at "
        f"FAR {far:g}; at least {needed} comparisons are needed"
    )
    return TarAtFar(far, None, None, None, None, num_impostor, num_genuine, None, None, rule, reason)


def just_above(score: Any) -> Any:
    return np.nextafter(score, score.dtype.type(np.inf))


def midway_threshold(lower: Any, upper: Any) -> Any:
    """A threshold that accepts `upper` and rejects `lower`: midway, or `upper` where no number lies between them."""
    midway = lower / 2 + upper / 2  # the sum itself could overflow
    return midway if lower < midway <= upper else upper
