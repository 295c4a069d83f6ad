"""Intervals over seeds and people: their coverage by simulation, and what cannot be computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from facekd.errors import InputError
from facekd.verification.intervals.seeds_and_people import (
    Components,
    crossed_difference,
    degrees_of_freedom,
    holm,
    power,
)
from facekd.verification.intervals.subject_bootstrap import Units, resample
from facekd.verification.ranked_scores import RankedScores

FARS = [1e-2, 1e-3]


def simulate(
    components: Components, num_seeds: int, num_people: int, repetitions: int, shift: float = 0.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields differences (n,) and their draws (n, R) of a measure that is a mean over people; its truth is `shift`."""
    generator = np.random.default_rng(1)
    weights = generator.multinomial(num_people, np.full(num_people, 1 / num_people), size=400) / num_people
    sizes = [(num_seeds, 1), (1, num_people), (num_seeds, num_people)]
    spreads = np.sqrt([components.seeds, components.people, components.both])
    for _ in range(repetitions):
        values = shift + sum(spread * generator.normal(size=size) for spread, size in zip(spreads, sizes, strict=True))
        yield values.mean(axis=1), values @ weights.T


def coverage(components: Components, num_seeds: int, num_people: int, repetitions: int = 1000) -> tuple[float, float]:
    """Returns how often the interval holds the truth, and the mean of the squared standard errors."""
    runs = simulate(components, num_seeds, num_people, repetitions)
    found = [crossed_difference(values, draws, num_people) for values, draws in runs]
    return float(np.mean([one.ci95[0] <= 0 <= one.ci95[1] for one in found])), float(
        np.mean([one.standard_error**2 for one in found])
    )


def test_the_interval_covers_seeds_and_people() -> None:
    # One training varies as much by its seed as by the people, and by both together.
    components = Components(1.0, 150.0, 150.0)
    covered, variance = coverage(components, 6, 150)
    assert 0.93 <= covered <= 0.97
    assert variance == pytest.approx(sum(components.terms(6, 150)), rel=0.05)
    # An interval over seeds alone leaves the people out.
    seeds_only = [stats.ttest_1samp(values, 0).pvalue >= 0.05 for values, _ in simulate(components, 6, 150, 300)]
    assert np.mean(seeds_only) < 0.9


def test_few_people_count_as_few() -> None:
    """The draws of S people vary by (S - 1) / S of what S people do, which with many would not be seen."""
    values, draws = np.array([0.1, 0.4]), np.array([[0.0, 1.0, 2.0, 5.0], [0.0, 2.0, 1.0, 4.0]])
    expected = values.var(ddof=1) / 2 + np.cov(draws)[0, 1] * 4 / 3
    assert crossed_difference(values, draws, 4).standard_error ** 2 == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_people", [150, 1000])
@pytest.mark.parametrize(
    "shares", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.05, 4, 1), (1, 1, 20)], ids=lambda shares: str(shares)
)
def test_coverage_whatever_the_variance_is_of(shares: tuple[float, float, float], num_people: int) -> None:
    seeds, people, both = shares
    covered, _ = coverage(Components(seeds, people * 150.0, both * 150.0), 6, num_people, 2000)
    print(f"{shares}, 6 seeds, {num_people} people: {covered:.3f}")
    assert 0.93 <= covered <= 0.97


