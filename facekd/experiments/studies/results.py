"""Gathers the results of a study's runs: means over seeds, and paired differences with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facekd.experiments.classifier_table import summarize_centres
from facekd.experiments.studies.comparison import (
    OVER_SEEDS,
    OVER_SEEDS_AND_PEOPLE,
    REMEDY,
    Draws,
    Values,
    check_same_people,
    compare,
    read_draws,
)
from facekd.experiments.studies.config import VERBS, Method, Run, Study
from facekd.files.reading import read_json
from facekd.training.logbook import read_log

RESULT_FORMAT, RESULT_VERSION = "facekd-study", 1
Evaluated = Mapping[tuple[str, int], dict[str, Any]]  # by method and seed: for each pack its results


def gather(study: Study) -> dict[str, Any]:
    """Returns the content of `results.json`: every run evaluated so far, and the statistics over them."""
    # The results of each run; a run counts once all packs are evaluated.
    evaluated: dict[tuple[str, int], dict[str, Any]] = {}
    missing: list[str] = []
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
    measured = {pack.name: _measure(study, pack.name, evaluated) for pack in study.packs}
    # `reference` and `judged` are the names of the file format: the baseline, and whether a method is evaluated.
    return {
        "format": RESULT_FORMAT,
        "version": RESULT_VERSION,
        "title": study.title,
        "reference": study.reference,
        "seeds": list(study.seeds),
        "packs": [_describe_pack(study, pack.name, evaluated) for pack in study.packs],
        "interval": OVER_SEEDS_AND_PEOPLE if _has_people(measured) else OVER_SEEDS,
        "missing": missing,
        "methods": [_summarize(study, method, evaluated, rates, measured) for method in study.methods.values()],
    }


def _has_people(measured: Mapping[str, Any]) -> bool:
    """Tells whether intervals cover people: whether one of the EERs says so."""
    differences = [one["eer"]["difference"] for found in measured.values() for one in found.values()]
    return any(one is not None and one["over"] == "seeds and people" for one in differences)


def read_verification(study: Study, run: Run, pack: str) -> dict[str, Any] | None:
    """Returns the results of a run on a pack, or None if it has not been evaluated yet.

    Raises:
        DataError: the file is damaged.
    """
    path = verification_folder(study, run, pack) / "results.json"
    if not path.exists():
        return None
    of_pack = next(one for one in study.packs if one.name == pack)
    keys = ("eer", "tar_at_far", *(("set_sha256", "num_people") if of_pack.is_people else ("accuracy", "pair_set")))
    return read_json(path, "the results of an evaluation", REMEDY, keys)


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
    about = first.get("pair_set") or {"sha256": first.get("set_sha256"), "num_subjects": first.get("num_people")}
    return {
        "name": pack,
        **{key: about.get(key) for key in ("sha256", "num_subjects")},
        **{key: first[key] for key in ("num_genuine", "num_impostor")},
        "protocols": sorted({result["protocol"]["text"] for result in results}),
    }


def _measure(study: Study, pack: str, evaluated: Evaluated) -> dict[str, dict[str, Any]]:
    """Returns for each method its measures on one pack, over seeds and compared with the baseline."""
    results = {key: found[pack] for key, found in evaluated.items()}
    draws: dict[tuple[str, int], Draws] = {}
    if next(one for one in study.packs if one.name == pack).is_people:
        folders = {key: verification_folder(study, study.run_of(*key), pack) for key in results}
        check_same_people({folders[key]: result for key, result in results.items()})
        for key, result in results.items():
            if (drawn := read_draws(folders[key], result)) is not None:
                draws[key] = drawn
    compared = [one.name for one in study.methods.values() if one.verb and one.name != study.reference]
    num_people = next(iter(draws.values())).num_people if draws else None

    def over_seeds(
        measure: Callable[[dict[str, Any]], float | None],
        drawn: Callable[[Draws], Any] = lambda _: None,
        lower: bool = False,
    ) -> dict[str, dict[str, Any]]:
        values: dict[str, Values] = {}
        for name in dict.fromkeys(name for name, _ in results):
            own = {seed: measure(result) for (other, seed), result in results.items() if other == name}
            if None in own.values():
                continue  # this FAR cannot be measured on this pack
            in_draws = {seed: drawn(one) for (other, seed), one in draws.items() if other == name}
            in_draws = {seed: rows for seed, rows in in_draws.items() if rows is not None}
            values[name] = Values({seed: value for seed, value in own.items() if value is not None}, in_draws)
        return compare(values, study.reference, compared, num_people, lower)

    # One comparison of all methods for each measure.
    fars = [point["far"] for point in next(iter(results.values()))["tar_at_far"]] if results else []
    eers = over_seeds(lambda result: result["eer"], lambda one: one.eer, lower=True)
    accuracies = over_seeds(lambda result: result["accuracy"]["mean"] if "accuracy" in result else None)
    tars = [
        over_seeds(lambda result, far=far: _tar(result, far), lambda one, far=far: one.tar.get(far)) for far in fars
    ]
    return {
        name: {
            "eer": eers[name],
            "accuracy": accuracies.get(name),
            "tar_at_far": [{"far": far, "tar": found.get(name)} for far, found in zip(fars, tars, strict=True)],
        }
        for name in eers
    }


def _summarize(
    study: Study,
    method: Method,
    evaluated: Evaluated,
    rates: Mapping[tuple[str, int], float],
    measured: Mapping[str, dict[str, dict[str, Any]]],
) -> dict[str, Any]:
    """Returns a method's entry in `results.json`: its cost, and per pack each measure over seeds."""
    summary: dict[str, Any] = {
        "name": method.name,
        "verb": method.verb or "none",
        "note": method.note,
        "judged": method.judge,
        "seeds": list(method.seeds),
        "cost": _cost(study, method, rates),
        "images": _images(study, method),
        "centres": summarize_centres({seed: study.run_of(method.name, seed).folder for seed in method.seeds}),
    }
    if not method.judge:
        return summary
    own = [result for (name, _), found in evaluated.items() if name == method.name for result in found.values()]
    summary["assumed"] = sorted({name for result in own for name in (result.get("model") or {}).get("assumed", ())})
    summary["packs"] = {pack: found[method.name] for pack, found in measured.items() if method.name in found}
    return summary


def _tar(result: Mapping[str, Any], far: float) -> float | None:
    return next((point["tar"] for point in result["tar_at_far"] if point["far"] == far), None)


def _images(study: Study, method: Method) -> dict[str, Any] | None:
    """Returns how many images a method was trained on, by itself and with the stages it needs; None without logs."""
    for seed in method.seeds if method.verb in VERBS else ():
        run = study.run_of(method.name, seed)
        seen = {stage.method.name: _images_seen(stage.folder) for stage in study.stages_of(run)}
        own = seen[method.name]
        if own is not None:
            known = {name: number for name, number in seen.items() if number is not None}
            return {
                "own": own,
                "all_stages": sum(known.values()) if len(known) == len(seen) else None,
                "by_stage": known,
            }
    return None


def _images_seen(folder: Path) -> int | None:
    entries = read_log(folder, "train", ("images_seen",))
    return int(entries[-1]["images_seen"]) if entries else None


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
