"""Compares the methods of a study by one measure: means over seeds, paired differences, intervals and tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.experiments.studies.evaluation import Evaluation, Measure
from facekd.files.npy_files import read_npz
from facekd.verification.intervals.seeds_and_people import crossed_difference, degrees_of_freedom, holm

REMEDY = "delete results.json there and run the study again, which then evaluates this run again"
OVER_SEEDS = (
    "95 % interval of the mean difference over seeds (Student's t, n - 1 degrees of freedom, paired by seed: same "
    "weights to start from where the networks are the same, same order of images). It covers what changes from one "
    "training to the next; {} are the same throughout, so it does not cover them"
)
OVER_SEEDS_AND_PEOPLE = (
    "95 % interval of the mean difference over seeds and people together (crossed random effects, Student's t with "
    "Satterthwaite's degrees of freedom, paired by seed and by person): it covers other trainings and other people of "
    "the same kind"
)


@dataclass(frozen=True)
class Draws:
    """Holds what an evaluation measured in each of its draws of people.

    Attributes:
        num_people: number of people that are drawn.
        eer: (R,).
        tar: (R,) at each FAR.
    """

    num_people: int
    eer: np.ndarray
    tar: dict[float, np.ndarray]

    def of(self, measure: Measure) -> np.ndarray | None:
        """Returns what one measure was in each draw, (R,); None if it was not measured in them."""
        if measure.far is not None:
            return self.tar.get(measure.far)
        return self.eer if measure.metric == "eer" else None


@dataclass(frozen=True)
class Values:
    """Holds one measure of one method, seed by seed, and in each draw of people (R,) if the evaluation drew people.

    Attributes:
        by_seed: the values.
        draws: the draws.
        are_seeds: whether the numbers are seeds of the study; of others' results they only count.
    """

    by_seed: Mapping[int, float]
    draws: Mapping[int, np.ndarray]
    are_seeds: bool = True


def compare(
    values: Mapping[str, Values], reference: str, compared: Collection[str], num_people: int | None, lower: bool
) -> dict[str, dict[str, Any]]:
    """Returns for each method its mean over seeds and the difference to the baseline, with p-values adjusted by Holm.

    Args:
        values: one measure of each method.
        reference: the baseline.
        compared: the methods that are compared with it.
        num_people: number of people of the draws; None without draws.
        lower: whether a lower value is better.
    """
    found = {}
    for name, own in values.items():
        mean, std = mean_and_std(list(own.by_seed.values()))
        difference = None
        if name in compared and reference in values and not own.are_seeds:
            difference = unpaired_difference(own, values[reference])
        elif name in compared and reference in values:
            difference = paired_difference(own, values[reference], num_people, lower)
        by_seed = {f"{'' if own.are_seeds else '#'}{seed}": value for seed, value in own.by_seed.items()}
        found[name] = {"n": len(by_seed), "mean": mean, "std": std, "values": by_seed, "difference": difference}
    tested = [one["difference"] for one in found.values() if (one["difference"] or {}).get("p_value") is not None]
    for one, adjusted in zip(tested, holm([one["p_value"] for one in tested]), strict=True):
        one["p_holm"], one["num_compared"] = adjusted, len(tested)
    return found


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean, and the sample's standard deviation (n - 1), or None in its place for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(
    values: Values, baseline: Values, num_people: int | None, lower_is_better: bool
) -> dict[str, Any] | None:
    """Returns method minus baseline over the seeds that both have; None if they share no seed.

    Args:
        values: values of the method.
        baseline: values of the baseline.
        num_people: number of people of the draws; None without draws, for an interval over seeds alone.
        lower_is_better: whether a lower value is better, to count the seeds in which the method is better.
    """
    seeds = [seed for seed in values.by_seed if seed in baseline.by_seed]
    if not seeds:
        return None
    differences = [values.by_seed[seed] - baseline.by_seed[seed] for seed in seeds]
    mean, _ = mean_and_std(differences)
    better = sum(difference < 0 if lower_is_better else difference > 0 for difference in differences)
    found: dict[str, Any] = {"n": len(seeds), "mean": mean, "ci95": None, "better_in": better, "p_value": None}
    found["over"] = None
    if len(seeds) < 2:
        return found
    # Over seeds and people, if all runs drew people; else over seeds alone.
    if num_people is not None and all(seed in one.draws for seed in seeds for one in (values, baseline)):
        drawn = np.stack([values.draws[seed] - baseline.draws[seed] for seed in seeds])
        one = crossed_difference(differences, drawn, num_people)
        return {
            **found,
            "ci95": list(one.ci95),
            "p_value": one.p_value,
            "over": "seeds and people",
            "degrees_of_freedom": one.degrees_of_freedom,
            "variances": asdict(one.components),
        }
    return {**found, **_over_seeds(differences), "over": "seeds"}


def unpaired_difference(values: Values, baseline: Values) -> dict[str, Any]:
    """Returns method minus baseline where the values of the two do not belong together one by one.

    The interval is that of Welch's t-test (B. L. Welch, Biometrika 34, 1947); there is none if one has a single value.
    """
    samples = [list(one.by_seed.values()) for one in (values, baseline)]
    (mean, std), (other_mean, other_std) = (mean_and_std(sample) for sample in samples)
    found: dict[str, Any] = {"n": len(samples[0]), "mean": mean - other_mean, "ci95": None, "better_in": None}
    found |= {"p_value": None, "over": None}
    if std is None or other_std is None:
        return found
    sizes = [len(sample) for sample in samples]
    terms = std**2 / sizes[0], other_std**2 / sizes[1]
    df = degrees_of_freedom(*terms, *sizes)
    return {**found, **_student(mean - other_mean, math.sqrt(sum(terms)), df), "over": "seeds, unpaired"}


def _over_seeds(differences: Sequence[float]) -> dict[str, Any]:
    """Returns Student's interval and p-value of the mean of n >= 2 differences."""
    mean, std = mean_and_std(differences)
    error = (std or 0.0) / math.sqrt(len(differences))
    return {**_student(mean, error, len(differences) - 1), "std": std}


