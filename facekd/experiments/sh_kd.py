"""Verb: student-head sharing (SH-KD) from start to end: a student, a teacher under its classifier, a new student.

    facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3

"It's All in the Head" (arXiv:2201.06945). A student is trained alone (I0); a teacher is trained under the student's
frozen classifier (I1); a new student learns from that teacher (I2), with the shared classifier, as the paper's figure
has it, or with one of its own, as its released command does. Each stage is a `facekd train` or `facekd distill` command
that is printed and may be run alone; what is done is skipped, and training resumes where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facekd.errors import ConfigError, run_verb
from facekd.experiments.command_runner import CompletedSteps, Step, as_options, run_steps
from facekd.training.config import TrainConfig
from facekd.utils.config_files import as_section, check_keys, flatten, parse_config, read_sections
from facekd.utils.locks import folder_lock

KEYS = ("output", "head", "processes", "base", "student", "teacher", "distilled")
STAGE_KEYS = ("recipe", "config")
# Stage -> the verb, and what the title says.
STAGES = {
    "student": ("train", "train the student alone"),
    "teacher": ("train", "train a teacher under the student's classifier"),
    "distilled": ("distill", "distil a new student from that teacher"),
}
EPILOG = """\
example:
  facekd pipeline sh-kd configs/distill/ms1mv3_sh_kd_pipeline.yaml --data.train /data/ms1mv3

CONFIG.yaml
  output: runs/sh_kd          student/, teacher/ and distilled/ are the runs in it, model.onnx the new student
  head: shared                the new student keeps the shared classifier; free: it has one of its own
  processes: 1                of each training, one a GPU
  base: {data: {train: ...}}  keys of all three stages
  student:   {recipe: FILE.yaml, config: {...}}      of `facekd train`; config overrides the recipe
  teacher:   {recipe: FILE.yaml, config: {...}}      of `facekd train`
  distilled: {recipe: FILE.yaml, config: {...}}      of `facekd distill`

Other options (--data.train X, --seed 1) go to all three stages; output, shared_head and teacher.model are set here.
"""


@dataclass(frozen=True)
class Pipeline:
    """The three stages of SH-KD.

    Args:
        output: the folder of everything.
        head: whether the new student keeps the shared classifier or has one of its own.
        processes: of each training.
        recipes: by stage; empty where there is none.
        configs: by stage, dotted keys.
        extra: words of the command line for every stage.
    """

    output: Path
    head: Literal["shared", "free"]
    processes: int
    recipes: dict[str, str]
    configs: dict[str, dict[str, Any]]
    extra: tuple[str, ...] = ()

    def words_of(self, stage: str) -> list[str]:
        """The command of a stage, without `facekd`."""
        student = str(self.output / "student")
        handed_on: dict[str, Any] = {"output": self.output / stage}
        if stage == "teacher":
            handed_on["shared_head"] = student
        if stage == "distilled":
            handed_on["teacher.model"] = str(self.output / "teacher")
            handed_on["shared_head"] = student if self.head == "shared" else ""
        recipe = [self.recipes[stage]] if self.recipes[stage] else []
        return [STAGES[stage][0], *recipe, *as_options(self.configs[stage]), *self.extra, *as_options(handed_on)]

    def steps(self) -> list[Step]:
        """The stages, then the export of the new student."""
        steps: list[Step] = []
        for stage, (_, title) in STAGES.items():
            before = tuple(step.title for step in steps)
            words = tuple(self.words_of(stage))
            steps.append(Step(title, words, self.output / stage, before, processes=self.processes))
        model = self.output / "model.onnx"
        words = ("export", str(self.output / "distilled"), "--output", str(model))
        return [*steps, Step("export the new student", words, model, (steps[-1].title,))]

    def check(self) -> None:
        """Parse each stage as its verb will: a mistake in the last is found before the first runs.

        Raises:
            ConfigError: what the verb would say, after the name of the stage; or students of different embedding sizes.
        """
        from facekd.training.distill_config import DistillConfig

        sizes = {}
        for stage in STAGES:
            verb, *words = self.words_of(stage)
            try:
                config = parse_config(DistillConfig if verb == "distill" else TrainConfig, words, f"facekd {verb}", "")
            except ConfigError as error:
                raise ConfigError(f"{stage}: {error}") from error
            sizes[stage] = config.backbone.embedding_size
        shares = ("student", "teacher", "distilled") if self.head == "shared" else ("student", "teacher")
        if len({sizes[stage] for stage in shares}) > 1:
            shown = ", ".join(f"{stage} {sizes[stage]}" for stage in shares)
            raise ConfigError(
                f"backbone.embedding_size: {shown}; they share one classifier, so the sizes must be the same"
            )


def main(argv: list[str] | None = None) -> int:
    """Parse, check every stage, run what is not done."""
    pipeline = load_pipeline(sys.argv[1:] if argv is None else argv)
    pipeline.check()
    with folder_lock(pipeline.output, "pipeline is at work"):
        run_steps(pipeline.steps(), CompletedSteps(pipeline.output))
    print(f"\nthe new student: {pipeline.output / 'model.onnx'}; its run: {pipeline.output / 'distilled'}")
    return 0


def load_pipeline(words: Sequence[str]) -> Pipeline:
    """Read a command line and the file that it names.

    Raises:
        ConfigError: a file that is none, a key that does not exist, or one that the pipeline sets itself.
    """
    parser = argparse.ArgumentParser(
        prog="facekd pipeline sh-kd",
        description="SH-KD: a student, a teacher under its frozen classifier, a new student. The same command resumes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="the pipeline")
    parser.add_argument("--output", metavar="DIR", help="in place of the file's output")
    parser.add_argument("--head", choices=("shared", "free"), help="in place of the file's head")
    parser.add_argument("--processes", type=int, metavar="N", help="in place of the file's processes")
    arguments, extra = parser.parse_known_args(list(words))
    content = read_sections(Path(arguments.config))
    check_keys(content, KEYS, f"{arguments.config}: ")
    output = arguments.output or content.get("output")
    if not isinstance(output, str) or not output:
        raise ConfigError("output is empty: name the folder of the pipeline, `output: runs/sh_kd`")
    head = arguments.head or content.get("head", "shared")
    if head not in ("shared", "free"):
        raise ConfigError(f"head: expected shared or free, found {head!r}")
    processes = arguments.processes if arguments.processes is not None else content.get("processes", 1)
    if not isinstance(processes, int) or processes < 1:
        raise ConfigError(f"processes: expected a whole number from 1, found {processes!r}")
    base = flatten(as_section(content.get("base"), "base"))
    recipes, configs = {}, {}
    for stage in STAGES:
        section = as_section(content.get(stage), stage)
        check_keys(section, STAGE_KEYS, f"{stage}.")
        recipes[stage] = section.get("recipe") or ""
        configs[stage] = {**base, **flatten(as_section(section.get("config"), f"{stage}.config"))}
        _refuse_what_is_set_here(stage, configs[stage], extra)
    return Pipeline(Path(output), head, processes, recipes, configs, tuple(extra))


def _refuse_what_is_set_here(stage: str, config: dict[str, Any], extra: Sequence[str]) -> None:
    given = {*config, *(word[2:].split("=")[0] for word in extra if word.startswith("--"))}
    for key in ("output", "shared_head", *(("teacher.model",) if stage == "distilled" else ())):
        if key in given:
            raise ConfigError(f"{stage}: {key} is set by the pipeline, which hands each stage's run to the next")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
