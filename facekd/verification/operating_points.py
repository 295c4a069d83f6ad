"""Defines operating points and the one rule that turns a false accept rate (FAR) into a threshold. Pure numpy.

The rule: of n impostor comparisons a FAR of f allows k = floor(f n) false accepts. The first refused impostor is the
(k + 1)-th from the top, and the threshold lies just above its score, so that impostors with equal scores are accepted
or refused together. With k = 0 the FAR is not measurable. Every TAR@FAR, TPIR@FPIR and bootstrap draw follows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted
from facekd.verification.scores import checked_scores

Rule = Literal["exact", "insightface"]
RULES: tuple[Rule, ...] = ("exact", "insightface")
# A FAR such as 1e-3, or one computed as k / n, misses its true value by a few parts in 1e16, and the product f n by as
# much again. Relative, because the error is: the same few parts whether f n is 3 or 15 million.
FAR_ROUNDING = 1e-12


@dataclass(frozen=True)
class TarAtFar:
    """Holds one operating point; `tar` is None, with a `reason`, if the comparisons are too few to measure the FAR."""

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
    """Holds every distinct operating point, from accepting nothing (0, 0) to everything (1, 1), as arrays of (P,)."""

    far: np.ndarray
    tar: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class EqualErrorPoint:
    """Describes where the false accept rate meets the false reject rate; see `equal_error_point`."""

    eer: float
    threshold: float  # the achievable threshold at which the two rates are nearest
    far: float  # at that threshold
    frr: float


@overload
def num_allowed_false_accepts(far: float, num_impostor: float) -> int: ...
@overload
def num_allowed_false_accepts(far: float | np.ndarray, num_impostor: float | np.ndarray) -> np.ndarray: ...
def num_allowed_false_accepts(far: float | np.ndarray, num_impostor: float | np.ndarray) -> int | np.ndarray:
    """Returns floor(far * num_impostor), forgiving rounding errors in the product: 0.29 of 100 is 29 and never 28.

    Args:
        far: target in (0, 1], or an array of targets.
        num_impostor: number of impostor comparisons, or an array of numbers (weights of bootstrap draws, say).
    """
    allowed = np.minimum(np.floor(np.multiply(far, num_impostor) * (1 + FAR_ROUNDING)), num_impostor)
    return int(allowed) if allowed.ndim == 0 else allowed.astype(np.int64)


def far_threshold(impostor: ArrayLike, far: float) -> float | None:
    """Returns the lowest threshold that keeps to a FAR: accepting `score >= threshold`, at most floor(far n) impostors.

    Args:
        impostor: (n,) scores of impostor comparisons, in any order.
        far: target in (0, 1].

    Returns:
        The threshold, exact in the precision of the scores; minus infinity if the FAR allows every impostor; None if
        it allows none, in which case it cannot be measured with these comparisons.

    Raises:
        InputError: no scores, non-finite scores, or a FAR outside (0, 1].
    """
    scores = checked_scores(impostor, "impostor")
    allowed = num_allowed_false_accepts(checked_far(far), scores.size)
    if allowed < 1:
        return None
    if allowed == scores.size:
        return -math.inf
    return float(just_above(first_refused_score(np.sort(scores), allowed)))


def first_refused_score(impostor: np.ndarray, allowed: Any) -> Any:
    """Returns the score of the first refused impostor; the threshold lies just above it.

    Args:
        impostor: (n,) scores, ascending.
        allowed: number of false accepts, below n, or an array of numbers.
    """
    return impostor[impostor.size - 1 - allowed]


def first_refused_position(weight_sums: np.ndarray, allowed: Any) -> Any:
    """Returns the position of the first refused impostor if each comparison counts with a weight.

    Args:
        weight_sums: (..., K) cumulative weights of the impostors, highest score first.
        allowed: (...) the weight of the false accepts allowed.

    Returns:
        (...) positions; K where the allowed weight is not exceeded.
    """
    return np.count_nonzero(weight_sums <= np.asarray(allowed)[..., None], axis=-1)


def num_accepted_above(falling: np.ndarray, refused: Any) -> Any:
    """Returns how many scores lie strictly above each refused one, given the scores in descending order (G,)."""
    return np.searchsorted(-falling, -refused, side="left")


def crossing_rate(
    false_accepts: np.ndarray, true_accepts: np.ndarray, num_impostor: float, num_genuine: float
) -> float:
    """Returns the equal error rate: where the straight lines between operating points pass FAR = FRR.

    Args:
        false_accepts, true_accepts: (K,) sums of weights accepted at each point, from the strictest point on; the last
            point accepts more of either kind than FAR = FRR does.
        num_impostor, num_genuine: the weights of all comparisons of either kind, above 0.
    """
    # FAR - FRR at each point, times both totals: exact for whole numbers.
    excess = false_accepts * num_genuine - (num_genuine - true_accepts) * num_impostor
    after = max(int(np.argmax(excess >= 0)), 1)
    low, high = excess[after - 1], excess[after]
    step = false_accepts[after] - false_accepts[after - 1]
    return float((false_accepts[after - 1] - low / (high - low) * step) / num_impostor)


def checked_far(far: float) -> float:
    """Returns a FAR as a float. Raises `InputError` outside (0, 1], and for what is no number."""
    try:
        number = float(far)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a FAR is a number in (0, 1]; found {shown(repr(far))}") from error
    if not 0 < number <= 1:
        raise InputError(f"a FAR must lie in (0, 1]; found {far}")
    return number


def false_accept_among(far: float, num_comparisons: int) -> float:
    """Returns the probability that one of several comparisons is a false accept, if each errs by itself: 1 - (1 - f)^n.

    It grows almost n times as fast as the FAR, and is never more than n f. Comparisons of one face with many depend on
    each other, which makes it an estimate.

    Args:
        far: the FAR of a single comparison.
        num_comparisons: how many impostors a face is compared with.
    """
    return 1.0 if far >= 1 and num_comparisons else -math.expm1(num_comparisons * math.log1p(-min(far, 1 - 2**-53)))


def not_measurable(far: float, num_genuine: int, num_impostor: int, rule: Rule) -> TarAtFar:
    """Returns the operating point of a FAR that allows no false accept, with the number of comparisons it needs."""
    needed = f"{math.ceil(1 / far * (1 - FAR_ROUNDING)):,}" if far > 1e-15 else f"{1 / far:.0e}"
    reason = (
        f"not measurable: {counted(num_impostor, 'impostor comparison allows', 'impostor comparisons allow')} "
        f"{shown_below_one(far * num_impostor)} false accepts at FAR {far:g}; at least {needed} comparisons are needed"
    )
    return TarAtFar(far, None, None, None, None, num_impostor, num_genuine, None, None, rule, reason)


def shown_below_one(number: float) -> str:
    """Writes a number below 1 with two digits, which must not round it to 1."""
    text = f"{number:.2g}"
    return text if float(text) < 1 else "less than 1"


def just_above(score: Any) -> Any:
    """Returns the next higher number in the precision of the scores."""
    return np.nextafter(score, score.dtype.type(np.inf))


def midway_threshold(lower: Any, upper: Any) -> Any:
    """Returns a threshold that accepts `upper` and rejects `lower`: midway, or `upper` if no number lies between."""
    midway = lower / 2 + upper / 2  # the sum itself could overflow
    return midway if lower < midway <= upper else upper
