"""Says how many seeds (and people) show a difference, from the variances that a finished study measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from facekd.errors import ConfigError
from facekd.experiments.studies.evaluation import Evaluation, Measure, measured_in
from facekd.pages.tables import Table
from facekd.utils.wording import agreeing, counted
from facekd.verification.intervals.seeds_and_people import Components, power

SEEDS = (3, 4, 5, 6, 8, 10, 15, 20)
PEOPLE = (150, 300, 600, 1000, 2000, 5000)
MANY_PEOPLE = 1000  # any number, where people have no variance
TARGET, MAX_SEEDS = 0.8, 100


def power_text(results: Mapping[str, Any], evaluation: Evaluation, difference: float) -> str:
    """Returns tables of the power to show a difference, one for each measure and set.

    Args:
        results: what `gather` returns of a study of classifiers, or one on all pairs of people.
        evaluation: how its runs are evaluated.
        difference: the true difference of two methods, in points.

    Raises:
        ConfigError: the study has no intervals from which the variances would come.
    """
    over = "seeds and people" if evaluation.has_people else "seeds"
    parts = []
    for pack in results["packs"]:
        for measure, measured in _measures(results, pack["name"], over):
            if measured and evaluation.has_people:
                parts.append(_table(f"{measure.name}, {pack['name']}", measured, difference, pack["num_subjects"]))
            elif measured:
                parts.append(_table_of_seeds(f"{measure.name}, {pack['name']}", measured, difference))
    if not parts:
        of_people = " on all pairs of people (`people` in its file, and draws: not `bootstrap: 0`), or as classifiers"
        raise ConfigError(
            "--power needs the variances of a finished study: two methods or more with two seeds or more in common"
            f"{f', evaluated{of_people}' if evaluation.has_people else ''}"
        )
    spoken = (
        "Chance, in %, that the 95 % interval of one comparison leaves out 0 if two methods truly differ by "
        f"{difference:g} {agreeing(difference, 'point')}; in the last row the seeds that {TARGET:.0%} need. "
        f"{'People have as many images as in this study; v' if evaluation.has_people else 'V'}ariances are the mean "
        "over the methods compared. With many methods, Holm's correction needs more."
    )
    return "\n".join([spoken, "", *parts])


def _measures(results: Mapping[str, Any], pack: str, over: str) -> Iterator[tuple[Measure, list[Mapping[str, Any]]]]:
    """Yields each measure, and the differences by it whose intervals are over `over`."""
    methods = [measured_in(method["packs"][pack]) for method in results["methods"] if pack in method.get("packs", {})]
    for place, (measure, _) in enumerate(methods[0] if methods else []):
        differences = [one[place][1]["difference"] for one in methods if one[place][1]]
        yield measure, [one for one in differences if one and one["over"] == over]


def _table(title: str, measured: list[Mapping[str, Any]], difference: float, num_people: int) -> str:
    """Returns the table of one measure, and a sentence on the variances behind it."""
    means = [sum(one["variances"][key] for one in measured) / len(measured) for key in ("seeds", "people", "both")]
    components = Components(*means)
    people = sorted({*PEOPLE, num_people})
    table = _chances(title, components, difference, {counted(some, "person"): some for some in people})
    by_seed, by_people, by_both = (100 * math.sqrt(value) for value in means)
    root = math.sqrt(num_people)
    return (
        f"{table}\nStandard deviation of a difference, in points: {by_seed:.2f} by the seed, {by_people / root:.2f} by "
        f"the people ({num_people:,} of them), {by_both / root:.2f} by both together. {_how_well_known(measured)}\n"
    )


def _table_of_seeds(title: str, measured: list[Mapping[str, Any]], difference: float) -> str:
    """Returns the same where nothing but the seeds changes from study to study."""
    variance = sum(one["std"] ** 2 for one in measured) / len(measured)
    # With no variance of people, the interval is Student's over seeds, whatever their number.
    table = _chances(title, Components(variance, 0.0, 0.0), difference, {"chance": MANY_PEOPLE})
    by_seed = f"Standard deviation of a difference, in points: {100 * math.sqrt(variance):.2f} by the seed."
    return f"{table}\n{by_seed} {_how_well_known(measured)}\n"


def _chances(title: str, components: Components, difference: float, people: Mapping[str, int]) -> str:
    """Returns a table of the chance for each number of seeds and people, and the fewest seeds that suffice.

    Args:
        title: its title.
        components: the variances.
        difference: in points.
        people: the columns: numbers of people by what they are headed.
    """
    rows = []
    for seeds in SEEDS:
        chances = [power(difference / 100, components, seeds, some) for some in people.values()]
        rows.append([counted(seeds, "seed"), *(f"{100 * chance:.0f}" for chance in chances)])
    needed = [_seeds_needed(difference / 100, components, some) for some in people.values()]
    return Table(title, ["", *people], [*rows, [f"seeds for {TARGET:.0%}", *needed]]).to_text()


def _how_well_known(measured: list[Mapping[str, Any]]) -> str:
    """Says how well so many seeds tell the variance between seeds."""
    from scipy import stats  # here: importing it takes half a second

    fewest = min(one["n"] for one in measured)
    low, high = (math.sqrt((fewest - 1) / stats.chi2.ppf(share, fewest - 1)) for share in (0.975, 0.025))
    return f"From {counted(fewest, 'seed')} the first is known within a factor of {low:.1f} to {high:.1f}."


def _seeds_needed(difference: float, components: Components, num_people: int) -> str:
    """Returns the fewest seeds with which the chance reaches the target, in words if no number of them does."""
    for seeds in range(2, MAX_SEEDS + 1):
        if power(difference, components, seeds, num_people) >= TARGET:
            return str(seeds)
    return f"over {MAX_SEEDS}"
