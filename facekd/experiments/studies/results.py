"""Gathers the results of a study's runs: means over seeds, and paired differences with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facekd.errors import DataError
from facekd.experiments.classifier_table import summarize_centres
from facekd.experiments.studies.comparison import (
    OVER_SEEDS,
    OVER_SEEDS_AND_PEOPLE,
    REMEDY,
    Draws,
    Values,
    check_same_set,
    compare,
    read_draws,
)
from facekd.experiments.studies.config import VERBS, Method, Run, Study
from facekd.experiments.studies.evaluation import Measure, main_of
from facekd.experiments.studies.external import External, read_external
from facekd.files.reading import read_json
from facekd.results.schema import check_result
from facekd.training.logbook import read_log

RESULT_FORMAT, RESULT_VERSION = "facekd-study", 1
FILES = ("results.md", "results.csv", "results.tex", "report.html")  # beside results.json and the figures
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
    # What others measured, on the sets that the runs were evaluated on.
    sets = next(iter(evaluated.values()), None)
    externals = {
        name: read_external(study, method, sets) for name, method in study.methods.items() if method.results and sets
    }
    measured = {pack.name: _measure(study, pack.name, evaluated, externals) for pack in study.packs}
    methods = []
    for method in study.methods.values():
        if method.results:
            methods.append(_summarize_external(method, externals.get(method.name), measured))
        else:
            methods.append(_summarize(study, method, evaluated, rates, measured))
    # `reference` and `judged` are the names of the file format: the baseline, and whether a method is evaluated.
    return {
        "format": RESULT_FORMAT,
        "version": RESULT_VERSION,
        "title": study.title,
        "reference": study.reference,
        "seeds": list(study.seeds),
        "evaluation": study.evaluation.verb,
        "packs": [_describe_pack(study, pack.name, evaluated) for pack in study.packs],
        "interval": OVER_SEEDS_AND_PEOPLE if _has_people(methods) else OVER_SEEDS.format(study.evaluation.held_fixed),
        "missing": missing,
        "methods": methods,
    }


def _has_people(methods: list[dict[str, Any]]) -> bool:
    """Tells whether intervals cover people: whether one of the main measure says so."""
    return any((main_of(method).get("difference") or {}).get("over") == "seeds and people" for method in methods)


def read_verification(study: Study, run: Run, pack: str) -> dict[str, Any] | None:
    """Returns the results of a run on a pack, or None if it has not been evaluated yet.

    Raises:
        DataError: the file is damaged.
    """
    path = verification_folder(study, run, pack) / "results.json"
    if not path.exists():
        return None
    result = read_json(path, "the results of an evaluation", REMEDY, study.evaluation.needed)
    check_result(path, result)
    if study.evaluation.measures[0].read(result) is None:
        raise DataError(f"{path}: damaged, it lacks the {study.evaluation.measures[0].title}; {REMEDY}")
    return result


def verification_folder(study: Study, run: Run, pack: str) -> Path:
    """Returns the folder with the results of a run on a pack."""
    return run.verification if len(study.packs) == 1 else run.verification / pack


def images_per_second(folder: Path) -> float | None:
    """Returns the median over the log lines of a training, which brief other work on the machine does not change."""
    rates = [entry["images_per_second"] for entry in read_log(folder, "train", ("images_per_second",))]
    return statistics.median(rates) if rates else None


def _describe_pack(study: Study, pack: str, evaluated: Evaluated) -> dict[str, Any]:
    results = [found[pack] for found in evaluated.values()]
    return {"name": pack, **(study.evaluation.describe(results) if results else {})}


def _measure(
    study: Study, pack: str, evaluated: Evaluated, externals: Mapping[str, External]
) -> dict[str, dict[str, Any]]:
    """Returns for each method its measures on one pack, over seeds and compared with the baseline."""
    results = {key: found[pack] for key, found in evaluated.items()}
    if not results:
        return {}
    folders = {key: verification_folder(study, study.run_of(*key), pack) for key in results}
    check_same_set({folders[key]: result for key, result in results.items()}, study.evaluation)
    draws: dict[tuple[str, int], Draws] = {}
    if study.evaluation.draws_people:
        read = {key: read_draws(folders[key], result) for key, result in results.items()}
        draws = {key: drawn for key, drawn in read.items() if drawn is not None}
    trained = [one.name for one in study.methods.values() if one.verb or one.results]
    compared = [name for name in trained if name != study.reference]
    num_people = next(iter(draws.values())).num_people if draws else None

    # One comparison of all methods for each measure; a TAR has a place of its own, below its FAR.
    others = [name for name, one in externals.items() if pack in one.values]
    found: dict[str, dict[str, Any]] = {name: {} for name in dict.fromkeys((*(name for name, _ in results), *others))}
    for measure in study.evaluation.measures_of(list(results.values())):
        values = _values_of(measure, results, draws)
        for name in others:
            if given := externals[name].of(pack, measure):
                values[name] = Values(dict(enumerate(given, start=1)), {}, are_seeds=False)
        by_method = compare(values, study.reference, compared, num_people, measure.lower_is_better)
        for name, entry in found.items():
            if measure.far is None:
                entry[measure.metric] = by_method.get(name)
            else:
                entry.setdefault("tar_at_far", []).append({"far": measure.far, "tar": by_method.get(name)})
    return found


def _values_of(
    measure: Measure, results: Mapping[tuple[str, int], Mapping[str, Any]], draws: Mapping[tuple[str, int], Draws]
) -> dict[str, Values]:
    """Returns the values of each method by one measure; without a method that lacks one, as at a FAR too small."""
    values = {}
    for name in dict.fromkeys(name for name, _ in results):
        own = {seed: measure.read(result) for (other, seed), result in results.items() if other == name}
        if None in own.values():
            continue
        drawn = {seed: one.of(measure) for (other, seed), one in draws.items() if other == name}
        in_draws = {seed: rows for seed, rows in drawn.items() if rows is not None}
        values[name] = Values({seed: value for seed, value in own.items() if value is not None}, in_draws)
    return values


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


def _summarize_external(
    method: Method, external: External | None, measured: Mapping[str, dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Returns the same of a method that was not trained in the study; without measures while no run is evaluated."""
    summary: dict[str, Any] = {"name": method.name, "verb": "results", "note": method.note, "judged": True, "seeds": []}
    summary |= {"cost": None, "images": None, "centres": None}
    if external is None:
        return summary
    files = [str(path) for path in external.files]
    unused = sorted(external.unused)
    return {
        **summary,
        "results": {"path": method.results, "files": files, "by_facekd": external.by_facekd, "unused": unused},
        "assumed": sorted(external.assumed),
        "packs": {pack: found[method.name] for pack, found in measured.items() if method.name in found},
    }


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
