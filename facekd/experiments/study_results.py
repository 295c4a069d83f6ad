"""Gathers the results of a study's runs: means over seeds, and paired differences with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facekd.experiments.study_config import Method, Run, Study
from facekd.files.reading import read_json
from facekd.training.logbook import read_log

RESULT_FORMAT, RESULT_VERSION = "facekd-study", 1
REMEDY = "delete results.json there and run the study again, which then evaluates this run again"
INTERVAL = (
    "95 % interval of the mean difference over seeds (Student's t, n - 1 degrees of freedom, paired by seed: same "
    "weights to start from where the networks are the same, same order of images). It covers what changes from one "
    "training to the next; the people and pairs evaluated on are the same throughout, so it does not cover them"
)


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean, and the sample's standard deviation (n - 1), or None in its place for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], lower_is_better: bool
) -> dict[str, Any] | None:
    """Returns method minus baseline over the seeds that both have; None if they share no seed.

    Args:
        values: values of the method by seed.
        baseline: values of the baseline by seed.
        lower_is_better: whether a lower value is better, to count the seeds in which the method is better.
    """
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean, std = mean_and_std(differences)
    interval = None
    if std is not None:
        from scipy import stats  # here: importing it takes half a second

        half = float(stats.t.ppf(0.975, len(seeds) - 1)) * std / math.sqrt(len(seeds))
        interval = [mean - half, mean + half]
    better = sum(difference < 0 if lower_is_better else difference > 0 for difference in differences)
    return {"n": len(seeds), "mean": mean, "ci95": interval, "better_in": better}


def gather(study: Study) -> dict[str, Any]:
    """Returns the content of `results.json`: every run evaluated so far, and the statistics over them."""
    # The results of each run; a run counts once all packs are evaluated.
    evaluated: dict[tuple[str, int], dict[str, Any]] = {}
    missing = []
    for run in study.runs:
        if not run.method.judge:
            continue
        found = {pack.name: read_verification(study, run, pack.name) for pack in study.packs}
        if all(found.values()):
            evaluated[run.method.name, run.seed] = found
        else:
            missing.append(run.title)
    rates = {
        (run.method.name, run.seed): rate for run in study.runs if (rate := images_per_second(run.folder)) is not None
    }
    # `reference` and `judged` are the names of the file format: the baseline, and whether a method is evaluated.
    return {
        "format": RESULT_FORMAT,
        "version": RESULT_VERSION,
        "title": study.title,
        "reference": study.reference,
        "seeds": list(study.seeds),
        "packs": [_describe_pack(study, pack.name, evaluated) for pack in study.packs],
        "interval": INTERVAL,
        "missing": missing,
        "methods": [_summarize(study, method, evaluated, rates) for method in study.methods.values()],
    }


def read_verification(study: Study, run: Run, pack: str) -> dict[str, Any] | None:
    """Returns the results of a run on a pack, or None if it has not been evaluated yet.

    Raises:
        DataError: the file is damaged.
    """
    path = verification_folder(study, run, pack) / "results.json"
    if not path.exists():
        return None
    return read_json(path, "the results of an evaluation", REMEDY, ("accuracy", "eer", "tar_at_far"))


def verification_folder(study: Study, run: Run, pack: str) -> Path:
    """Returns the folder with the results of a run on a pack."""
    return run.verification if len(study.packs) == 1 else run.verification / pack


def images_per_second(folder: Path) -> float | None:
    """Returns the median over the log lines of a training, which brief other work on the machine does not change."""
    rates = [entry["images_per_second"] for entry in read_log(folder, "train", ("images_per_second",))]
    return statistics.median(rates) if rates else None


def _describe_pack(study: Study, pack: str, evaluated: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    results = [found[pack] for found in evaluated.values()]
    if not results:
        return {"name": pack}
    first = results[0]
    return {
        "name": pack,
        **{key: first["pair_set"].get(key) for key in ("sha256", "num_subjects")},
        **{key: first[key] for key in ("num_genuine", "num_impostor")},
        "protocols": sorted({result["protocol"]["text"] for result in results}),
    }


def _summarize(
    study: Study,
    method: Method,
    evaluated: Mapping[tuple[str, int], dict[str, Any]],
    rates: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """Returns a method's entry in `results.json`: its cost, and per pack each measure over seeds."""
    summary: dict[str, Any] = {
        "name": method.name,
        "verb": method.verb or "none",
        "note": method.note,
        "judged": method.judge,
        "seeds": list(method.seeds),
        "cost": _cost(study, method, rates),
    }
    if not method.judge:
        return summary
    own = [result for (name, _), found in evaluated.items() if name == method.name for result in found.values()]
    summary["assumed"] = sorted({name for result in own for name in (result.get("model") or {}).get("assumed", ())})
    # For each pack the values by seed, their mean, and the difference to the baseline.
    summary["packs"] = {}
    for pack in study.packs:
        of_method = {seed: found[pack.name] for (name, seed), found in evaluated.items() if name == method.name}
        of_baseline = {seed: found[pack.name] for (name, seed), found in evaluated.items() if name == study.reference}
        if not of_method:
            continue
        is_compared = bool(method.verb) and method.name != study.reference

        def over_seeds(measure: Any, lower_is_better: bool = False) -> dict[str, Any] | None:
            values = {seed: measure(result) for seed, result in of_method.items()}  # noqa: B023 - called at once
            baselines = {seed: measure(result) for seed, result in of_baseline.items()}  # noqa: B023
            if None in (*values.values(), *baselines.values()):
                return None  # this FAR cannot be measured on this pack
            mean, std = mean_and_std(list(values.values()))
            difference = paired_difference(values, baselines, lower_is_better) if is_compared else None  # noqa: B023
            by_seed = {str(seed): value for seed, value in values.items()}
            return {"n": len(values), "mean": mean, "std": std, "values": by_seed, "difference": difference}

        first = next(iter(of_method.values()))
        summary["packs"][pack.name] = {
            "eer": over_seeds(lambda result: result["eer"], lower_is_better=True),
            "accuracy": over_seeds(lambda result: result["accuracy"]["mean"]),
            "tar_at_far": [
                {"far": point["far"], "tar": over_seeds(lambda result, number=number: _tar(result, number))}
                for number, point in enumerate(first["tar_at_far"])
            ],
        }
    return summary


def _tar(result: Mapping[str, Any], number: int) -> float | None:
    points = result["tar_at_far"]
    return points[number]["tar"] if number < len(points) else None


def _cost(study: Study, method: Method, rates: Mapping[tuple[str, int], float]) -> dict[str, Any] | None:
    """Returns the training speed of a method, also relative to the baseline with the same seed; None without logs."""
    own = {seed: rate for (name, seed), rate in rates.items() if name == method.name}
    if not own:
        return None
    relative = [rate / rates[study.reference, seed] for seed, rate in own.items() if (study.reference, seed) in rates]
    return {
        "images_per_second": {str(seed): rate for seed, rate in own.items()},
        "mean_images_per_second": statistics.fmean(own.values()),
        "relative_speed": statistics.fmean(relative) if relative else None,
        "relative_speed_by_seed": relative,
    }
