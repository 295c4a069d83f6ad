"""Computes error-versus-discard curves: what a measure of image quality is worth for verification (ISO/IEC 29794-1).

The decision threshold is fixed, for an FMR over all comparisons. Then the comparisons of lowest quality are discarded,
step by step, and the FNMR of those that remain is plotted against the share that is gone: if quality tells which
comparisons fail, it falls steeply. The quality of a comparison is the lower of its two samples'. The share is that of
the genuine comparisons, or that of the samples (images, templates) which would have to be taken again. Equal qualities
are discarded together, so the curve is a staircase: at each share stands the last step that can be reached, and nothing
is interpolated.

Two lines bound what is possible: discarding at random leaves the FNMR as it is, and the ideal discards rejected
comparisons alone: (e - d) / (1 - d) for an FNMR e and a share d below e.

Sources: ISO/IEC 29794-1:2024; P. Grother, E. Tabassi, "Performance of biometric quality measures", PAMI 29(4), 2007;
T. Schlett et al., "Considerations on the evaluation of biometric quality assessment algorithms", arXiv:2303.13294
(partial areas, staircase). Shapes: G genuine comparisons, n samples, K shares, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.errors import InputError
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS, percentile_interval

LIMITS = (0.2, 0.3, 1.0)  # shares up to which areas are taken: nobody discards much more
GRID = np.linspace(0, 0.99, 100)  # shares at which curves are reported
MIN_REJECTED = 10  # comparisons; an interval of fewer would come from a handful of faces, drawn again and again
DRAWN_CHUNK = 1 << 20  # weights that are summed at a time


@dataclass(frozen=True)
class DiscardCurve:
    """Holds the steps of a curve.

    Attributes:
        discarded: (K,) shares that can be discarded, ascending from 0.
        fnmr: (K,) the FNMR of what remains.
    """

    discarded: np.ndarray
    fnmr: np.ndarray

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Returns the FNMR at shares in 0..1: that of the largest share that can be reached and is no larger."""
        return self.fnmr[np.searchsorted(self.discarded, shares, side="right") - 1]

    def area(self, limit: float = 1.0) -> float:
        """Returns the area under the staircase from 0 to `limit`."""
        ends = np.append(self.discarded[1:], 1.0)
        return float((np.minimum(ends, limit) - np.minimum(self.discarded, limit)) @ self.fnmr)


def error_versus_discard(
    is_rejected: np.ndarray, quality: np.ndarray, samples: np.ndarray | None = None
) -> DiscardCurve:
    """Computes the curve of genuine comparisons.

    Args:
        is_rejected: bool (G,), whether a genuine comparison falls below the threshold.
        quality: (G,) its quality.
        samples: (n,) the quality of every sample, if the share is to be that of samples; None for comparisons.

    Raises:
        InputError: no comparisons, another number of qualities, or ones that are not finite.
    """
    is_rejected, quality = _checked(is_rejected, quality)
    counted = quality if samples is None else np.asarray(samples, float)
    if not np.isfinite(counted).all():
        raise InputError("qualities of samples are not finite")
    # Every quality that occurs is a step; at the last, something still remains.
    levels = np.unique(counted)
    levels = levels[levels <= quality.max()]
    order = np.argsort(quality, kind="stable")
    before = np.searchsorted(quality[order], levels, side="left")
    rejected_before = np.append(0, np.cumsum(is_rejected[order]))[before]
    discarded = np.searchsorted(np.sort(counted), levels, side="left") / counted.size
    return DiscardCurve(discarded, (is_rejected.sum() - rejected_before) / (quality.size - before))


def ideal_area(fnmr: np.ndarray | float, limit: float) -> np.ndarray:
    """Returns the area under the ideal curve of comparisons from 0 to `limit`, for an FNMR without discarding."""
    fnmr = np.asarray(fnmr, float)
    reached = np.minimum(fnmr, limit)
    # At an FNMR of 1 every comparison that remains is rejected.
    inner = np.where(fnmr < 1, 1 - reached, 1.0)
    return reached + (1 - fnmr) * np.log(inner)


def relative_area(area: np.ndarray | float, fnmr: np.ndarray | float, limit: float) -> np.ndarray:
    """Returns where an area lies between that of the ideal (0) and of discarding at random (1); NaN if they are one."""
    ideal, chance = ideal_area(fnmr, limit), np.asarray(fnmr, float) * limit
    room = chance - ideal
    is_open = room > 1e-12
    return np.where(is_open, (area - ideal) / np.where(is_open, room, 1), np.nan)