def _student(mean: float, error: float, df: float) -> dict[str, Any]:
    """Returns Student's 95 % interval and two-sided p-value of a mean with its standard error."""
    from scipy import stats  # here: importing it takes half a second

    half = float(stats.t.ppf(0.975, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df)) if error > 0 else float(mean == 0)
    return {"ci95": [mean - half, mean + half], "p_value": p_value}


def read_draws(folder: Path, result: Mapping[str, Any]) -> Draws | None:
    """Reads the draws of people that an evaluation left; None if it drew none.

    Args:
        folder: the folder of the evaluation.
        result: its results.json.

    Raises:
        DataError: the file is gone, damaged, or of other results.
    """
    about = result.get("bootstrap") or {}
    if about.get("resampled") != "subjects":
        return None
    path = folder / "draws.npz"
    try:
        arrays = read_npz(path, REMEDY, ("eer", "fars", "tar"))
    except FileNotFoundError:
        raise DataError(f"{path}: is gone; {REMEDY}") from None
    # The draws of these results: as many, at these FARs, and with these percentiles.
    eer, fars, tar = (arrays.get(name, np.zeros(0)) for name in ("eer", "fars", "tar"))
    measured = [point["far"] for point in result["tar_at_far"] if point["tar"] is not None]
    bounds = result.get("eer_ci95")
    num_people = count if type(count := about.get("num_subjects")) is int else 0
    belongs = num_people > 0 and all(array.dtype.kind in "fiu" for array in (eer, fars, tar))
    belongs = belongs and eer.shape == (about["replicates"],) and fars.tolist() == measured
    belongs = belongs and tar.shape == (len(fars), len(eer)) and bool(np.isfinite(eer).all() and np.isfinite(tar).all())
    if belongs and result["eer"] > 0:
        belongs = bounds is not None and np.allclose(np.quantile(eer, (0.025, 0.975)), bounds, atol=1e-9, rtol=0)
    if not belongs:
        raise DataError(f"{folder / 'results.json'} and {path} do not belong together; {REMEDY}")
    return Draws(num_people, eer, dict(zip(measured, tar, strict=True)))


def check_same_set(results: Mapping[Path, Mapping[str, Any]], evaluation: Evaluation) -> None:
    """Refuses runs that were evaluated on another set, or with other draws of people: their differences mean nothing.

    Args:
        results: the results on one set, by folder.
        evaluation: how they were made.

    Raises:
        DataError: naming two that differ.
    """
    first: tuple[Path, list[Any]] | None = None
    for folder, result in results.items():
        about = (result.get("bootstrap") or {}) if evaluation.draws_people else {}
        key = [evaluation.set_of(result), *(about.get(name) for name in ("resampled", "seed", "replicates"))]
        first = first or (folder, key)
        if key != first[1]:
            is_other_set = key[0] != first[1][0]
            what = f"other {evaluation.set_text}" if is_other_set else "other draws of people (--bootstrap, --seed)"
            raise DataError(
                f"{folder / 'results.json'}: was evaluated with {what} than {first[0] / 'results.json'}; {REMEDY}"
            )
