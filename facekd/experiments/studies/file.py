"""Defines the YAML file of a study and turns it into a `Study`, checking what concerns more than one key."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from facekd.commands.config_files import parse_config, path_field, require
from facekd.commands.config_help import show_short_help
from facekd.commands.open_sections import flatten
from facekd.commands.suggestions import did_you_mean
from facekd.errors import ConfigError
from facekd.experiments.studies.config import FILES_MADE, SET_BY_STUDY, VERBS, Method, Pack, Study
from facekd.experiments.studies.evaluation import CLASSIFICATION, PEOPLE, Evaluation
from facekd.plugins import refuse_plugins
from facekd.utils.foreign import shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DESCRIPTION = "Trains methods x seeds on one data set under one protocol, and reports."
MAIN_KEYS = {
    "output": "folder of everything; the same command resumes it",
    "seeds": "seeds of every method that names none",
    "only": "names of methods; the others are left out, but those that these and the reference need",
    "jobs": "runs at the same time",
    "threads": "computing threads of each run [the cores over the jobs]",
    "report_only": "report what is there, run nothing",
    "power": "print how many seeds and people show a difference, from what is there",
    "difference": "points that two methods truly differ, for power",
}
EPILOG = """\
example:
  facekd study configs/study/generated_faces.yaml --jobs 2
  facekd study configs/study/generated_faces.yaml --dry-run   # tries each training, tells the hours, leaves no run
  facekd study configs/study/generated_faces.yaml --power --difference 0.5
  facekd study configs/study/generated_faces.yaml --base.data.workers 2 --methods.th_kd.config.loss.kl 2   # single keys
  facekd study configs/study/generated_faces.yaml --only '[th_kd, l2]'   # with what they need, and the reference

CONFIG.yaml
  output: runs/study
  seeds: [0, 1, 2]
  reference: alone
  base: {data: {train: ...}, ...}
  prepare: ["cache-teacher teacher.onnx --data ... --output {study}/teacher.cache"]
  people: synthetic:1000x20:7            all pairs of people; or a folder of people, or a pack of records (.rec)
  evaluate: {fars: [1e-2, 1e-3]}         options of `facekd evaluate folder`
  methods:
    teacher:  {verb: train, seeds: [0], config: {...}}       trained once
    alone:    {verb: train}
    longer:   {verb: train, budget: th_kd}     a control: trained on as many images as all stages of th_kd together
    th_kd:    {verb: distill, config: {teacher.model: "{teacher}", share: 1}}
    means:    {verb: rebuild-head, config: {model: "{alone}", power: 0.25}}              its class means, to share
    cache:    {verb: cache-teacher, config: {model: "{teacher}"}}     its embeddings, for teacher.cache of several
    under:    {verb: train, judge: false, config: {shared_head: "{means}"}}
    external: {model: teacher.onnx, evaluate: {mean: 127.5, std: 127.5}}                 evaluated, not trained
    theirs:   {results: theirs.json}                           neither: another program's values (docs/results.md)

In place of people a file may have verification packs, evaluated by `facekd evaluate lfw`:
  packs: [{pairs: test.bin, names: test_pairs.txt}]
  evaluate: {folds: 10, fars: [1e-1, 1e-2], flip: true}
Far more of the difference between two methods shows on all pairs than on a pack drawn from the same people, and only
with people do the intervals cover other people as well as other seeds.

Classifiers (head.kind: linear) are compared by top-1, top-5 and the mean over classes:
  classification: data/cifar10           what `facekd evaluate classification --data` takes, often that of data.train
  evaluate: {workers: 0}

In a value, {teacher} is the folder of that method's run with the same seed, or of its only run; {teacher@0} is the run
with seed 0; {study} is the output folder. A method may also have recipe: FILE.yaml (which config
overrides), judge: false (trained, not evaluated), note: TEXT.

Runs go seed by seed, so that a study in progress compares all methods. What it leaves in the output folder:
  runs/METHOD/seed-N/   the run, output.log, model.onnx, verification/
  results.json          per method and pack: mean, standard deviation, every value, paired differences with intervals
  results.md, .csv, .tex   the same as tables, for spreadsheets to the last digit, for papers
  report.html           one page, with the pictures inside; they are also beside it, as .svg and .pdf
