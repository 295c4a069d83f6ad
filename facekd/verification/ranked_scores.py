"""Sorts scores once and reads every metric off them by bisection, fast enough for millions of comparisons.

`facekd.verification` says what the metrics mean; its functions build a `RankedScores` and ask it. After the sort,
nothing is computed for each comparison: all questions about 15.7 million scores take milliseconds. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from facekd.errors import InputError
from facekd.utils.wording import counted
from facekd.verification.counted_scores import CountedScores
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.operating_points import (
    RULES,
    EqualErrorPoint,
    RocCurve,
    Rule,
    TarAtFar,
    checked_far,
    first_refused_score,
    just_above,
    midway_threshold,
    not_measurable,
    num_allowed_false_accepts,
)
from facekd.verification.scores import as_array, checked_score_pair, checked_scores

FIRST_WINDOW = 16  # impostors on either side of a target, where the search for ROC corners begins
Range = tuple[float, float]


class RankedScores:
    """Holds genuine (G,) and impostor (n,) scores in ascending order and measures them.

    Args:
        genuine, impostor: the scores, in any order; they are copied.
        to_refine: the scores are float32 approximations; some will later be replaced by exact float64 values
            (`replace`). All answers are float64.

    Attributes:
        genuine, impostor: the scores, ascending, of one dtype.

    Raises:
        InputError: no scores of a kind, or non-finite ones.
    """

    def __init__(self, genuine: ArrayLike, impostor: ArrayLike, to_refine: bool = False) -> None:
        # numpy sorts float32 twice as fast as float64, and float64 holds every float32 number exactly.
        first, second = (np.sort(kind) for kind in checked_score_pair(genuine, impostor))
        dtype = np.float64 if to_refine else first.dtype
        self.genuine: np.ndarray = first.astype(dtype, copy=False)
        self.impostor: np.ndarray = second.astype(dtype, copy=False)

    @classmethod
    def of_counted(cls, genuine: np.ndarray, impostor: CountedScores) -> RankedScores:
        """Ranks genuine scores, float64 (G,) in any order, and impostor scores of which most are counted only.

        Every answer by the rule "exact" is that of an array of the same scores; `replace` is not for these.
        """
        ranked = cls.__new__(cls)
        ranked.genuine = np.sort(checked_scores(genuine, "genuine"))
        ranked.impostor = cast(np.ndarray, impostor)  # it answers what is asked of an array here
        return ranked

    def replace(self, low: float, high: float, genuine: np.ndarray, impostor: np.ndarray) -> None:
        """Replaces the scores from `low` to `high` by as many others within the same limits; needs `to_refine`.

        Args:
            low, high: the limits, both included.
            genuine, impostor: the new scores of each kind, float64, in any order.

        Raises:
            ValueError: another number of scores of a kind than lie within the limits.
        """
        for scores, new in ((self.genuine, genuine), (self.impostor, impostor)):
            begin, end = np.searchsorted(scores, low, side="left"), np.searchsorted(scores, high, side="right")
            if end - begin != len(new):
                raise ValueError(f"{counted(len(new), 'score')} for the {end - begin:,} from {low} to {high}")
            # The other scores lie beyond the limits, so all stay in order.
            scores[begin:end] = np.sort(new)

    def accepted(self, threshold: Any) -> tuple[int, int]:
        """Returns (false accepts, true accepts) at a threshold of the scores' own dtype."""
        # Python's integers: `_excess` multiplies them, and results.json holds them.
        false_accepts = self.impostor.size - int(np.searchsorted(self.impostor, threshold, side="left"))
        true_accepts = self.genuine.size - int(np.searchsorted(self.genuine, threshold, side="left"))
        return false_accepts, true_accepts

    def tar_at_far(self, fars: float | Sequence[float] | np.ndarray, rule: Rule = "exact") -> list[TarAtFar]:
        """Computes TAR@FAR; see `facekd.verification.tar_at_far`."""
        if rule not in RULES:
            raise InputError(f"rule must be one of {', '.join(RULES)}; found {rule!r}")
        targets = [checked_far(far) for far in np.atleast_1d(as_array(fars, "fars")).tolist()]
        points = []
        for far in targets:
            # Find the threshold, then count what it accepts.
            threshold = self._threshold(far, rule)[0]
            if threshold is None:
                points.append(not_measurable(far, self.genuine.size, self.impostor.size, rule))
                continue
            false_accepts, true_accepts = self.accepted(threshold)
            points.append(
                TarAtFar(
                    far=far,
                    tar=true_accepts / self.genuine.size,
                    threshold=float(threshold),
                    false_accepts=false_accepts,
                    achieved_far=false_accepts / self.impostor.size,
                    num_impostor=self.impostor.size,
                    num_genuine=self.genuine.size,
                    ci95=wilson_interval(true_accepts, self.genuine.size),
                    interval="wilson",
                    rule=rule,
                )
            )
        return points

    def decisive_range(self, far: float, rule: Rule = "exact") -> Range | None:
        """Returns the range of scores, ends included, whose values decide a TAR@FAR; others count only by their side.

        If scores are known up to an error e, make those within 2 e of this range exact and ask for the range again:
        the result is then exact. None if the FAR is not measurable.
        """
        return self._threshold(checked_far(far), rule)[1]

    def num_tied_at(self, threshold: float) -> int:
        """Returns how many impostors share the highest score below a threshold, and so are refused together."""
        # The ranks of that score: from the first of its equals to the threshold.
        end = int(np.searchsorted(self.impostor, self.impostor.dtype.type(threshold), side="left"))
        return 0 if end == 0 else end - int(np.searchsorted(self.impostor, self.impostor[end - 1], side="left"))

    def equal_error_point(self) -> EqualErrorPoint:
        """Computes the equal error rate and its threshold; see `facekd.verification.equal_error_point`."""
        # The two neighbouring operating points between which FAR - FRR changes sign.
        after, before = self._around_equal_error()
        num_genuine, num_impostor = self.genuine.size, self.impostor.size
        points = {"after": self.accepted(after), "before": (0, 0) if before is None else self.accepted(before)}
        # FAR - FRR as integers (times G n), so that "equal" is exact; the EER lies on the line between the points.
        excess = {name: self._excess(*counts) for name, counts in points.items()}
        share = -excess["before"] / (excess["after"] - excess["before"])
        start, stop = points["before"][0], points["after"][0]
        eer = (start + share * (stop - start)) / num_impostor
        # The achievable threshold is that of the nearer point, midway to the next lower score.
        if abs(excess["before"]) <= abs(excess["after"]):
            nearest, lower = "before", after
            threshold = just_above(after) if before is None else before
        else:
            nearest, threshold, lower = "after", after, self._next_below(after)
        # At either end of the scores there is no neighbour.
        if lower is not None and points[nearest] != (0, 0):
            threshold = midway_threshold(lower, threshold)
        false_accepts, true_accepts = points[nearest]
        far, frr = false_accepts / num_impostor, 1 - true_accepts / num_genuine
        return EqualErrorPoint(float(eer), float(threshold), float(far), float(frr))

    def around_equal_error(self) -> Range:
        """Returns the range of scores, ends included, that decide the EER, as `decisive_range` does for a TAR@FAR."""
        after, before = self._around_equal_error()
        return float(after), float(after if before is None else before)

    def area_under_roc(self) -> float:
        """Computes the area under the ROC; see `facekd.verification.area_under_roc`."""
        # For each genuine score, the impostors below it count one and those equal to it one half.
        below = np.searchsorted(self.impostor, self.genuine, side="left").sum(dtype=np.int64)
        not_above = np.searchsorted(self.impostor, self.genuine, side="right").sum(dtype=np.int64)
        return float((int(below) + int(not_above)) / (2 * self.genuine.size * self.impostor.size))

    def thinned_roc(self, num_points: int = 1000) -> RocCurve:
        """Returns about `num_points` exact operating points, evenly spread over the logarithms of FAR and of FRR.

        They run from the strictest, with no false accept, to the most lenient, which accepts everything.
        """
        # Numbers of false accepts and of false rejects that are evenly spread over their logarithms.
        false_accepts = np.unique(np.geomspace(1, self.impostor.size, num_points // 2).astype(np.int64)) - 1
        rejects = np.unique(np.geomspace(1, self.genuine.size, num_points // 2).astype(np.int64)) - 1
        # The threshold of each, and the lowest score, which accepts everything.
        thresholds = [just_above(first_refused_score(self.impostor, false_accepts)), self.genuine[rejects]]
        least = np.minimum(self.genuine[0], self.impostor[0])
        threshold = np.unique(np.concatenate([*thresholds, [least]]))[::-1]
        far = 1 - np.searchsorted(self.impostor, threshold, side="left") / self.impostor.size
        tar = 1 - np.searchsorted(self.genuine, threshold, side="left") / self.genuine.size
        return RocCurve(far, tar, threshold)

    def histogram(self, num_bins: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (edges (B + 1,), genuine counts (B,), impostor counts (B,)) over the range of the scores."""
        low = float(min(self.genuine[0], self.impostor[0]))
        high = float(max(self.genuine[-1], self.impostor[-1]))
        edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
        # Each count is the difference between the ranks of two edges; the outer edges enclose all scores.
        inner = edges[1:-1].astype(self.genuine.dtype)
        counts = [
            np.diff(np.searchsorted(scores, inner, side="left"), prepend=0, append=scores.size)
            for scores in (self.genuine, self.impostor)
        ]
        return edges, counts[0], counts[1]

    def _threshold(self, far: float, rule: Rule) -> tuple[Any | None, Range | None]:
        """Returns (threshold, range of scores that decide it), or (None, None) if the FAR is not measurable."""
        allowed = num_allowed_false_accepts(far, self.impostor.size)
        if allowed < 1:
            return None, None
        if rule == "insightface":
            return self._nearest_corner(far)
        if allowed >= self.impostor.size:
            # Everything may be accepted.
            least = min(self.genuine[0], self.impostor[0])
            return least, (float(least), float(least))
        refused = first_refused_score(self.impostor, allowed)
        return just_above(refused), (float(refused), float(refused))

    def _nearest_corner(self, far: float) -> tuple[Any, Range]:
        """Finds the corner of the ROC nearest to a FAR; of equally near ones, the most lenient.

        scikit-learn's `roc_curve` drops points inside straight stretches, and published tables were made from the
        points it keeps: without this step another point would be the nearest. Only a window of the curve around the
        target is examined; it grows until no point outside can be nearer.
        """
        # The window at first: up to the nearest genuine score, because the curve has its corners there.
        num_impostor = self.impostor.size
        target = round(far * num_impostor)
        width = max(FIRST_WINDOW, self._impostors_to_a_genuine(target) + 3)
        while True:
            has_top, has_bottom = target - width <= 0, target + width >= num_impostor - 1
            high = np.inf if has_top else self.impostor[num_impostor - 1 - (target - width)]
            low = -np.inf if has_bottom else self.impostor[num_impostor - 1 - (target + width)]
            # The points of the window, strictest first.
            false_accepts, true_accepts, threshold = self._window(low, high)
            # Keep the corners, where the second differences are not zero. Whether the ends of the window are corners
            # is unknown, unless they are the ends of the whole curve, which are always kept.
            kept = np.zeros(len(threshold), bool)
            kept[1:-1] = (np.diff(false_accepts, 2) != 0) | (np.diff(true_accepts, 2) != 0)
            kept[0] |= has_top
            kept[-1] |= has_bottom
            if has_top:  # scikit-learn adds the point at (0, 0) after dropping points
                false_accepts = np.concatenate([[0], false_accepts])
                threshold = np.concatenate([just_above(threshold[:1]), threshold])
                kept = np.concatenate([[True], kept])
            distance = np.abs(false_accepts / num_impostor - far)
            # No unexamined point, at an end of the window or outside, is nearer than `reached`.
            ends = [*distance[: not has_top], *distance[len(distance) - (not has_bottom) :]]
            reached = np.inf if has_top and has_bottom else min((width - 1) / num_impostor, *ends)
            # Of equally near corners the last is the most lenient; without a certain answer, widen the window.
            nearest = distance[kept].min(initial=np.inf)
            if nearest < reached:
                chosen = int(np.flatnonzero(kept & (distance == nearest))[-1])
                return threshold[chosen], (float(threshold[-1]), float(threshold[0]))
            width *= 4

    def _impostors_to_a_genuine(self, false_accepts: int) -> int:
        """Returns how many impostors lie between a point of the curve and the nearest genuine score, a corner."""
        # The genuine scores on either side of the impostor at this point.
        at = int(np.searchsorted(self.genuine, self.impostor[max(self.impostor.size - 1 - false_accepts, 0)]))
        beside = self.genuine[np.clip([at - 1, at], 0, self.genuine.size - 1)]
        return int(np.abs(self.impostor.size - np.searchsorted(self.impostor, beside) - false_accepts).min())

    def _window(self, low: Any, high: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (false accepts, true accepts, threshold) of the distinct scores from `high` down to `low`."""
        # Limits of the scores' own dtype: numpy would otherwise convert all the scores.
        low, high = self.impostor.dtype.type(low), self.impostor.dtype.type(high)
        inside = [
            scores[np.searchsorted(scores, low, side="left") : np.searchsorted(scores, high, side="right")]
            for scores in (self.genuine, self.impostor)
        ]
        threshold = np.unique(np.concatenate(inside))[::-1]
        false_accepts = self.impostor.size - np.searchsorted(self.impostor, threshold, side="left")
        true_accepts = self.genuine.size - np.searchsorted(self.genuine, threshold, side="left")
        return false_accepts.astype(np.int64), true_accepts.astype(np.int64), threshold

    def _excess(self, false_accepts: int, true_accepts: int) -> int:
        """Returns FAR - FRR, times G n."""
        return false_accepts * self.genuine.size - (self.genuine.size - true_accepts) * self.impostor.size

    def _around_equal_error(self) -> tuple[Any, Any | None]:
        """Returns the highest score at which FAR >= FRR, and the next higher score (None if there is none)."""
        # FAR >= FRR up to some score. Bisect the genuine scores first: they are few, and leave few impostors.
        last = self._last_acceptable(self.genuine, -1, self.genuine.size)
        candidates = [self.genuine[last]] if last >= 0 else []
        inside = int(np.searchsorted(self.impostor, candidates[0], side="right")) - 1 if candidates else -1
        outside = self.impostor.size
        if last + 1 < self.genuine.size:
            outside = int(np.searchsorted(self.impostor, self.genuine[last + 1], side="left"))
        # Then the impostors between the two genuine scores found.
        at = self._last_acceptable(self.impostor, inside, outside)
        if at >= 0:
            candidates.append(self.impostor[at])
        # The higher of the two kinds' answers, and the lowest score of either kind above it.
        after = max(candidates)
        above = [
            scores[at]
            for scores in (self.genuine, self.impostor)
            if (at := np.searchsorted(scores, after, side="right")) < scores.size
        ]
        return after, min(above) if above else None

    def _last_acceptable(self, scores: np.ndarray, inside: int, outside: int) -> int:
        """Bisects for the last rank with FAR >= FRR: true at `inside`, false at `outside`; both may be off the ends."""
        while outside - inside > 1:
            middle = (inside + outside) // 2
            if self._excess(*self.accepted(scores[middle])) >= 0:
                inside = middle
            else:
                outside = middle
        return inside

    def _next_below(self, score: Any) -> Any | None:
        """Returns the highest score of either kind below a score, or None."""
        # Below the first of the scores that equal it.
        below = [
            scores[at - 1]
            for scores in (self.genuine, self.impostor)
            if (at := np.searchsorted(scores, score, side="left")) > 0
        ]
        return max(below) if below else None
