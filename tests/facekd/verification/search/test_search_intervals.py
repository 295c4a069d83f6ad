"""Tests intervals over people of identification rates against draws made by loops, and by what they must contain."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.search.identification import SearchResult, measure_search
from facekd.verification.search.search_intervals import ProbePeople, add_search_intervals


def made(generator, num_people=30, probes_each=6):
    """A search in which a person's probes all do well or all do badly."""
    ease = np.repeat(generator.uniform(0, 1, num_people), probes_each)
    mated = np.repeat(np.arange(num_people), probes_each)
    ranks = np.where(generator.uniform(size=len(ease)) < ease, 1, 7)
    impostor = generator.uniform(-0.2, 0.8, 90)
    return SearchResult(ease, ranks, impostor, 50), ProbePeople(mated, np.arange(90) // 3)


def draws_by_loops(result, people, fpir, within, draws, seed):
    """Rank-1 rate and TPIR of each draw, counted probe by probe."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        own = []
        for names in (people.mated, people.nonmated):
            distinct = np.unique(names)
            drawn = generator.integers(len(distinct), size=len(distinct)).tolist()
            own.append(np.array([drawn.count(distinct.tolist().index(name)) for name in names.tolist()]))
        mated, nonmated = (np.repeat(np.arange(len(times)), times) for times in own)
        scores = np.sort(result.best_impostor_scores[nonmated])[::-1]
        limit = scores[int(fpir * len(scores) + 1e-9)]
        found = (result.mate_ranks[mated] <= within) & (result.mate_scores[mated] > limit)
        values.append([np.mean(result.mate_ranks[mated] == 1), found.mean()])
    return np.quantile(values, (0.025, 0.975), axis=0)


@pytest.mark.parametrize("within", [1, 7])
def test_equals_draws_by_loops(within):
    result, people = made(np.random.default_rng(1))
    measured = measure_search(result, (0.1,), (1,), within)
    how = add_search_intervals(measured, result, people, 100, 5, within)
    assert "100 draws of 30 people" in how
    low, high = draws_by_loops(result, people, 0.1, within, 100, 5)
    for column, entry in enumerate((measured["rank"][0], measured["tpir_at_fpir"][0])):
        rate = entry["rate"] if column == 0 else entry["tpir"]
        wilson = wilson_interval(round(rate * len(people.mated)), len(people.mated))
        assert entry["ci95"] == pytest.approx([min(low[column], wilson[0]), max(high[column], wilson[1])])


def test_people_with_many_probes_make_intervals_wider():
    result, people = made(np.random.default_rng(2), probes_each=20)
    over_people, over_probes = measure_search(result, (0.1,), (1,)), measure_search(result, (0.1,), (1,))
    add_search_intervals(over_people, result, people, 200, 0)
    assert "Wilson" in add_search_intervals(over_probes, result, people, 0, 0)
    widths = [entry["rank"][0]["ci95"][1] - entry["rank"][0]["ci95"][0] for entry in (over_people, over_probes)]
    assert widths[0] > 1.5 * widths[1]


def test_few_people_are_not_resampled_and_precisions_get_an_interval():
    result, people = made(np.random.default_rng(3), num_people=9)
    measured = measure_search(result, (0.1,), (1,))
    assert "only 9 people have mated probes, 10 are needed" in add_search_intervals(measured, result, people, 100, 0)
    result, people = made(np.random.default_rng(3), num_people=40)
    measured = {**measure_search(result, (0.1,), (1,)), "mean_average_precision": {"value": 0.5, "ci95": None}}
    precisions = 1 / result.mate_ranks
    add_search_intervals(measured, result, people, 200, 0, precisions=precisions)
    low, high = measured["mean_average_precision"]["ci95"]
    assert low < precisions.mean() < high


def test_without_mated_or_nonmated_probes_nothing_is_made_up():
    empty = SearchResult(np.zeros(0), np.zeros(0, np.int64), np.zeros(3), 5)
    measured = measure_search(empty)
    add_search_intervals(measured, empty, ProbePeople(np.zeros(0), np.arange(3)), 100, 0)
    assert measured["rank"][0] == {"rank": 1, "rate": None, "ci95": None}
