"""Error rates of cells at a threshold, against loops over comparisons and over draws."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import InputError
from facekd.verification import wilson_interval
from facekd.verification.groups.cell_rates import ListedErrors, cell_rates, draw_weights, resolves, support_of
from facekd.verification.groups.group_rates import cell_of_pairs, cells_of_groups


def comparisons(num: int = 400, people: int = 30, seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(people, size=(2, num))
    is_same = first == second
    return generator.normal(is_same * 1.0, 1), is_same, first, second, generator.integers(-1, 3, num)


def test_rates_and_draws_are_those_of_loops() -> None:
    scores, is_same, first, second, cells = comparisons()
    names = np.array([f"person {number}" for number in range(30)])
    source = ListedErrors(scores, is_same, (names[first], names[second]), cells, 3)
    drawn = draw_weights(source.num_units, 40, seed=3)
    position = {name: row for row, name in enumerate(np.unique([names[first], names[second]]).tolist())}
    for kind, wanted in (("impostor", False), ("genuine", True)):
        found = cell_rates(source, kind, 0.4, drawn)  # type: ignore[arg-type]
        for cell in range(3):
            some = [i for i in range(len(scores)) if cells[i] == cell and is_same[i] == wanted]
            wrong = [i for i in some if (scores[i] >= 0.4) != wanted]
            assert (found.num[cell], found.errors[cell]) == (len(some), len(wrong))
            assert found.people[cell] == len({person for i in some for person in (first[i], second[i])})
            for row, weights in enumerate(drawn):
                of = [weights[position[str(names[person])]] for person in range(30) if str(names[person]) in position]

                def weigh(i: int, of: list[float] = of) -> float:
                    return of[first[i]] * (1 if is_same[i] else of[second[i]])

                total = sum(map(weigh, some))
                expected = sum(map(weigh, wrong)) / total if total else np.nan
                np.testing.assert_allclose(found.draws[row, cell], expected)


def test_without_subjects_intervals_are_wilsons_and_few_subjects_say_so() -> None:
    scores, is_same, first, second, _cells = comparisons()
    entry = cell_rates(ListedErrors(scores, is_same, None), "impostor", 0.5, draw_weights(0, 100, 0)).entry(0)
    assert (entry["interval"], entry["people"]) == ("wilson", 0)
    assert entry["ci95"] == list(wilson_interval(entry["errors"], entry["num"]))
    source = ListedErrors(scores, is_same, (first, second))
    wide = cell_rates(source, "impostor", 0.5, draw_weights(source.num_units, 200, 0)).entry(0)
    assert wide["interval"] == "subject bootstrap" and wide["rate"] == entry["rate"]
    assert wide["ci95"][0] <= entry["ci95"][0] and wide["ci95"][1] >= entry["ci95"][1]
    nine = (first < 9) & (second < 9)
    few = ListedErrors(scores[nine], is_same[nine], (first[nine], second[nine]))
    assert cell_rates(few, "impostor", 0.5, draw_weights(few.num_units, 100, 0)).entry(0)["interval"] == "wilson"


def test_a_cell_without_comparisons_has_no_rate() -> None:
    scores, is_same, first, second, cells = comparisons()
    source = ListedErrors(scores, is_same, (first, second), cells, 4)
    entry = cell_rates(source, "impostor", 0.5, draw_weights(source.num_units, 10, 0)).entry(3)
    assert entry == {
        "num": 0,
        "errors": 0,
        "people": 0,
        "rate": None,
        "ci95": None,
        "interval": None,
        "support": "no comparisons",
    }
    with pytest.raises(InputError, match="equally many"):
        ListedErrors(scores, is_same[1:], None)


def test_rules_of_3_and_of_30() -> None:
    assert [support_of(errors, 1000) for errors in (0, 1, 29, 30)] == ["no error", "few errors", "few errors", "enough"]
    assert [resolves(1e-4, num) for num in (29_999, 30_000, 299_999, 300_000)] == ["not", "barely", "barely", "well"]


def test_pairs_of_groups_are_numbered_without_order() -> None:
    pairs = cells_of_groups(4)
    assert len(pairs) == 10
    for cell, (first, second) in enumerate(pairs):
        found = cell_of_pairs(np.array([first, second, -1]), np.array([second, first, second]), 4)
        assert found.tolist() == [cell, cell, -1]
