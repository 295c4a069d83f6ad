"""Tests whether one model is better than another on the same comparisons: a paired bootstrap of the differences.

Every draw weighs people (or comparisons, if people are not known) once, for all models alike, and each model finds its
own threshold under these weights: what the models share, difficult people above all, cancels in the difference. A
comparison of subjects a and b counts w_a w_b times, a genuine one w_a times, as in
`facekd.verification.intervals.bootstrap`, whose sources apply.

At a strict FAR only the highest impostor scores matter; the others enter by their total weight alone, a quadratic form
over subjects. So a draw over the 15.7 million comparisons of IJB-C costs no more than finding its threshold.

Shapes: P comparisons, S subjects, R draws, F targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from facekd.errors import InputError
from facekd.utils.progress import track
from facekd.utils.wording import counted
from facekd.verification.intervals.bootstrap import MIN_DRAWS, percentile_interval
from facekd.verification.intervals.subject_bootstrap import DRAWN_CHUNK, ImpostorTotals
from facekd.verification.kfold import kfold_accuracy, most_accurate_threshold
from facekd.verification.operating_points import (
    crossing_rate,
    first_refused_position,
    num_accepted_above,
    num_allowed_false_accepts,
)
from facekd.verification.scores import checked_is_same, checked_scores

SPARE, EXTRA = 3, 1000  # impostors examined first: SPARE x false accepts allowed + EXTRA; doubled if a draw needs more


@dataclass(frozen=True)
class TarDifference:
    """Holds the TAR of a second model minus that of the first at one FAR; all None if the FAR is not measurable."""

    far: float
    first: float | None
    second: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    p_value: float | None  # two-sided: how often draws as far from 0 would be seen if the models were equal


Measured = tuple[float, np.ndarray]  # a measure of one model over all comparisons, and in each draw (R,)


class PairedBootstrap:
    """Draws weights for one set of comparisons and measures any model's scores under them.

    Args:
        is_same: bool (P,).
        subjects: int (P, 2) codes 0..S-1, or None to resample comparisons, genuine and impostor ones separately.
        fars: targets in (0, 1].
        draws: number of draws R.
        seed: random seed of the draws; equal seeds give equal weights, which is what pairs the models.

    Raises:
        InputError: fewer than 100 draws, or subjects that do not fit `is_same`.
    """

    def __init__(
        self,
        is_same: np.ndarray,
        subjects: np.ndarray | None,
        fars: Sequence[float],
        draws: int = 1000,
        seed: int = 0,
    ) -> None:
        self.is_same: np.ndarray = checked_is_same(is_same, len(is_same))
        if draws < MIN_DRAWS:
            raise InputError(
                f"{counted(draws, 'draw is', 'draws are')} too few for a 95 % interval; give at least {MIN_DRAWS}"
            )
        self.fars: tuple[float, ...] = tuple(fars)
        self.draws = draws
        self._seed = seed
        self._genuine, self._impostor = np.flatnonzero(self.is_same), np.flatnonzero(~self.is_same)
        if not len(self._genuine) or not len(self._impostor):
            raise InputError("a comparison of models needs genuine and impostor pairs; one kind is absent")
        self._subjects = None
        self.num_subjects: int | None = None
        if subjects is not None:
            if subjects.shape != (len(self.is_same), 2):
                raise InputError(f"subjects have shape {subjects.shape}; expected ({len(self.is_same)}, 2)")
            if not np.array_equal(subjects[:, 0] == subjects[:, 1], self.is_same):
                raise InputError("the subjects contradict the labels of the pairs")
            self.num_subjects = int(subjects.max()) + 1
            self._subjects = subjects
            # The impostors enter a draw by their total weight alone, and that is the same for all models.
            total_of = ImpostorTotals(subjects[:, 0], subjects[:, 1], self.is_same, self.num_subjects)
            chunk = max(DRAWN_CHUNK // self.num_subjects, 1)
            blocks = [range(start, min(start + chunk, draws)) for start in range(0, draws, chunk)]
            totals = [total_of(np.stack([self._draw_subjects(draw) for draw in block])) for block in blocks]
            self._totals = np.concatenate(totals)

    def tars(self, scores: np.ndarray, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
        """Returns the TAR of one model as measured (F,) and in each draw (R, F); NaN if a FAR is not measurable.

        Args:
            scores: (P,).
            name: name of the model, for messages and the progress bar.

        Raises:
            InputError: scores of another length, or not finite.
        """
        scores = self._checked(scores, name)
        measured = self._run(scores, [None], "")[0]
        return measured, self._run(scores, range(self.draws), f"resampling {name}")

    def eers(self, scores: np.ndarray, name: str = "scores") -> Measured:
        """Returns the EER of one model as measured, and in each draw (R,); NaN in draws without one kind.

        Each draw looks at all comparisons, so this is for packs of thousands of pairs, not for millions.

        Raises:
            InputError: see `tars`.
        """
        scores = self._checked(scores, name)
        # The operating points: one for each distinct score, highest first, and the one that accepts nothing.
        order = np.argsort(-scores, kind="stable")
        falling, is_genuine = scores[order], self.is_same[order]
        ends = np.append(0, np.flatnonzero(np.append(falling[1:] < falling[:-1], True)) + 1)
        found = []
        for draw in (None, *range(self.draws)):
            weights = self._weights(draw)(order)
            accepted = [np.append(0.0, np.cumsum(weights * kind)) for kind in (~is_genuine, is_genuine)]
            impostors, genuine = accepted[0][-1], accepted[1][-1]
            is_usable = impostors > 0 and genuine > 0
            points = (accepted[0][ends], accepted[1][ends])
            found.append(crossing_rate(*points, impostors, genuine) if is_usable else np.nan)
        return found[0], np.array(found[1:])

    def accuracies(self, scores: np.ndarray, fold_of: np.ndarray, name: str = "scores") -> Measured:
        """Returns the k-fold accuracy of one model as measured, and in each draw (R,) with thresholds of its own.

        Args:
            scores: (P,).
            fold_of: (P,) the fold of each comparison, from 0; see `kfold_accuracy`.
            name: name of the model, for messages.

        Raises:
            InputError: see `tars` and `kfold_accuracy`.
        """
        scores = self._checked(scores, name)
        measured = kfold_accuracy(scores, self.is_same, fold_of).mean
        # Sorted once for all draws: the comparisons of each fold, and those of the others.
        order = np.argsort(scores, kind="stable")
        folds = range(int(fold_of.max()) + 1)
        sides = [(order[fold_of[order] == fold], order[fold_of[order] != fold]) for fold in folds]
        found = []
        for draw in range(self.draws):
            weights = self._weights(draw)(np.arange(len(scores)))
            rates = []
            for inside, others in sides:
                drawn = others[weights[others] > 0]
                if not self.is_same[drawn].any() or self.is_same[drawn].all() or not weights[inside].any():
                    continue
                threshold = most_accurate_threshold(scores[drawn], self.is_same[drawn], weights[drawn])
                is_right = (scores[inside] >= threshold) == self.is_same[inside]
                rates.append(np.average(is_right, weights=weights[inside]))
            found.append(np.mean(rates) if len(rates) == len(sides) else np.nan)
        return measured, np.array(found)

    def _checked(self, scores: np.ndarray, name: str) -> np.ndarray:
        scores = checked_scores(scores, name)
        if scores.shape != self.is_same.shape:
            raise InputError(f"{name}: {counted(len(scores), 'score')} for {counted(len(self.is_same), 'pair')}")
        return scores

    def _run(self, scores: np.ndarray, draws: Iterable[int | None], description: str) -> np.ndarray:
        """Returns the TARs (R, F) of draws, by number; None weighs every comparison once."""
        genuine = self._genuine[np.argsort(-scores[self._genuine], kind="stable")]
        falling = scores[genuine]
        # Only the highest impostors decide where a threshold lies.
        allowed = max(num_allowed_false_accepts(far, len(self._impostor)) for far in self.fars)
        top = self._highest_impostors(scores, min(SPARE * allowed + EXTRA, len(self._impostor)))
        rows = []
        for draw in track(draws, description) if description else draws:
            weights_of = self._weights(draw)
            limits = [num_allowed_false_accepts(far, weights_of.total) for far in self.fars]
            # Go further down until the impostors looked at outweigh the largest number of false accepts allowed.
            while True:
                sums = np.cumsum(weights_of(top))
                if sums[-1] > max(limits) or len(top) == len(self._impostor):
                    break
                top = self._highest_impostors(scores, min(2 * len(top), len(self._impostor)))
            # The TAR at each FAR: the weight of the genuine comparisons above the first refused impostor.
            true_accepts = np.append(0.0, np.cumsum(weights_of(genuine)))
            row = np.full(len(self.fars), np.nan)
            for column, limit in enumerate(limits):
                if limit < 1 or true_accepts[-1] == 0:
                    continue
                stop = int(first_refused_position(sums, limit))
                accepted = len(falling) if stop == len(top) else int(num_accepted_above(falling, scores[top[stop]]))
                row[column] = true_accepts[accepted] / true_accepts[-1]
            rows.append(row)
        return np.array(rows)

    def _highest_impostors(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Returns the positions of the `count` highest impostor scores, highest first."""
        own = scores[self._impostor]
        chosen = np.argpartition(-own, count - 1)[:count] if count < len(own) else np.arange(len(own))
        return self._impostor[chosen[np.argsort(-own[chosen], kind="stable")]]

    def _weights(self, draw: int | None) -> _Weights:
        if draw is None:
            return _Weights(None, None, float(len(self._impostor)))
        if self._subjects is None:
            generator = np.random.default_rng([self._seed, draw])
            by_pair = np.empty(len(self.is_same))
            for positions in (self._genuine, self._impostor):
                size = len(positions)
                by_pair[positions] = np.bincount(generator.integers(size, size=size), minlength=size)
            return _Weights(by_pair, None, float(len(self._impostor)))
        return _Weights(self._draw_subjects(draw), self._subjects, float(self._totals[draw]))

    def _draw_subjects(self, draw: int) -> np.ndarray:
        """Returns how often each subject is drawn: whole numbers as float64 (S,)."""
        size = self.num_subjects or 0
        generator = np.random.default_rng([self._seed, draw])
        return np.bincount(generator.integers(size, size=size), minlength=size).astype(np.float64)


