"""Composes the commands of classifier sharing: a first student, its classifier, a teacher, and a new student.

What is common to all ways of sharing is in `SharingPlan`; how they differ, docs/method.md says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from facekd.commands.config_files import parse_config, require
from facekd.errors import ConfigError
from facekd.experiments.command_runner import Step, as_config_options, as_options
from facekd.training.config import TrainConfig

STAGES = ("student", "teacher", "distilled")
SHARED_FILE = "shared_head.pt"
FirstStudent = Literal["alone", "taught"]
Pull = Literal["head", "soft"]


@dataclass(frozen=True)
class SharingPlan:
    """Says what is shared between the stages.

    Args:
        head: shared: the new student keeps the shared classifier; free: it has its own.
        shared_head: what of the first student is shared: the rows of its classifier, its class means, or a blend.
        power: to which power the singular values of the class means are raised; None leaves the means as they are.
        blend: share of the class means in a blend.
        pull: head: the teacher has the shared classifier, frozen; soft: it has its own, and learns from the student.
        first_student: alone: trained; taught: distilled from `teacher_from`.
        teacher_from: a trained teacher, from whose backbone the teacher starts; empty for fresh weights.
        student_from: scratch: the new student has fresh weights; student: it starts from the first one's backbone.
    """

    head: Literal["shared", "free"] = "shared"
    shared_head: Literal["rows", "means", "blend"] = "rows"
    power: float | None = 0.25
    blend: float = 0.5
    pull: Pull = "head"
    first_student: FirstStudent = "alone"
    teacher_from: str = ""
    student_from: Literal["scratch", "student"] = "scratch"

    def __post_init__(self) -> None:
        for name, value in (("power", self.power), ("blend", self.blend)):
            require(value is None or 0 <= value <= 1, f"{name}: expected a number from 0 to 1, found {value}")
            uses = ("blend",) if name == "blend" else ("means", "blend")
            require(
                self.shared_head in uses or value == getattr(SharingPlan, name),
                f"{name} = {'null' if value is None else value} has no effect with shared_head: {self.shared_head}; "
                f"set that to {' or '.join(uses)}",
            )
        require(
            self.pull == "head" or (self.head == "free" and self.shared_head == "rows"),
            "pull: soft shares no classifier, the teacher learns from the student by a loss: set head to free, and "
            "leave shared_head out",
        )
        require(
            self.first_student == "alone" or bool(self.teacher_from),
            "first_student: taught learns from a trained teacher: name it, `--teacher_from runs/teacher`",
        )

    def verb_of(self, stage: str) -> str:
        """Returns the verb of a stage."""
        is_taught = {"student": self.first_student == "taught", "teacher": self.pull == "soft", "distilled": True}
        return "distill" if is_taught[stage] else "train"

    def title_of(self, stage: str) -> str:
        """Says what a stage does."""
        student = {"alone": "train the student alone", "taught": "teach a first student by the teacher there is"}
        shared = "classifier" if self.shared_head == "rows" else "class means"
        teacher = {
            "head": f"train a teacher under the student's {shared}",
            "soft": "train a teacher that the student pulls towards itself",
        }
        return {
            "student": student[self.first_student],
            "teacher": teacher[self.pull],
            "distilled": "distil a new student from that teacher",
        }[stage]

    def keys_of(self, stage: str, output: Path) -> dict[str, Any]:
        """Returns the keys that a stage gets from the stages before it."""
        student, shared = output / "student", output / SHARED_FILE
        source = student if self.shared_head == "rows" else shared
        keys: dict[str, Any] = {"output": output / stage}
        if stage == "student" and self.first_student == "taught":
            keys["teacher.model"] = Path(self.teacher_from)
        if stage == "teacher":
            keys |= {"teacher.model": student} if self.pull == "soft" else {"shared_head": source}
            if self.teacher_from:
                keys["backbone.weights"] = Path(self.teacher_from)
        if stage == "distilled":
            keys["teacher.model"] = output / "teacher"
            keys["shared_head"] = source if self.head == "shared" else ""
            if self.student_from == "student":
                keys["backbone.weights"] = student
        return keys


@dataclass(frozen=True)
class Pipeline:
    """Holds the stages of classifier sharing with all their keys.

    Args:
        output: the folder of everything.
        plan: what is shared.
        processes: processes of each training.
        recipes: recipe files by stage; empty where a stage has none.
        configs: dotted keys by stage.
        extra: words of the command line for every stage.
    """

    output: Path
    plan: SharingPlan
    processes: int
    recipes: dict[str, str]
    configs: dict[str, dict[str, Any]]
    extra: tuple[str, ...] = ()

    def words_of(self, stage: str) -> list[str]:
        """Returns the command of a stage, without `facekd`."""
        recipe = [self.recipes[stage]] if self.recipes[stage] else []
        options = as_config_options(self.configs[stage])
        handed_on = as_config_options(self.plan.keys_of(stage, self.output))
        return [self.plan.verb_of(stage), *recipe, *options, *self.extra, *handed_on]

    def steps(self) -> list[Step]:
        """Returns the stages, with the class means after the first where those are shared, and the export."""
        steps: list[Step] = []
        for stage in STAGES:
            self._add(steps, self.plan.title_of(stage), self.words_of(stage), self.output / stage, self.processes)
            if stage == "student" and self.plan.shared_head != "rows":
                title = f"compute the {'class means' if self.plan.shared_head == 'means' else 'blend'} that are shared"
                self._add(steps, title, self.words_of_means(), self.output / SHARED_FILE)
        model = self.output / "model.onnx"
        words = ("export", str(self.output / "distilled"), "--output", str(model))
        return [*steps, Step("export the new student", words, model, (steps[-1].title,))]

    def words_of_means(self) -> list[str]:
        """Returns the command that makes the shared classifier of the first student's class means."""
        import torch  # here, because the help does without it

        config, plan = self.stage_configs["student"], self.plan
        words = ["rebuild-head", str(self.output / "student"), "--data", config.data.train]
        options: dict[str, Any] = {"output": self.output / SHARED_FILE, "on-bad-record": config.data.on_bad_record}
        if plan.power is not None:
            options["power"] = plan.power
        if plan.shared_head == "blend":
            options["blend"] = plan.blend
        if config.device.startswith("cuda"):
            options["device"] = config.device
        elif config.device == "auto" and torch.cuda.is_available():
            options["device"] = "cuda"
        return [*words, *as_options(options), *(("--resize",) if config.data.resize else ())]

    @cached_property
    def stage_configs(self) -> dict[str, TrainConfig]:
        """Returns each stage's config as its verb will parse it.

        Raises:
            ConfigError: what the verb would say, after the name of the stage.
        """
        from facekd.training.config.distill_config import DistillConfig

        found: dict[str, TrainConfig] = {}
        for stage in STAGES:
            verb, *words = self.words_of(stage)
            try:
                found[stage] = parse_config(
                    DistillConfig if verb == "distill" else TrainConfig, words, f"facekd {verb}", ""
                )
            except ConfigError as error:
                raise ConfigError(f"{stage}: {error}") from error
        return found

    def check(self) -> None:
        """Parses each stage as its verb will, so that a mistake in the last is found before the first runs.

        Raises:
            ConfigError: what the verb would say, after the name of the stage; or stages that share a classifier but
                have different embedding sizes, or class means for a linear one.
        """
        configs, plan = self.stage_configs, self.plan
        # One classifier takes embeddings of one size. A student that was taught may be projected to its teacher's.
        is_under = {
            "student": plan.pull == "head" and plan.first_student == "alone",
            "teacher": plan.pull == "head",
            "distilled": plan.head == "shared",
        }
        sizes = {stage: configs[stage].backbone.embedding_size for stage in STAGES if is_under[stage]}
        if len({*sizes.values()}) > 1:
            shown = ", ".join(f"{stage} {size}" for stage, size in sizes.items())
            raise ConfigError(
                f"backbone.embedding_size: {shown}; they share one classifier, so the sizes must be the same"
            )
        # Class means are directions, which a linear classifier does not compare.
        student = configs["student"]
        require(
            plan.shared_head == "rows" or student.head.kind == "margin",
            f"shared_head: {plan.shared_head} makes a margin classifier, and head.kind of the student is "
            f"{student.head.kind!r}: share its rows",
        )

    def _add(self, steps: list[Step], title: str, words: list[str], makes: Path, processes: int = 1) -> None:
        before = tuple(step.title for step in steps)
        steps.append(Step(title, tuple(words), makes, before, processes=processes))
