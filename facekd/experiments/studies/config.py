"""Expands a study into the runs and commands it consists of.

In values of the study's file, `{teacher}` means the run of that method with the same seed, or its only run;
`{teacher@0}` means the run with seed 0; `{study}` means the output folder.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.config_files import expand_path, parse_config, protect_path
from facekd.commands.suggestions import did_you_mean
from facekd.errors import ConfigError
from facekd.experiments.command_runner import Step, as_config_options, as_word
from facekd.experiments.studies.evaluation import CLASSIFICATION, PACKS, Evaluation

if TYPE_CHECKING:
    from facekd.training.config import TrainConfig

VERBS = ("train", "distill")
# Methods that make a file of another one's model for others to use, and the file's name: a classifier of class means,
# and a teacher's embeddings.
FILES_MADE = {"rebuild-head": "head.pt", "cache-teacher": "teacher.cache"}
# Options of the evaluation that no file may give.
SET_BY_STUDY = ("model", "pairs", "names", "images", "data", "output", "threads")
REFERENCE = re.compile(r"(?<!\$)\{([A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(\d+))?\}")


@dataclass(frozen=True)
class Pack:
    """Names what runs are evaluated on: a verification pack, a set of people, or images to classify.

    Args:
        pairs: the `.bin` file, or else what the evaluation's option takes.
        names: the list the pack was made from; empty if there is none.
        evaluation: how models are evaluated on it.
    """

    pairs: str
    names: str = ""
    evaluation: Evaluation = PACKS

    @property
    def name(self) -> str:
        """Returns the name under which results on this pack are kept."""
        return Path(self.pairs).stem or "data"


@dataclass(frozen=True)
class Method:
    """Describes one method, a row of the table.

    Args:
        name: name of the row and of the folder.
        verb: train, distill, rebuild-head or cache-teacher; empty for a model that exists already.
        recipe: a YAML file that `config` overrides.
        config: dotted keys and their values.
        seeds: seeds the method is run with.
        judge: whether its runs are exported and evaluated; a teacher in the middle of SH-KD need not be.
        note: a few words for the report.
        model: an ONNX file or checkpoint that is evaluated beside the runs, not trained.
        evaluate: options of that evaluation for this method alone.
        budget: a method; this one is trained on as many images as all stages of that one together. Empty for none.
        results: a file or folder of results that are shown as they are, of a method that is no part of the study.
    """

    name: str
    verb: str
    recipe: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    judge: bool
    note: str
    model: str
    evaluate: dict[str, Any]
    budget: str = ""
    results: str = ""


@dataclass(frozen=True)
class Run:
    """Stands for one method with one seed (0 for a model that exists already)."""

    method: Method
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """Returns the title of the run, such as `th_kd, seed 3`."""
        return self.method.name if self.method.model else f"{self.method.name}, seed {self.seed}"

    @property
    def verification(self) -> Path:
        """Returns the folder that `facekd evaluate` writes into."""
        return self.folder / "verification"


@dataclass(frozen=True)
class Study:
    """Describes a study: methods x seeds on one data set under one protocol.

    Args:
        output: the folder of everything.
        title: title of the report.
        seeds: seeds of every method that names none of its own.
        reference: the baseline that methods are compared with; usually the student trained alone.
        base: dotted keys of every run.
        prepare: `facekd` commands to run first, without the word facekd.
        packs: packs that models are evaluated on, or one set of people or of images.
        evaluate: options of the evaluation.
        methods: methods by name, in the order of the report.
    """

    output: Path
    title: str
    seeds: tuple[int, ...]
    reference: str
    base: dict[str, Any]
    prepare: tuple[str, ...]
    packs: tuple[Pack, ...]
    evaluate: dict[str, Any]
    methods: dict[str, Method]

    @property
    def evaluation(self) -> Evaluation:
        """Returns how the runs are evaluated."""
        return self.packs[0].evaluation

    @property
    def runs(self) -> list[Run]:
        """Returns every run, seed by seed so that a study in progress compares all methods; teachers go first."""
        # The study's seeds come first, then those that single methods add.
        found: dict[tuple[str, int], Run] = {}
        seeds = dict.fromkeys(seed for method in self.methods.values() for seed in method.seeds)
        for seed in dict.fromkeys((*self.seeds, *seeds)):
            for method in self.methods.values():
                if seed in method.seeds:
                    self._add_with_needed(method, seed, found, ())
        return list(found.values())

    def run_of(self, name: str, seed: int) -> Run:
        """Returns the run of a method with a seed."""
        method = self.methods[name]
        folder = self.output / "runs" / name
        return Run(method, seed, folder if method.model else folder / f"seed-{seed}")

    def _add_with_needed(
        self, method: Method, seed: int, found: dict[tuple[str, int], Run], path: tuple[str, ...]
    ) -> None:
        """Adds a run to `found`, after the runs it refers to; `path` names the methods that led here."""
        if method.name in path:
            circle = " -> ".join((*path[path.index(method.name) :], method.name))
            raise ConfigError(f"methods: {circle} go round in a circle; one of them must do without the other")
        if (method.name, seed) in found:
            return
        for run in self.needed_by(method, seed):
            self._add_with_needed(run.method, run.seed, found, (*path, method.name))
        found[method.name, seed] = self.run_of(method.name, seed)

    def needed_by(self, method: Method, seed: int) -> list[Run]:
        """Returns the runs that a run refers to."""
        values = [*self.base.values(), *method.config.values(), method.recipe]
        texts = [value for value in values if isinstance(value, str)]
        found = {}
        for match in (match for text in texts for match in REFERENCE.finditer(text)):
            if match[1] != "study":
                found[match[0]] = self._referred(match, method, seed)
        return list(found.values())

    def stages_of(self, run: Run) -> list[Run]:
        """Returns the trainings that a run is the last of: those it refers to, and those they refer to, each once."""
        found: dict[tuple[str, int], Run] = {}
        self._add_with_needed(run.method, run.seed, found, ())
        return [stage for stage in found.values() if stage.method.verb in VERBS]

    def _budget_of(self, run: Run) -> int:
        """Returns how many images all stages of the method that `budget` names are trained on.

        Raises:
            ConfigError: the length of a stage is not given in images.
        """
        other = self.methods[run.method.budget]
        stages = self.stages_of(self.run_of(other.name, run.seed if run.seed in other.seeds else other.seeds[0]))
        images = {stage.title: int(self._parsed(stage).images) for stage in stages}
        if lacking := [title for title, number in images.items() if not number]:
            raise ConfigError(
                f"methods.{run.method.name}.budget: {lacking[0]} has its length in epochs; give `images`, so that the "
                "images of all stages can be added up"
            )
        return sum(images.values())

    def _parsed(self, run: Run) -> TrainConfig:
        """Parses the command of a run as its verb will; an error names the method."""
        from facekd.training.config import TrainConfig
        from facekd.training.config.distill_config import DistillConfig

        verb, *words = self.words_of(run)
        try:
            return parse_config({"train": TrainConfig, "distill": DistillConfig}[verb], words, f"facekd {verb}", "")
        except ConfigError as error:
            raise ConfigError(f"methods.{run.method.name}: {error}") from error

    def _referred(self, match: re.Match[str], method: Method, seed: int) -> Run:
        """Returns the run that a reference such as `{teacher@0}` means, in a value of `method` with `seed`."""
        name, wanted = match[1], match[2]
        where = f"methods.{method.name}: {match[0]}"
        other = self.methods.get(name)
        if other is None:
            meant = did_you_mean(name, self.methods) or "."
            raise ConfigError(f"{where} names no method{meant} There are {', '.join(self.methods)}")
        if other.results:
            raise ConfigError(f"{where} names results alone, which no method can learn from")
        if other.model:
            return self.run_of(name, 0)
        # The seed named after @; else that of its only run; else the seed of the run that refers to it.
        number = int(wanted) if wanted is not None else other.seeds[0] if len(other.seeds) == 1 else seed
        if number not in other.seeds:
            seeds = ", ".join(map(str, other.seeds))
            raise ConfigError(f"{where} asks for seed {number}, but {name} runs with {seeds}; write {{{name}@SEED}}")
        return self.run_of(name, number)

    def fill_in(self, text: str, method: Method, seed: int, write: Callable[[str], str] = str) -> str:
        """Replaces `{method}`, `{method@seed}` and `{study}` by folders; a model that exists already by its file.

        Args:
            text: a value of a method's config.
            method: the method.
            seed: the seed of its run.
            write: writes the path of a folder or file as its reader expects it.
        """

        def replace(match: re.Match[str]) -> str:
            is_study = match[1] == "study"
            return write(str(self.output) if is_study else self.model_of(self._referred(match, method, seed)))

        return REFERENCE.sub(replace, text)

    def model_of(self, run: Run) -> str:
        """Returns the path of a model: the folder of a run, the file that it makes, or that of a model given."""
        if run.method.verb in FILES_MADE:
            return str(run.folder / FILES_MADE[run.method.verb])
        return run.method.model.replace("{study}", str(self.output)) or str(run.folder)

    def words_of(self, run: Run) -> list[str]:
        """Returns the command of a run, without `facekd`."""
        method = run.method
        if method.verb in FILES_MADE:
            return self._words_of_maker(run)
        # What comes later overrides: base, the method's own keys, and what the study sets itself.
        values = {**self.base, **method.config, "seed": run.seed, "output": run.folder}
        if method.budget:
            values = {key: value for key, value in values.items() if key != "epochs"}
            values["images"] = self._budget_of(run)
        filled = {
            key: self.fill_in(value, method, run.seed, protect_path) if isinstance(value, str) else value
            for key, value in values.items()
        }
        recipe = [self.fill_in(method.recipe, method, run.seed)] if method.recipe else []
        return [method.verb, *recipe, *as_config_options(filled)]

    def _words_of_maker(self, run: Run) -> list[str]:
        """Returns the command of a method that makes a file; it embeds the data that the study trains on."""
        method = run.method
        read = {key: self.base[f"data.{key}"] for key in ("on_bad_record", "resize") if f"data.{key}" in self.base}
        options = {"data": self.base.get("data.train", ""), **read, **method.config, "output": self.model_of(run)}
        model = str(options.pop("model", ""))
        if not model:
            raise ConfigError(f"methods.{method.name}.config.model: name the model that embeds, such as {{alone}}")
        filled = self.fill_in(model, method, run.seed, protect_path)
        words = [method.verb, expand_path(filled, f"methods.{method.name}")]
        for key, value in options.items():
            option = f"--{key.replace('_', '-')}"
            if isinstance(value, bool):
                words += [option if value else f"--no-{option[2:]}"]
            else:
                text = self.fill_in(as_word(value), method, run.seed, protect_path)
                words += [option, text if key == "output" else expand_path(text, f"methods.{method.name}.config.{key}")]
        return words

    def steps(self, threads: int | None = None) -> list[Step]:
        """Returns all steps: prepare, then for each run train or distil, export, evaluate.

        Args:
            threads: computing threads of each evaluation; None leaves the default.
        """
        steps: list[Step] = []
        for number, command in enumerate(self.prepare, start=1):
            split = [expand_path(word, f"prepare {number}") for word in shlex.split(command)]
            words = tuple(word.replace("{study}", str(self.output)) for word in split)
            before = tuple(step.title for step in steps)
            makes = Path(words[words.index("--output") + 1]) if "--output" in words[:-1] else self.output
            title = f"prepare {number}: {' '.join(words[:2])}"
            steps.append(Step(title, words, makes, before, self.output / "prepare.log"))
        prepared = tuple(step.title for step in steps)
        for run in self.runs:
            steps += self._steps_of(run, prepared, threads)
        return steps

    def _steps_of(self, run: Run, prepared: tuple[str, ...], threads: int | None) -> list[Step]:
        """Returns the steps of one run; `prepared` are the titles of the steps before all runs."""
        method, log = run.method, run.folder / "output.log"
        steps: list[Step] = []
        model, before = self.model_of(run), prepared
        # Train or distil, after the runs this one refers to; then export.
        if not method.model:
            needed = tuple(
                f"{other.method.verb} {other.title}"
                for other in self.needed_by(method, run.seed)
                if not other.method.model  # a model that exists already needs no step
            )
            makes = Path(model) if method.verb in FILES_MADE else run.folder
            trained = Step(f"{method.verb} {run.title}", tuple(self.words_of(run)), makes, (*prepared, *needed), log)
            exported = run.folder / "model.onnx"
            model = str(exported)
            export = Step(
                f"export {run.title}",
                ("export", str(run.folder), "--output", model),
                exported,
                (trained.title,),
                log,
            )
            steps += [trained, export] if method.judge else [trained]
            before = (export.title,)
        # Evaluate the exported model, or the model that exists already.
        if method.judge:
            words = ("evaluate", self.evaluation.verb, *self._evaluate_options(run, model, threads))
            # The word stays "judge", because it is how `steps.json` of a study in progress names the step.
            steps.append(Step(f"judge {run.title}", words, run.verification / "results.json", before, log))
        return steps

    def _evaluate_options(self, run: Run, model: str, threads: int | None) -> list[str]:
        """Returns the words after the verb of the evaluation; `true` and `false` become `--key` and `--no-key`."""
        words = ["--model", model, self.evaluation.option]
        words += [pack.pairs for pack in self.packs]
        # One list for each pack, where "-" stands for none.
        if any(pack.names for pack in self.packs):
            words += ["--names", *(pack.names or "-" for pack in self.packs)]
        words += ["--output", str(run.verification)]
        for key, value in {**self.evaluate, **run.method.evaluate}.items():
            if isinstance(value, bool):
                words.append(f"--{key}" if value else f"--no-{key}")
            elif value is not None:
                words += [f"--{key}", ",".join(map(as_word, value)) if isinstance(value, list) else as_word(value)]
        return words + (["--threads", str(threads)] if threads is not None else [])

    def check_configs(self) -> dict[str, Any]:
        """Parses the command of each method as its verb will, so that a typo is found before anything runs.

        Returns:
            The config of the first run of each method that is trained, by the method's name.

        Raises:
            ConfigError: what the verb would say, after the name of the method.
        """
        configs = {}
        for method in (method for method in self.methods.values() if not method.results):
            first = self.run_of(method.name, method.seeds[0])
            if method.verb in FILES_MADE:
                self.words_of(first)
            elif not method.model:
                configs[method.name] = config = self._parsed(first)
                if method.judge and self.evaluation is CLASSIFICATION and config.head.kind != "linear":
                    raise ConfigError(
                        f"methods.{method.name}: head.kind is {config.head.kind!r}, and `classification` compares "
                        "linear classifiers: set head.kind to linear in base"
                    )
        return configs

    def check_evaluation(self, parse: Callable[[str, list[str]], object]) -> None:
        """Has the parser of the evaluation check each method's options, before anything runs.

        Args:
            parse: parses the words of `facekd evaluate`, given its second word, such as `lfw`, and the rest; on a
                mistake it prints one line and exits, see `CommandParser`.

        Raises:
            ConfigError: the parser's message, after the name of the section, with the nearest option that exists.
        """
        for method in (method for method in self.methods.values() if method.judge and not method.results):
            words = self._evaluate_options(self.run_of(method.name, method.seeds[0]), "model.onnx", None)
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    parse(self.evaluation.verb, words)
            except SystemExit as error:
                message = said.getvalue().strip().removeprefix("error: ")
                section = f"methods.{method.name}.evaluate" if method.evaluate else "evaluate"
                raise ConfigError(f"{section}: {message}") from error