class _Weights:
    """Tells how often each comparison counts in one draw; `total` is the sum over the impostors."""

    def __init__(self, drawn: np.ndarray | None, subjects: np.ndarray | None, total: float) -> None:
        self._drawn, self._subjects, self.total = drawn, subjects, total

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        if self._drawn is None:
            return np.ones(len(positions))
        if self._subjects is None:
            return self._drawn[positions]
        first, second = self._subjects[positions].T
        weights = self._drawn[first]
        return np.where(first == second, weights, weights * self._drawn[second])


def differences(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], fars: Sequence[float]
) -> list[TarDifference]:
    """Computes the differences `second - first` of two models, with intervals and p-values.

    The interval holds the middle 95 % of the draws. The p-value counts the draws on the other side of zero, twice, plus
    one for the sample itself, so that it is never 0. Models with equal scores have a p-value of 1.

    Args:
        first, second: measured (F,) and drawn (R, F) TARs, as `PairedBootstrap.tars` returns them.
        fars: the F targets.
    """
    found = []
    for column, far in enumerate(fars):
        tars = [float(model[0][column]) for model in (first, second)]
        change = difference((tars[0], first[1][:, column]), (tars[1], second[1][:, column]))
        if change is None:
            found.append(TarDifference(far, None, None, None, None, None))
        else:
            found.append(TarDifference(far, tars[0], tars[1], *change))
    return found


def difference(first: Measured, second: Measured) -> tuple[float, tuple[float, float], float] | None:
    """Computes `second - first` of one measure of two models: the difference, its 95 % interval and its p-value.

    Args:
        first, second: as measured, and in each draw (R,), of the same `PairedBootstrap`.

    Returns:
        None if a measure is not finite, or too few of the draws are.
    """
    drawn = second[1] - first[1]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite([first[0], second[0]]).all() or len(drawn) < MIN_DRAWS:
        return None
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(2 * (int(tail) + 1) / (len(drawn) + 1), 1.0)
    return second[0] - first[0], percentile_interval(drawn), p_value