"""


@dataclass(frozen=True)
class PackFile:
    """Names a verification pack.

    Args:
        pairs: the .bin file.
        names: the list the pack was made from; empty if there is none.
    """

    pairs: str = path_field(MISSING)
    names: str | None = path_field()


@dataclass(frozen=True)
class MethodFile:
    """Describes a method: a training, or a model that exists already.

    Args:
        verb: train or distill; rebuild-head computes the class means of `config.model` for others to share, and
            cache-teacher its embeddings, for `teacher.cache` of others; empty for a model that exists already.
        recipe: a YAML file that `config` overrides.
        config: keys of the verb, in sections or dotted.
        seeds: seeds of this method, in place of the study's.
        judge: whether the runs are exported and evaluated.
        note: a few words for the report.
        model: an ONNX file or checkpoint that is evaluated beside the runs, not trained.
        results: a file or folder of results, facekd's or another program's, that stand beside the runs as they are.
        evaluate: options of the evaluation for this method alone.
        budget: a method; this one is trained on as many images as all stages of that one together.
    """

    verb: Literal["train", "distill", "rebuild-head", "cache-teacher", ""] = ""
    recipe: str | None = path_field()
    config: dict[str, Any] | None = None
    seeds: tuple[int, ...] | None = None
    judge: bool = True
    note: str | None = ""
    model: str | None = path_field()
    results: str | None = path_field()
    evaluate: dict[str, Any] | None = None
    budget: str | None = ""


@dataclass(frozen=True)
class StudyFile:
    """Describes a study: methods x seeds on one data set under one protocol.

    Args:
        output: the folder of everything.
        title: title of the report; the folder's name by default.
        seeds: seeds of every method that names none of its own.
        reference: the baseline that methods are compared with; usually the student trained alone.
        base: keys of `facekd train` for every run, in sections or dotted.
        prepare: `facekd` commands to run first, without the word facekd.
        packs: verification packs to evaluate on; a name, or pairs and names.
        people: in place of packs a set of people whose pairs are all compared: a folder, a pack of records, or
            synthetic:PEOPLExIMAGES:SEED.
        classification: in place of both images to classify: CIFAR's folder, or one with train/ and val/ or test/.
        evaluate: options of `facekd evaluate lfw`, for people of `facekd evaluate folder`, for images to classify of
            `facekd evaluate classification`.
        methods: the methods by name, in the order of the report.
        only: names of methods; the study and its report are of them, the reference, and those that they need. Empty
            for all.
        jobs: number of runs at once.
        threads: computing threads of each run; null shares the cores among the jobs.
        report_only: report what is there, run nothing.
        power: print how many seeds and people show a difference, from the variances of what is there; run nothing.
        difference: the true difference of two methods for `power`, in points.
    """

    output: str = path_field()
    title: str | None = ""
    seeds: tuple[int, ...] = ()
    reference: str = ""
    base: dict[str, Any] | None = None
    prepare: tuple[str, ...] | None = ()
    packs: tuple[str | PackFile, ...] = field(default=(), metadata={"entries": PackFile, "path": True})
    people: str | None = path_field()
    classification: str | None = path_field()
    evaluate: dict[str, Any] | None = None
    methods: dict[str, MethodFile] = field(default_factory=dict, metadata={"entries": MethodFile})
    only: tuple[str, ...] = ()
    jobs: int = 1
    threads: int | None = None
    report_only: bool = False
    power: bool = False
    difference: float = 0.5

    def __post_init__(self) -> None:
        require(bool(self.output), "output is empty: name the folder of the study, `output: runs/study`")
        require(bool(self.methods), "methods is empty: name what to compare, see `facekd study --help`")
        require(self.jobs >= 1, f"jobs {self.jobs}: give at least 1")
        require(
            math.isfinite(self.difference) and 0 < self.difference <= 100,
            f"difference {self.difference}: give points, above 0 and up to 100",
        )
        require(self.threads is None or self.threads >= 1, f"threads {self.threads}: give at least 1")


def parse_study(words: Sequence[str]) -> StudyFile:
    """Reads the command line of `facekd study`.

    Raises:
        ConfigError: a bad file, a key that does not exist, or a value of the wrong type.
    """
    # Switches without a value, as options of other verbs are.
    switches = {"--report-only": "--report_only=true", "--power": "--power=true"}
    words = [switches.get(word, word) for word in words]
    words = show_short_help(words, StudyFile, "facekd study", DESCRIPTION, MAIN_KEYS, EPILOG)
    return parse_config(StudyFile, words, "facekd study", DESCRIPTION, EPILOG)


def load_study(path: str | Path, output: str | None = None) -> Study:
    """Reads and checks the file of a study.

    Args:
        path: a YAML file.
        output: folder in place of the one in the file.
    """
    return make_study(parse_study([str(path), *(("--output", output) if output else ())]))


def make_study(file: StudyFile) -> Study:
    """Checks what a study's file says and resolves its defaults.

    Raises:
        ConfigError: a value that cannot be, a method that does not exist, or methods that depend on each other.
    """
    _check_seeds(file.seeds, "seeds")
    packs = _packs(file)
    evaluation = packs[0].evaluation
    methods = {name: _method(name, method, file.seeds, evaluation) for name, method in file.methods.items()}
    study = Study(
        output=Path(file.output),
        title=file.title or Path(file.output).name,
        seeds=file.seeds,
        reference=_reference(file.reference, methods),
        base=flatten(file.base or {}),
        prepare=_prepare(file),
        packs=packs,
        evaluate={**evaluation.options, **_evaluate(file.evaluate, "evaluate", evaluation)},
        methods=methods,
    )
    if file.only:
        study = replace(study, methods=_only(study, (*file.only, study.reference)))
    _check_training_keys(study)
    _ = study.runs  # raises an error for unknown references and circles
    _check_budgets(study)
    return study


def _prepare(file: StudyFile) -> tuple[str, ...]:
    """Returns the commands to run first, which a shell could take apart."""
    for number, command in enumerate(file.prepare or (), start=1):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"prepare {number} is '{shown(command)}': {str(error).lower()}") from error
        refuse_plugins(words, f"prepare {number}")
        if not words:
            raise ConfigError(f"prepare {number} is empty: write a command without the word facekd, or leave it out")
    return file.prepare or ()


def _check_seeds(seeds: tuple[int, ...], where: str) -> None:
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"{where}: expected a list of whole numbers from 0, such as [0, 1, 2], found {list(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: {list(seeds)} names a seed twice, and the same seed gives the same run")


def _method(name: str, file: MethodFile, seeds: tuple[int, ...], evaluation: Evaluation) -> Method:
    where = f"methods.{name}"
    if not NAME.fullmatch(name) or name == "study":
        raise ConfigError(f"{where}: a method is named by letters, digits, - _ and ., and not 'study'")
    if file.model and (file.verb or file.config or file.recipe):
        raise ConfigError(f"{where}: a model that exists already is not trained: leave out verb, config and recipe")
    if file.results:
        return _method_of_results(name, file)
    if not file.model and not file.verb:
        raise ConfigError(f"{where}.verb: expected train or distill, found {file.verb!r}")
    if file.verb in FILES_MADE and file.recipe:
        raise ConfigError(f"{where}.recipe: {file.verb} takes no configuration file; name its options in config")
    config = flatten(file.config or {})
    refuse_plugins((f"--{key}" for key in config), f"{where}.config")
    # A model that exists already counts as one run with seed 0.
    if file.seeds is not None:
        _check_seeds(file.seeds, f"{where}.seeds")
    return Method(
        name=name,
        verb=file.verb,
        recipe=file.recipe or "",
        config=config,
        seeds=(0,) if file.model else seeds if file.seeds is None else file.seeds,
        judge=file.judge and file.verb not in FILES_MADE,  # neither is a model to evaluate
        note=file.note or "",
        model=file.model or "",
        evaluate=_evaluate(file.evaluate, f"{where}.evaluate", evaluation),
        budget=file.budget or "",
    )


def _method_of_results(name: str, file: MethodFile) -> Method:
    keys = ("verb", "recipe", "config", "seeds", "model", "evaluate", "budget")
    given = [key for key in keys if getattr(file, key)] + ([] if file.judge else ["judge"])
    if given:
        raise ConfigError(f"methods.{name}: results are shown as they are, nothing runs: leave out {given[0]}")
    return Method(
        name=name,
        verb="",
        recipe="",
        config={},
        seeds=(),  # so that there are no runs
        judge=True,
        note=file.note or "",
        model="",
        evaluate={},
        results=file.results or "",
    )


def _reference(name: str, methods: Mapping[str, Method]) -> str:
    if name not in methods or methods[name].model or methods[name].results or not methods[name].judge:
        raise ConfigError(
            f"reference: {name!r} is not a method that is trained and evaluated{did_you_mean(name, methods) or '.'} "
            "Name the baseline that the others are compared with, the student trained alone. "
            f"There are {', '.join(methods)}"
        )
    return name


def _only(study: Study, names: Sequence[str]) -> dict[str, Method]:
    """Returns some methods and those whose runs they refer to, directly or not, in the order of the file."""
    methods, found, waiting = study.methods, set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in methods:
            raise ConfigError(
                f"only: {name!r} is no method{did_you_mean(name, methods) or '.'} There are {', '.join(methods)}"
            )
        if name not in found:
            found.add(name)
            method = methods[name]
            waiting += [run.method.name for seed in method.seeds for run in study.needed_by(method, seed)]
            waiting += [method.budget] if method.budget in methods else []  # others are refused with the rest
    return {name: method for name, method in methods.items() if name in found}


def _packs(file: StudyFile) -> tuple[Pack, ...]:
    """Returns what the runs are evaluated on, which one of three keys names."""
    sets = [(one, place) for one, place in ((PEOPLE, file.people), (CLASSIFICATION, file.classification)) if place]
    if len(sets) + bool(file.packs) > 1:
        raise ConfigError(
            f"{sets[0][0].key}: a study compares methods on packs, on all pairs of people, or on images to classify; "
            "name one of the three"
        )
    if sets:
        return (Pack(sets[0][1].replace("{study}", file.output), evaluation=sets[0][0]),)
    if not file.packs:
        raise ConfigError(
            "packs: expected a list such as [{pairs: test.bin, names: test_pairs.txt}]; or give people, a set of whom "
            "all pairs are compared, or classification, images to classify"
        )
    # A plain name is a pack without a list.
    packs = []
    for one in file.packs:
        pairs, names = (one, "") if isinstance(one, str) else (one.pairs, one.names or "")
        packs.append(Pack(pairs.replace("{study}", file.output), names.replace("{study}", file.output)))
    found = [pack.name for pack in packs]
    if len(set(found)) < len(found):
        raise ConfigError(f"packs: results go by file name, and two are the same ({', '.join(found)}); rename one")
    return tuple(packs)


def _evaluate(options: dict[str, Any] | None, where: str, evaluation: Evaluation) -> dict[str, Any]:
    """Returns options spelt as on the command line; `Study.check_evaluation` has the verb check them."""
    spelt = {key.replace("_", "-"): value for key, value in (options or {}).items()}
    refuse_plugins((f"--{key}" for key in spelt), where)
    for key in SET_BY_STUDY:
        if key in spelt:
            raise ConfigError(f"{where}.{key}: the study sets it; see `{evaluation.key}`, `methods` and --threads")
    for key, why in evaluation.refused.items():
        if key in spelt:
            raise ConfigError(f"{where}.{key}: {why}")
    return spelt


def _check_training_keys(study: Study) -> None:
    sections = {"base": study.base, **{f"methods.{name}.config": one.config for name, one in study.methods.items()}}
    for name, values in sections.items():
        for key in ("seed", "output"):
            if key in values:
                raise ConfigError(f"{name}.{key}: the study sets it; see `seeds` and `output`")


def _check_budgets(study: Study) -> None:
    """Refuses a budget that is none, or that would depend on itself."""
    for method in (method for method in study.methods.values() if method.budget):
        where = f"methods.{method.name}.budget"
        other = study.methods.get(method.budget)
        if method.verb not in VERBS or other is None or other.verb not in VERBS:
            trained = [name for name, one in study.methods.items() if one.verb in VERBS]
            meant = did_you_mean(method.budget, trained) or "."
            raise ConfigError(
                f"{where}: {method.budget!r} is not a method that is trained{meant} There are {', '.join(trained)}"
            )
        if given := [key for key in ("images", "epochs") if key in method.config]:
            raise ConfigError(f"{where}: its length is that of {other.name}; leave out {given[0]} of its config")
        for stage in study.stages_of(study.run_of(other.name, other.seeds[0])):
            if stage.method.budget:
                raise ConfigError(
                    f"{where}: {stage.title} of {other.name} has a budget itself; name a method without one"
                )
