"""Says how many seeds and people show a difference, from the variances that a finished study measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from facekd.errors import ConfigError
from facekd.pages.tables import Table
from facekd.utils.wording import counted
from facekd.verification.seeds_and_people import Components, power

SEEDS = (3, 4, 5, 6, 8, 10, 15, 20)
PEOPLE = (150, 300, 600, 1000, 2000, 5000)
TARGET, MAX_SEEDS = 0.8, 100


def power_text(results: Mapping[str, Any], difference: float) -> str:
    """Returns tables of the power to show a difference, one for each measure and set.

    Args:
        results: what `gather` returns of a study whose runs were evaluated on all pairs of people.
        difference: the true difference of two methods, in points.

    Raises:
        ConfigError: the study has no interval over seeds and people, from which the variances would come.
    """
    parts = []
    for pack in results["packs"]:
        for name, measured in _measures(results, pack["name"]):
            if measured:
                parts.append(_table(f"{name}, {pack['name']}", measured, difference, pack["num_subjects"]))
    if not parts:
        raise ConfigError(
            "--power needs the variances of a finished study: two methods or more with two seeds or more in common, "
            "evaluated on all pairs of people (`people` in its file, and draws: not `bootstrap: 0`)"
        )
    spoken = (
        "Chance, in %, that the 95 % interval of one comparison leaves out 0 if two methods truly differ by "
        f"{difference:g} points; in the last row the seeds that {TARGET:.0%} need. People have as many images as in "
        "this study; variances are the mean over the methods compared. With many methods, Holm's correction needs more."
    )
    return "\n".join([spoken, "", *parts])


def _measures(results: Mapping[str, Any], pack: str) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yields each measure by name, and the differences over seeds and people that methods have by it."""
    methods = [method["packs"][pack] for method in results["methods"] if pack in method.get("packs", {})]
    columns = [("EER", [one["eer"] for one in methods])]
    for number, point in enumerate(methods[0]["tar_at_far"] if methods else []):
        columns.append((f"TAR at FAR {point['far']:g}", [one["tar_at_far"][number]["tar"] for one in methods]))
    for name, measures in columns:
        differences = [one["difference"] for one in measures if one and one["difference"]]
        yield name, [one for one in differences if one["over"] == "seeds and people"]


def _table(title: str, measured: list[Mapping[str, Any]], difference: float, num_people: int) -> str:
    """Returns the table of one measure, and a sentence on the variances behind it."""
    means = [sum(one["variances"][key] for one in measured) / len(measured) for key in ("seeds", "people", "both")]
    components = Components(*means)
    people = sorted({*PEOPLE, num_people})

    # The chance for each number of seeds and people, and the fewest seeds that suffice.
    rows = [
        [counted(seeds, "seed"), *(f"{100 * power(difference / 100, components, seeds, some):.0f}" for some in people)]
        for seeds in SEEDS
    ]
    rows.append([f"seeds for {TARGET:.0%}", *(_seeds_needed(difference / 100, components, some) for some in people)])
    table = Table(title, ["", *(counted(some, "person") for some in people)], rows).to_text()

    # How well the variances are known.
    from scipy import stats  # here: importing it takes half a second

    fewest = min(one["n"] for one in measured)
    low, high = (math.sqrt((fewest - 1) / stats.chi2.ppf(share, fewest - 1)) for share in (0.975, 0.025))
    by_seed, by_people, by_both = (100 * math.sqrt(value) for value in means)
    root = math.sqrt(num_people)
    return (
        f"{table}\nStandard deviation of a difference, in points: {by_seed:.2f} by the seed, {by_people / root:.2f} by "
        f"the people ({num_people:,} of them), {by_both / root:.2f} by both together. From {fewest} seeds the first is "
        f"known within a factor of {low:.1f} to {high:.1f}.\n"
    )


def _seeds_needed(difference: float, components: Components, num_people: int) -> str:
    """Returns the fewest seeds with which the chance reaches the target, in words if no number of them does."""
    for seeds in range(2, MAX_SEEDS + 1):
        if power(difference, components, seeds, num_people) >= TARGET:
            return str(seeds)
    return f"over {MAX_SEEDS}"
