"""Verb: runs student-head sharing (SH-KD) from start to end: a student, a teacher under its classifier, a new student.

    facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3

"It's All in the Head" (arXiv:2201.06945). A student is trained alone (I0); a teacher is trained under the student's
frozen classifier (I1); a new student learns from that teacher (I2), either with the shared classifier, as in the
paper's figure, or with its own, as in the paper's released command. Each stage is a `facekd train` or `facekd distill`
command that is printed and may be run alone. Completed stages are skipped, and training resumes where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facekd.commands.config_files import config_keys, file_first, flatten, parse_config, path_field, require
from facekd.commands.config_help import show_short_help
from facekd.errors import ConfigError, run_verb
from facekd.experiments.command_runner import CompletedSteps, Step, as_config_options, run_steps
from facekd.files.output_lock import folder_lock
from facekd.training.config import TrainConfig

# Stage -> the verb, and what the title says.
STAGES = {
    "student": ("train", "train the student alone"),
    "teacher": ("train", "train a teacher under the student's classifier"),
    "distilled": ("distill", "distil a new student from that teacher"),
}
DESCRIPTION = "Trains a student, a teacher under its frozen classifier, and a new student (SH-KD)."
MAIN_KEYS = {
    "output": "folder of everything; the same command resumes it",
    "head": "the new student keeps the shared classifier, or has its own",
    "processes": "processes of each training, one per GPU",
}
EPILOG = """\
example:
  facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3

CONFIG.yaml
  output: runs/sh_kd          student/, teacher/ and distilled/ are the runs in it, model.onnx is the new student
  head: shared
  processes: 1
  base: {data: {train: ...}}
  student:   {recipe: FILE.yaml, config: {...}}      of `facekd train`
  teacher:   {recipe: FILE.yaml, config: {...}}      of `facekd train`
  distilled: {recipe: FILE.yaml, config: {...}}      of `facekd distill`

