"""Error-versus-discard curves against counting by loops, closed forms of the bounds, and drawn comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from facekd.errors import InputError
from facekd.verification.error_versus_discard import (
    GRID,
    LIMITS,
    error_versus_discard,
    ideal_area,
    measure_quality,
    relative_area,
    relative_interval,
)

QUALITIES = st.lists(st.integers(0, 6), min_size=4, max_size=24)


def naive_fnmr(rejected: list[bool], quality: list[int], samples: list[int], share: float) -> float:
    """The FNMR after the largest discarding of samples, by a minimum quality, that does not exceed a share."""
    best = None
    for minimum in sorted(set(samples)):
        gone = sum(one < minimum for one in samples) / len(samples)
        kept = [one for one, own in zip(rejected, quality, strict=True) if own >= minimum]
        if gone <= share and kept:
            best = sum(kept) / len(kept)
    assert best is not None
    return best


@settings(max_examples=60, deadline=None)
@given(st.data(), QUALITIES)
def test_curves_are_those_of_counting(data: st.DataObject, images: list[int]) -> None:
    pairs = data.draw(
        st.lists(st.tuples(*[st.integers(0, len(images) - 1)] * 2, st.booleans()), min_size=1, max_size=20)
    )
    rejected = [one for _, _, one in pairs]
    quality = [min(images[first], images[second]) for first, second, _ in pairs]
    by_pair = error_versus_discard(np.array(rejected), np.array(quality))
    by_image = error_versus_discard(np.array(rejected), np.array(quality), np.array(images))
    for share in (0, 0.05, 0.2, 1 / 3, 0.5, 0.8, 1):
        assert by_pair.at(np.array([share]))[0] == naive_fnmr(rejected, quality, quality, share)
        assert by_image.at(np.array([share]))[0] == naive_fnmr(rejected, quality, images, share)
    # The area, by adding up many narrow strips.
    strips = (np.arange(20_000) + 0.5) / 20_000
    for limit in LIMITS:
        for curve in (by_pair, by_image):
            assert curve.area(limit) == pytest.approx(limit * curve.at(strips * limit).mean(), abs=2e-3)


@pytest.mark.parametrize("fnmr", [0.0, 0.02, 0.25, 0.7, 1.0])
@pytest.mark.parametrize("limit", [0.2, 1.0])
def test_the_ideal_is_its_integral_and_what_a_perfect_quality_gives(fnmr: float, limit: float) -> None:
    def ideal(share: float) -> float:
        return fnmr if fnmr == 1 else max(0.0, (fnmr - share) / (1 - share))

    assert ideal_area(fnmr, limit) == pytest.approx(quad(ideal, 0, limit, points=[min(fnmr, limit)])[0], abs=1e-6)
    count = 2000
    rejected = np.arange(count) < fnmr * count
    curve = error_versus_discard(rejected, np.arange(count))  # all rejected ones first
    assert curve.area(limit) == pytest.approx(float(ideal_area(fnmr, limit)), abs=1e-3)


def test_relative_areas_are_0_for_the_ideal_1_at_random_and_unknown_without_errors() -> None:
    assert relative_area(ideal_area(0.1, 0.3), 0.1, 0.3) == pytest.approx(0)
    assert relative_area(0.1 * 0.3, 0.1, 0.3) == pytest.approx(1)
    assert np.isnan(relative_area(0.0, 0.0, 0.3))


def test_intervals_hold_what_was_measured_and_people_widen_them() -> None:
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(40), 10)
    hard = rng.random(40) < 0.3  # whose comparisons fail together, and are of low quality
    rejected = hard[people] & (rng.random(400) < 0.6)
    quality = rng.normal(size=400) - 0.7 * hard[people]
    measured = float(relative_area(error_versus_discard(rejected, quality).area(0.3), rejected.mean(), 0.3))
    widths = []
    for units in (people, None):
        bounds = relative_interval(rejected, quality, units, 0.3, 400)
        assert bounds is not None and bounds[0] < measured < bounds[1] < 1
        widths.append(bounds[1] - bounds[0])
    assert widths[0] > widths[1]
    few = np.arange(400) < 9
    assert relative_interval(few, quality, None, 0.3, 100) is None
    assert relative_interval(np.ones(400, bool), quality, None, 0.3, 100) is None


def test_a_draw_that_takes_everything_once_gives_the_measured_area() -> None:
    rng = np.random.default_rng(2)
    rejected, quality = rng.random(50) < 0.3, rng.integers(0, 8, 50)
    # Two equal people: every draw of both, once or one of them twice, weighs all comparisons of its kind alike.
    bounds = relative_interval(np.tile(rejected, 12), np.tile(quality, 12), np.repeat(np.arange(12), 50), 0.3, 100)
    measured = float(relative_area(error_versus_discard(rejected, quality).area(0.3), rejected.mean(), 0.3))
    assert bounds == (pytest.approx(measured), pytest.approx(measured))


def test_measures_take_the_thresholds_of_operating_points() -> None:
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(200, 2))
    quality = samples.min(axis=1)
    genuine = 0.5 + 0.1 * quality + rng.normal(0, 0.05, 200)
    points = [{"far": 0.1, "tar": 0.9, "threshold": 0.45}, {"far": 1e-6, "tar": None, "threshold": None}]
    (found,) = measure_quality(genuine, quality, samples.reshape(-1), points, draws=100)
    rejected = genuine < 0.45
    assert found["fnmr"] == rejected.mean() and found["num_rejected"] == rejected.sum()
    assert found["fnmr_by_pairs"][20] == genuine[np.sort(np.argsort(quality)[40:])].__lt__(0.45).mean()
    assert len(found["fnmr_by_samples"]) == len(GRID) and found["areas"][0]["limit"] == 0.2
    assert found["areas"][0]["relative_pairs"] < 0.6


def naive_quality(
    genuine: np.ndarray, quality: np.ndarray, samples: np.ndarray, far: float, threshold: float, draws: int
) -> dict[str, object]:
    """What is reported of one threshold, by counting at each share, and by adding up the steps between shares."""
    rejected = [score < threshold for score in genuine.tolist()]
    fnmr = sum(rejected) / len(rejected)
    shares = [number / 100 for number in range(100)]
    by_pairs, by_samples = ([*map(fnmr_at(rejected, quality, of), shares)] for of in (quality, samples))
    # With 40 pairs and 20 samples every step begins at a fortieth of the whole.
    steps = [(number + 0.5) / 40 for number in range(40)]
    areas = []
    for limit in LIMITS:
        below = [share for share in steps if share < limit]
        pairs, of_samples = (sum(map(fnmr_at(rejected, quality, of), below)) / 40 for of in (quality, samples))
        ideal = quad(lambda share: max(0.0, (fnmr - share) / (1 - share)), 0, limit, points=[min(fnmr, limit)])[0]
        relative = (pairs - ideal) / (fnmr * limit - ideal) if fnmr else None
        interval = relative_interval(np.array(rejected), quality, None, limit, draws, 7) if draws else None
        areas.append(
            {
                "limit": limit,
                "pairs": pytest.approx(pairs),
                "samples": pytest.approx(of_samples),
                "ideal_pairs": pytest.approx(ideal, abs=1e-7),
                "random": pytest.approx(fnmr * limit),
                "relative_pairs": None if relative is None else pytest.approx(relative, abs=1e-6),
                "relative_pairs_ci95": None if interval is None else list(interval),
            }
        )
    return {
        "far": far,
        "threshold": threshold,
        "fnmr": fnmr,
        "num_rejected": sum(rejected),
        "num_genuine": 40,
        "areas": areas,
        "discarded": shares,
        "fnmr_by_pairs": by_pairs,
        "fnmr_by_samples": by_samples,
    }


def fnmr_at(rejected: list[bool], quality: np.ndarray, samples: np.ndarray) -> Callable[[float], float]:
    return lambda share: naive_fnmr(rejected, quality.tolist(), samples.tolist(), share + 1e-12)


@pytest.mark.parametrize("draws", [0, 100])
def test_what_is_measured_is_reported_in_full_but_for_points_that_are_not_measurable(draws: int) -> None:
    rng = np.random.default_rng(4)
    samples = rng.permutation(np.arange(20.0)) // 2
    quality = np.minimum(rng.choice(samples, 40), rng.choice(samples, 40))
    genuine = np.arange(40) / 100 + rng.permutation(np.arange(40)) / 1000
    quality = np.where(genuine < 0.15, np.minimum(quality, rng.choice(samples, 40)), quality)
    points = [
        {"far": 1e-6, "tar": None, "threshold": None},
        {"far": 0.1, "tar": 0.5, "threshold": 0.2},
        {"far": 0.3, "tar": 1.0, "threshold": -0.5},  # nothing is rejected
        {"far": 0.2, "tar": 0.9, "threshold": 0.05},
    ]
    found = measure_quality(genuine, quality, samples, points, draws=draws, seed=7)
    expected = [
        naive_quality(genuine, quality, samples, point["far"], point["threshold"], draws) for point in points[1:]
    ]
    assert found == expected
    intervals = [area["relative_pairs_ci95"] is not None for one in found for area in one["areas"]]
    assert intervals == [bool(draws)] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("rejected", "quality"), [([True], [np.nan]), ([True, False], [1.0]), ([], []), ([True], [np.inf])]
)
def test_qualities_that_cannot_be_used_are_refused(rejected: list[bool], quality: list[float]) -> None:
    with pytest.raises(InputError):
        error_versus_discard(np.array(rejected, bool), np.array(quality))


@pytest.mark.parametrize("kind", [np.uint8, np.float16, object])
def test_qualities_are_numbers_of_any_kind(kind: type) -> None:
    rejected, quality = np.array([True, True, False, False, True]), np.array([3, 0, 7, 3, 9])
    plain, found = (
        error_versus_discard(rejected, values, values) for values in (quality.astype(float), quality.astype(kind))
    )
    np.testing.assert_array_equal(found.discarded, plain.discarded)
    np.testing.assert_array_equal(found.fnmr, plain.fnmr)