def relative_interval(
    is_rejected: np.ndarray,
    quality: np.ndarray,
    people: np.ndarray | None,
    limit: float,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Computes a 95 % bootstrap interval of `relative_area` for comparisons, the threshold given.

    Args:
        is_rejected, quality: (G,) as for `error_versus_discard`.
        people: (G,) whose comparison each is: people are drawn. None, or fewer than 10 people, draws comparisons.
        limit: share up to which the area is taken.
        draws: number of draws.
        seed: random seed of the draws.

    Returns:
        The interval; None with fewer than 10 rejected comparisons, or if all are.
    """
    is_rejected, quality = _checked(is_rejected, quality)
    if is_rejected.sum() < MIN_REJECTED:
        return None
    units = np.arange(quality.size)
    if people is not None:
        codes = np.unique(people, return_inverse=True)[1].reshape(-1)
        units = codes if codes.max() + 1 >= MIN_SUBJECTS else units
    # Comparisons in the order of their quality, and where each quality begins.
    order = np.argsort(quality, kind="stable")
    starts = np.flatnonzero(np.diff(quality[order], prepend=-np.inf) > 0)
    is_rejected, units, size = is_rejected[order], units[order], int(units.max()) + 1
    rng = np.random.default_rng(seed)
    found = []
    chunk = max(DRAWN_CHUNK // quality.size, 1)
    for start in range(0, draws, chunk):
        drawn = [
            np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(start, min(start + chunk, draws))
        ]
        found.append(_relative_of_weights(np.stack(drawn)[:, units].astype(float), is_rejected, starts, limit))
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    return percentile_interval(values) if values.size else None


def _relative_of_weights(weights: np.ndarray, is_rejected: np.ndarray, starts: np.ndarray, limit: float) -> np.ndarray:
    """Returns the relative area in each draw (R,) of weights (R, G), comparisons in ascending order of quality."""
    sums = [np.add.reduceat(part, starts, axis=1) for part in (weights, weights * is_rejected)]
    # What lies below each quality is discarded, what lies from it on remains.
    below = [np.concatenate([np.zeros((len(part), 1)), np.cumsum(part, axis=1)], axis=1) for part in sums]
    totals = [part[:, -1:] for part in below]
    discarded = below[0] / totals[0]
    remaining = totals[0] - below[0][:, :-1]
    fnmr = (totals[1] - below[1][:, :-1]) / np.where(remaining > 0, remaining, 1)
    # Where nothing remains, the step has no width.
    widths = np.diff(np.minimum(discarded, limit), axis=1)
    return relative_area((widths * fnmr).sum(axis=1), (totals[1] / totals[0])[:, 0], limit)


def measure_quality(
    genuine: np.ndarray,
    quality: np.ndarray,
    samples: np.ndarray,
    points: Sequence[dict[str, Any]],
    people: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measures curves at the thresholds of operating points, as plain values for JSON (docs/results.md).

    Args:
        genuine: (G,) scores of the genuine comparisons.
        quality: (G,) their qualities.
        samples: (n,) the quality of every sample.
        points: entries of `tar_at_far`; those that are not measurable are left out.
        people: (G,) whose each comparison is, or None.
        draws: bootstrap draws of the intervals; 0 for none.
        seed: random seed of the draws.
    """
    found = []
    for point in points:
        if point["tar"] is None:
            continue
        is_rejected = genuine < point["threshold"]
        by_pair, by_sample = (
            error_versus_discard(is_rejected, quality),
            error_versus_discard(is_rejected, quality, samples),
        )
        fnmr = float(is_rejected.mean())
        areas = []
        for limit in LIMITS:
            relative = float(relative_area(by_pair.area(limit), fnmr, limit))
            interval = relative_interval(is_rejected, quality, people, limit, draws, seed) if draws else None
            areas.append(
                {
                    "limit": limit,
                    "pairs": by_pair.area(limit),
                    "samples": by_sample.area(limit),
                    "ideal_pairs": float(ideal_area(fnmr, limit)),
                    "random": fnmr * limit,
                    "relative_pairs": relative if np.isfinite(relative) else None,
                    "relative_pairs_ci95": None if interval is None else list(interval),
                }
            )
        found.append(
            {
                "far": point["far"],
                "threshold": point["threshold"],
                "fnmr": fnmr,
                "num_rejected": int(is_rejected.sum()),
                "num_genuine": int(is_rejected.size),
                "areas": areas,
                "discarded": GRID.round(2).tolist(),
                "fnmr_by_pairs": by_pair.at(GRID.round(2)).tolist(),
                "fnmr_by_samples": by_sample.at(GRID.round(2)).tolist(),
            }
        )
    return found


def _checked(is_rejected: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_rejected, quality = np.asarray(is_rejected, bool), np.asarray(quality, float)
    if not is_rejected.size or is_rejected.shape != quality.shape:
        raise InputError(
            f"{is_rejected.shape} genuine comparisons, and qualities of shape {quality.shape}; expected (G,)"
        )
    if not np.isfinite(quality).all():
        raise InputError("qualities of comparisons are not finite")
    return is_rejected, quality