Other options (--data.train X, --seed 1) go to all three stages. The pipeline sets output, shared_head, teacher.model.
"""


@dataclass(frozen=True)
class StageFile:
    """Describes one stage in the pipeline's file.

    Args:
        recipe: a YAML file of the stage's verb; empty for none.
        config: keys of the verb, in sections or dotted, that override the recipe.
    """

    recipe: str | None = path_field()
    config: dict[str, Any] | None = None


@dataclass(frozen=True)
class PipelineFile:
    """Describes a pipeline as its file does.

    Args:
        output: the folder of everything.
        head: shared: the new student keeps the shared classifier; free: it has its own.
        processes: processes of each training, one per GPU.
        base: keys of all three stages, in sections or dotted.
        student: the student trained alone.
        teacher: the teacher under the student's classifier.
        distilled: the new student.
    """

    output: str = path_field()
    head: Literal["shared", "free"] = "shared"
    processes: int = 1
    base: dict[str, Any] | None = None
    student: StageFile = field(default_factory=StageFile)
    teacher: StageFile = field(default_factory=StageFile)
    distilled: StageFile = field(default_factory=StageFile)

    def __post_init__(self) -> None:
        require(bool(self.output), "output is empty: name the folder of the pipeline, `output: runs/sh_kd`")
        require(self.processes >= 1, f"processes: expected a whole number from 1, found {self.processes}")


@dataclass(frozen=True)
class Pipeline:
    """Holds the three stages of SH-KD with all their keys.

    Args:
        output: the folder of everything.
        head: whether the new student keeps the shared classifier or has its own.
        processes: processes of each training.
        recipes: recipe files by stage; empty where a stage has none.
        configs: dotted keys by stage.
        extra: words of the command line for every stage.
    """

    output: Path
    head: Literal["shared", "free"]
    processes: int
    recipes: dict[str, str]
    configs: dict[str, dict[str, Any]]
    extra: tuple[str, ...] = ()

    def words_of(self, stage: str) -> list[str]:
        """Returns the command of a stage, without `facekd`."""
        student = self.output / "student"
        handed_on: dict[str, Any] = {"output": self.output / stage}
        if stage == "teacher":
            handed_on["shared_head"] = student
        if stage == "distilled":
            handed_on["teacher.model"] = self.output / "teacher"
            handed_on["shared_head"] = student if self.head == "shared" else ""
        recipe = [self.recipes[stage]] if self.recipes[stage] else []
        options = as_config_options(self.configs[stage])
        return [STAGES[stage][0], *recipe, *options, *self.extra, *as_config_options(handed_on)]

    def steps(self) -> list[Step]:
        """Returns the stages, then the export of the new student."""
        steps: list[Step] = []
        for stage, (_, title) in STAGES.items():
            before = tuple(step.title for step in steps)
            words = tuple(self.words_of(stage))
            steps.append(Step(title, words, self.output / stage, before, processes=self.processes))
        model = self.output / "model.onnx"
        words = ("export", str(self.output / "distilled"), "--output", str(model))
        return [*steps, Step("export the new student", words, model, (steps[-1].title,))]

    def check(self) -> None:
        """Parses each stage as its verb will, so that a mistake in the last is found before the first runs.

        Raises:
            ConfigError: what the verb would say, after the name of the stage; or stages that share a classifier but
                have different embedding sizes.
        """
        from facekd.training.config.distill_config import DistillConfig

        # Each stage by itself.
        sizes = {}
        for stage in STAGES:
            verb, *words = self.words_of(stage)
            try:
                config = parse_config(DistillConfig if verb == "distill" else TrainConfig, words, f"facekd {verb}", "")
            except ConfigError as error:
                raise ConfigError(f"{stage}: {error}") from error
            sizes[stage] = config.backbone.embedding_size
        # The stages against each other: one classifier takes embeddings of one size.
        shares = ("student", "teacher", "distilled") if self.head == "shared" else ("student", "teacher")
        if len({sizes[stage] for stage in shares}) > 1:
            shown = ", ".join(f"{stage} {sizes[stage]}" for stage in shares)
            raise ConfigError(
                f"backbone.embedding_size: {shown}; they share one classifier, so the sizes must be the same"
            )


def main(argv: list[str] | None = None) -> int:
    """Parses, checks every stage, and runs what is not done."""
    pipeline = load_pipeline(sys.argv[1:] if argv is None else argv)
    pipeline.check()
    with folder_lock(pipeline.output, "pipeline is at work"):
        run_steps(pipeline.steps(), CompletedSteps(pipeline.output))
    print(f"\nthe new student: {pipeline.output / 'model.onnx'}; its run: {pipeline.output / 'distilled'}")
    return 0


def load_pipeline(words: Sequence[str]) -> Pipeline:
    """Reads a command line and the file that it names.

    Raises:
        ConfigError: a bad file, a key that does not exist, or one that the pipeline sets itself.
    """
    show_short_help(words, PipelineFile, "facekd pipeline sh-kd", DESCRIPTION, MAIN_KEYS, EPILOG)
    own, extra = _split_words(file_first(words))
    file = parse_config(PipelineFile, own, "facekd pipeline sh-kd", DESCRIPTION, EPILOG)
    base = flatten(file.base or {})
    recipes, configs = {}, {}
    for stage in STAGES:
        section: StageFile = getattr(file, stage)
        recipes[stage] = section.recipe or ""
        configs[stage] = {**base, **flatten(section.config or {})}
        _refuse_what_is_set_here(stage, configs[stage], extra)
    return Pipeline(Path(file.output), file.head, file.processes, recipes, configs, tuple(extra))


def _split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words for the pipeline itself and those for every stage; values follow their option."""
    keys = (*config_keys(PipelineFile), "config", "help", "help-all", "print_config")
    free = ("base.", *(f"{stage}.config." for stage in STAGES))  # sections whose keys are the verbs'
    own: list[str] = []
    extra: list[str] = []
    current = own
    for word in words:
        if word.startswith("--"):
            key = word[2:].partition("=")[0]
            current = own if key in keys or key.startswith(free) else extra
        (own if word == "-h" else current).append(word)
    return own, extra


def _refuse_what_is_set_here(stage: str, config: dict[str, Any], extra: Sequence[str]) -> None:
    given = {*config, *(word[2:].split("=")[0] for word in extra if word.startswith("--"))}
    for key in ("output", "shared_head", *(("teacher.model",) if stage == "distilled" else ())):
        if key in given:
            raise ConfigError(f"{stage}: {key} is set by the pipeline, which hands each stage's run to the next")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
