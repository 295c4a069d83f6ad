"""Verb: runs student-head sharing (SH-KD) from start to end: a student, a teacher under its classifier, a new student.

    facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3
    facekd pipeline sh-kd CONFIG.yaml --shared_head means --teacher_from runs/teacher

"It's All in the Head" (arXiv:2201.06945). A student is trained alone (I0); a teacher is trained under the student's
frozen classifier (I1); a new student learns from that teacher (I2), either with the shared classifier, as in the
paper's figure, or with its own, as in the paper's released command. Each stage is a `facekd` command that is printed
and may be run alone. Completed stages are skipped, and training resumes where it stopped.

Other ways of sharing are options of the same stages: class means in place of rows, a teacher tuned from a trained one,
a first student that a teacher has taught (the meeting head), a teacher that a student pulls softly (ReFO).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from facekd.commands.config_files import config_keys, file_first, parse_config, path_field, require
from facekd.commands.config_help import show_short_help, take_switch
from facekd.commands.open_sections import flatten
from facekd.errors import ConfigError, run_verb
from facekd.experiments.command_runner import CompletedSteps, run_steps
from facekd.experiments.sharing_report import write_report
from facekd.experiments.sharing_stages import STAGES, Pipeline, SharingPlan
from facekd.files.output_lock import folder_lock

DESCRIPTION = "Trains a student, a teacher under its frozen classifier, and a new student (SH-KD)."
MAIN_KEYS = {
    "output": "folder of everything; the same command resumes it",
    "head": "the new student keeps the shared classifier, or has its own",
    "shared_head": "rows of the student's classifier, or its class means, or a blend",
    "power": "of the singular values of these means; 1 does not spread them",
    "blend": "share of the means in a blend",
    "teacher_from": "a trained teacher to tune, in place of fresh weights",
    "student_from": "student: the new one starts from the first one's weights",
    "first_student": "taught: distilled from teacher_from (the meeting head)",
    "pull": "soft: the teacher learns from the student, and shares nothing",
    "processes": "processes of each training, one per GPU",
}
EPILOG = """\
example:
  facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3

CONFIG.yaml
  output: runs/sh_kd          gets the runs student/, teacher/ and distilled/, model.onnx (the new student), report.html
  head: shared
  shared_head: rows           means and blend make shared_head.pt, by `facekd rebuild-head`
  processes: 1
  base: {data: {train: ...}}
  student:   {recipe: FILE.yaml, config: {...}}      of `facekd train`; with first_student: taught of `facekd distill`
  teacher:   {recipe: FILE.yaml, config: {...}}      of `facekd train`; with pull: soft of `facekd distill`
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
        shared_head: what of the first student is shared: the rows of its classifier, its class means, or a blend.
        power: to which power the singular values of the class means are raised; null leaves the means as they are.
        blend: share of the class means in a blend; the rest is that of the rows.
        teacher_from: a checkpoint or the folder of a run, from whose backbone the teacher starts; empty for fresh
            weights.
        student_from: scratch: the new student has fresh weights; student: it starts from the first one's backbone.
        first_student: alone: trained by itself; taught: distilled from `teacher_from`, so that the shared classifier is
            one in which that teacher and a student have met.
        pull: head: the teacher is trained under the shared classifier; soft: it keeps its own, and learns from the
            student by a distillation loss (ReFO).
        processes: processes of each training, one per GPU.
        base: keys of all three stages, in sections or dotted.
        student: the first student.
        teacher: the teacher.
        distilled: the new student.
    """

    output: str = path_field()
    head: Literal["shared", "free"] = "shared"
    shared_head: Literal["rows", "means", "blend"] = "rows"
    power: float | None = 0.25
    blend: float = 0.5
    teacher_from: str = path_field()
    student_from: Literal["scratch", "student"] = "scratch"
    first_student: Literal["alone", "taught"] = "alone"
    pull: Literal["head", "soft"] = "head"
    processes: int = 1
    base: dict[str, Any] | None = None
    student: StageFile = field(default_factory=StageFile)
    teacher: StageFile = field(default_factory=StageFile)
    distilled: StageFile = field(default_factory=StageFile)

    def __post_init__(self) -> None:
        require(bool(self.output), "output is empty: name the folder of the pipeline, `output: runs/sh_kd`")
        require(self.processes >= 1, f"processes: expected a whole number from 1, found {self.processes}")
        _ = self.plan  # which checks its values

    @property
    def plan(self) -> SharingPlan:
        """Returns what is shared between the stages."""
        return SharingPlan(**{item.name: getattr(self, item.name) for item in fields(SharingPlan)})


def main(argv: list[str] | None = None) -> int:
    """Parses, checks every stage, and runs what is not done."""
    words, is_dry = take_switch(sys.argv[1:] if argv is None else argv, "--dry-run")
    pipeline = load_pipeline(words)
    pipeline.check()
    if is_dry:  # the later stages need the runs of those before them
        first = shlex.join(["facekd", *pipeline.words_of("student"), "--dry-run"])
        raise ConfigError(f"--dry-run tries one training, and a pipeline has three: try its first stage by `{first}`")
    with folder_lock(pipeline.output, "pipeline is at work"):
        steps = pipeline.steps()
        run_steps(steps, CompletedSteps(pipeline.output))
        write_report(pipeline, steps)
    print(f"\nthe new student: {pipeline.output / 'model.onnx'}; its run: {pipeline.output / 'distilled'}")
    print(f"report: {pipeline.output / 'report.html'}")
    return 0


def load_pipeline(words: Sequence[str]) -> Pipeline:
    """Reads a command line and the file that it names.

    Raises:
        ConfigError: a bad file, a key that does not exist, or one that the pipeline sets itself.
    """
    show_short_help(words, PipelineFile, "facekd pipeline sh-kd", DESCRIPTION, MAIN_KEYS, EPILOG)
    own, extra = _split_words(file_first(words))
    file = parse_config(PipelineFile, own, "facekd pipeline sh-kd", DESCRIPTION, EPILOG)
    output, plan = Path(file.output), file.plan
    base = flatten(file.base or {})
    recipes, configs = {}, {}
    for stage in STAGES:
        section: StageFile = getattr(file, stage)
        recipes[stage] = section.recipe or ""
        configs[stage] = {**base, **flatten(section.config or {})}
        _refuse_what_is_set_here(stage, (*plan.keys_of(stage, output), "shared_head"), configs[stage], extra)
    return Pipeline(output, plan, file.processes, recipes, configs, tuple(extra))


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
            # Long names go with hyphens, too.
            spelt = key.replace("-", "_")
            if spelt in keys and key not in keys:
                key, word = spelt, f"--{spelt}{word[2 + len(key) :]}"
            current = own if key in keys or key.startswith(free) else extra
        (own if word == "-h" else current).append(word)
    return own, extra


def _refuse_what_is_set_here(stage: str, set_here: Sequence[str], config: dict[str, Any], extra: Sequence[str]) -> None:
    given = {*config, *(word[2:].split("=")[0] for word in extra if word.startswith("--"))}
    for key in set_here:
        if key in given:
            raise ConfigError(f"{stage}: {key} is set by the pipeline, which hands each stage's run to the next")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