def scores_of_runs(seed: int, num_seeds: int, num_people: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each seed the scores of two methods, (P,) each, on the same people, and which pairs are genuine.

    Each person has an effect of its own on its genuine and on its impostor scores: one part shared by all runs, one for
    each method and one for each run; each run also separates people more or less well.
    """
    generator = np.random.default_rng(seed)
    own, (first, second) = np.repeat(np.arange(num_people), 5), np.triu_indices(num_people, 1)
    is_same = np.arange(own.size + first.size) < own.size
    shared, of_method = generator.normal(size=(2, num_people)), 0.4 * generator.normal(size=(2, 2, num_people))
    noise = generator.normal(size=is_same.size)
    for _ in range(num_seeds):
        runs = []
        for method in range(2):
            genuine, impostor = shared + of_method[method] + 0.3 * generator.normal(size=(2, num_people))
            shift = 3.2 + 0.15 * generator.normal()
            scores = np.concatenate([shift + 0.7 * genuine[own], 0.3 * (impostor[first] + impostor[second])])
            runs.append(scores + 0.6 * noise + 0.4 * generator.normal(size=is_same.size))
        yield np.stack(runs), is_same


@pytest.mark.slow
def test_coverage_of_eer_and_tar_at_far() -> None:
    """The whole chain: scores, draws of people with thresholds of their own, differences; equally good methods."""
    num_seeds, num_people, repetitions = 6, 150, 200
    own, (first, second) = np.repeat(np.arange(num_people), 5), np.triu_indices(num_people, 1)
    units = Units(np.concatenate([own, first]), np.concatenate([own, second]), (num_people,))
    hits, seeds_only = np.zeros(3), np.zeros(3)
    for repetition in range(repetitions):
        measured, drawn = [], []
        for runs, is_same in scores_of_runs(repetition, num_seeds, num_people):
            points, draws = [], []
            for scores in runs:
                ranked = RankedScores(scores[is_same], scores[~is_same])
                found = resample(ranked, scores, is_same, units, FARS, 200, 0)
                points.append([ranked.equal_error_point().eer, *(point.tar for point in ranked.tar_at_far(FARS))])
                draws.append(np.concatenate([found.eer[None], found.tar]))
            measured.append(np.subtract(points[1], points[0]))
            drawn.append(draws[1] - draws[0])
        for number in range(3):
            values, draws = np.array(measured)[:, number], np.array(drawn)[:, number]
            one = crossed_difference(values, draws, num_people)
            hits[number] += one.ci95[0] <= 0 <= one.ci95[1]
            seeds_only[number] += stats.ttest_1samp(values, 0).pvalue >= 0.05
    print("EER, TAR@1e-2, TAR@1e-3:", hits / repetitions, "over seeds alone:", seeds_only / repetitions)
    # 200 repetitions: the standard deviation of a coverage of 95 % is 1.5 points.
    assert (hits / repetitions > 0.915).all() and (hits / repetitions < 0.995).all()
    assert (seeds_only < hits).all()


@pytest.mark.parametrize("shift", [0.8, 1.6])
def test_power_is_how_often_a_difference_is_shown(shift: float) -> None:
    components = Components(0.6, 15.0, 45.0)
    runs = simulate(components, 6, 150, 500, shift)
    found = np.mean([crossed_difference(values, draws, 150).p_value < 0.05 for values, draws in runs])
    assert power(shift, components, 6, 150) == pytest.approx(found, abs=0.05)
    assert power(shift, components, 12, 300) > power(shift, components, 6, 150)
    assert power(1000.0, components, 6, 150) == 1.0
    assert power(0.0, components, 6, 150) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 4.0])
def test_power_is_that_of_the_noncentral_t_distribution(shift: float) -> None:
    # Seeds alone vary: Student's t of 6 differences, whose mean has the standard deviation 1.
    limit = stats.t.ppf(0.975, 5)
    expected = stats.nct.sf(limit, 5, shift) + stats.nct.cdf(-limit, 5, shift)
    assert power(shift, Components(6.0, 0.0, 0.0), 6, 150) == pytest.approx(expected, abs=1e-3)


def test_power_is_a_chance_however_large_the_difference() -> None:
    chances = [power(shift, Components(1e-4, 1e-3, 1e-3), 5, 600) for shift in np.geomspace(1e-4, 10, 40)]
    assert np.isfinite(chances).all() and chances == sorted(chances) and chances[-1] == pytest.approx(1)


def test_components_are_found_again() -> None:
    components = Components(6.0, 300.0, 300.0)
    found = [crossed_difference(*run, 150).components for run in simulate(components, 8, 150, 300)]
    for name in ("seeds", "people", "both"):
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(getattr(components, name), rel=0.15)


def test_seeds_alone_give_students_t_of_their_differences() -> None:
    found = crossed_difference([0.1, 0.3, 0.2], np.zeros((3, 100)), 50)
    assert found.components == Components(pytest.approx(0.01), 0.0, 0.0)
    assert found.degrees_of_freedom == pytest.approx(2)
    expected = stats.ttest_1samp([0.1, 0.3, 0.2], 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()))


def test_degrees_of_freedom_are_those_of_satterthwaite() -> None:
    assert degrees_of_freedom(0.5, 0.0, 6, 150) == pytest.approx(5)
    assert degrees_of_freedom(0.0, 0.5, 6, 150) == pytest.approx(149)
    assert degrees_of_freedom(2.0, 3.0, 4, 11) == pytest.approx(25 / (4 / 3 + 9 / 10))
    assert degrees_of_freedom(0.0, 0.0, 6, 150) == 5


def test_equal_runs_show_no_difference() -> None:
    one = crossed_difference([0.0, 0.0], np.zeros((2, 100)), 50)
    assert (one.mean, one.ci95, one.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert crossed_difference([0.1, 0.1], np.full((2, 100), 0.1), 50).p_value == 0.0
    assert power(0.1, Components(0.0, 0.0, 0.0), 2, 50) == 1.0


@pytest.mark.parametrize(
    ("values", "draws", "people", "message"),
    [
        ([0.1], np.zeros((1, 100)), 50, "needs two of each, found 1 and 50"),
        ([0.1, 0.2], np.zeros((2, 100)), 1, "needs two of each, found 2 and 1"),
        ([0.1, 0.2], np.zeros((3, 100)), 50, r"expected finite draws \(2, R\)"),
        ([0.1, 0.2], np.full((2, 100), np.nan), 50, "expected finite draws"),
    ],
)
def test_what_gives_no_interval(values: list[float], draws: np.ndarray, people: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        crossed_difference(values, draws, people)


def test_holm_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
