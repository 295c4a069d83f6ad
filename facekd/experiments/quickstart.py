"""Verb: runs everything from generated faces to a report, on a CPU, in minutes.

    facekd quickstart

Each step is a command that a user could type; it runs in its own process and is printed first. Steps completed with the
same command are skipped and training resumes where it stopped, so the same command goes on after an interruption.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.commands.command_line import SEED, CommandParser
from facekd.commands.places import require_own_results
from facekd.errors import run_verb
from facekd.experiments.command_runner import (
    CompletedSteps,
    Step,
    TrainingWatch,
    as_config_options,
    as_options,
    run_steps,
)
from facekd.files.output_lock import folder_lock
from facekd.files.reading import read_json
from facekd.files.result_folder import finish_results, start_results
from facekd.utils.progress import SECONDS_BETWEEN_LINES, format_duration

VERBS = ("train", "distill")
REPORT, SCHEMA = "report.html", 1
EXAMPLE = """\
example:
  facekd quickstart --output runs/quickstart

what it leaves there:
  data/            generated shards (train.rec, train.idx, property), and test.bin with other people
  untrained.pt     the network before training: the lowest result to compare with
  teacher.cache    the embeddings of arcface/, which its students learn from
  arcface/ cosface/   the runs: checkpoints, log.jsonl, config.yaml, output.log; verification/
  student/ part/ th_kd/ sh_kd/ kd/ l2/   a student of half the width: alone, and taught in five ways;
                   part/model.onnx is the exported one
  student_means.pt sh_teacher/   the classifier of class means that sh_kd/ shares, and the teacher tuned under it
  logs/            what the other steps printed
  results.json     models: name, method, accuracy, eer, tar_at_far; onnx, if exported
  report.html      one page with the pictures
"""


@dataclass(frozen=True)
class Size:
    """Says how much is generated and trained; students have half the width."""

    identities: int
    images_per_identity: int
    test_identities: int
    pairs: int
    image_size: int
    width: float
    images: int  # seen by the models that learn from data alone
    student_images: int  # seen by each student, and by the teacher under a student's classifier
    batch: int


SIZES = {
    "small": Size(300, 20, 150, 4000, 32, 0.5, 48_000, 12_000, 64),
    # For tests: every step, in seconds; the models learn next to nothing.
    "tiny": Size(12, 8, 20, 60, 32, 0.25, 400, 400, 16),
}


@dataclass(frozen=True)
class Recipe:
    """Describes one training, or a classifier made of class means of the model that it comes after.

    In `config`, `{name}` means what that recipe makes and `{cache}` the teacher's cached embeddings.
    """

    title: str
    method: str
    verb: str
    is_student: bool
    config: dict[str, Any]
    after: tuple[str, ...] = ()


ARCFACE: dict[str, Any] = {"head.margin": "arcface", "head.margin_value": 0.4}
TAUGHT: dict[str, Any] = {**ARCFACE, "teacher.model": "{arcface}", "teacher.cache": "{cache}"}
# A tuned teacher starts from the trained one, at a tenth of its rate.
TUNED: dict[str, Any] = {**ARCFACE, "backbone.weights": "{arcface}", "schedule.lr": 0.01}
MEANS: dict[str, Any] = {"power": 0.25}
PART: dict[str, Any] = {"backbone.weights": "{arcface}", "backbone.select_weights": True}
# Weights: the squared distance of unit embeddings times 10, KL times 1 at temperature 4; class means are spread by the
# power of a quarter before they are shared. docs/method.md has the measurements.
RECIPES = {
    "arcface": Recipe("train by arcface", "arcface", "train", False, ARCFACE),
    "cosface": Recipe(
        "train by cosface", "cosface", "train", False, {"head.margin": "cosface", "head.margin_value": 0.3}
    ),
    "student": Recipe("train the student alone", "student alone", "train", True, ARCFACE),
    # TH-KD from weights that are a part of the teacher's, and from fresh ones.
    "part": Recipe(
        "distil a part of the teacher by TH-KD",
        "TH-KD, from a part",
        "distill",
        True,
        {**TAUGHT, **PART, "loss.kl": 1, "share": 1},
        ("cache",),
    ),
    "th_kd": Recipe("distil by TH-KD", "TH-KD", "distill", True, {**TAUGHT, "loss.kl": 1, "share": 1}, ("cache",)),
    "l2": Recipe("distil by L2", "L2", "distill", True, {**TAUGHT, "loss.embedding_l2": 10}, ("cache",)),
    "kd": Recipe("distil by KD", "KD", "distill", True, {**TAUGHT, "loss.kl": 1}, ("cache",)),
    # SH-KD by the class means of the student alone.
    "student_means": Recipe("take the student's class means", "", "rebuild-head", False, MEANS, ("student",)),
    "sh_teacher": Recipe(
        "tune the teacher under them",
        "",
        "train",
        False,
        {**TUNED, "shared_head": "{student_means}"},
        ("student_means",),
    ),
    "sh_kd": Recipe(
        "distil by SH-KD",
        "SH-KD, class means",
        "distill",
        True,
        {**ARCFACE, "teacher.model": "{sh_teacher}", "shared_head": "{student_means}", "loss.kl": 1},
        ("sh_teacher",),
    ),
}
# Models in the order of the table: those without a teacher, then the ways of sharing a classifier, then the others.
EVALUATED = ("arcface", "cosface", "student", "part", "th_kd", "sh_kd", "kd", "l2")
EXPORTED = "part"


def main(argv: list[str] | None = None) -> int:
    """Generates, trains, distils, exports, evaluates and reports."""
    parser = CommandParser(
        prog="facekd quickstart",
        description="Generated faces -> shards -> MobileFaceNet by two margins -> students distilled from it "
        "-> evaluation, one ONNX file -> a page.",
        example=EXAMPLE,
    )
    parser.add_argument("--output", default="runs/quickstart", help="folder for everything (%(default)s)")
    parser.add_argument("--size", choices=SIZES, default="small", help="how much to generate and train (%(default)s)")
    parser.add_argument(
        "--seed", type=SEED, default=0, help="random seed of the faces and of the training (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    Quickstart(Path(arguments.output), SIZES[arguments.size], arguments.seed).run()
    return 0


class Quickstart:
    """Builds the steps of the quickstart and gathers their results."""

    def __init__(self, folder: Path, size: Size, seed: int) -> None:
        self.folder = folder
        self.size = size
        self.seed = seed

    def run(self) -> None:
        """Runs every step that is not done, then writes `results.json` and `report.html`."""
        from facekd.experiments.quickstart_report import write_report
        from facekd.utils.processes.children import usable_cores

        started = time.monotonic()
        with folder_lock(self.folder, "quickstart is at work"):
            require_own_results(self.folder, (REPORT,), "facekd quickstart", marks=[f'"schema": {SCHEMA}'.encode()])
            completed = CompletedSteps(self.folder, same_command_only=True)
            self._make_untrained()
            # Networks as small as these learn faster two at a time than one on all cores; each step prints to its log.
            steps = [*self.trainings(), *self.evaluations()]
            trainings = (step for step in steps if step.words[0] in VERBS and not completed.is_done(step))
            watch = TrainingWatch(trainings, SECONDS_BETWEEN_LINES)
            run_steps(steps, completed, jobs=2, threads=max(1, usable_cores() // 2), on_poll=watch.on_poll)
            models = [self._result("untrained", "random weights")]
            models += [self._result(name, RECIPES[name].method) for name in EVALUATED]
            start_results(self.folder, (REPORT,))
            write_report(self.folder, models)
            finish_results(self.folder, {"schema": SCHEMA, "seed": self.seed, "models": models})
        print(_table(models))
        print(f"\nreport: {self.folder / 'report.html'}   ({format_duration(time.monotonic() - started)})")

    def trainings(self) -> list[Step]:
        """Returns the steps that generate, train, cache the teacher's embeddings and distil."""
        data, cache = self.folder / "data", self.folder / "teacher.cache"
        steps = [
            self._step("generate faces", ("data", "synthesize", *as_options(self._data_options())), data / "train.rec")
        ]
        for name, recipe in RECIPES.items():
            if "cache" in recipe.after and all(step.makes != cache for step in steps):
                words = ("cache-teacher", str(self.folder / "arcface"), "--data", str(data), "--output", str(cache))
                steps.append(self._step("cache the teacher", words, cache, (RECIPES["arcface"].title,)))
            before = ("cache the teacher" if other == "cache" else RECIPES[other].title for other in recipe.after)
            if any(value == "{arcface}" for value in recipe.config.values()):
                before = (RECIPES["arcface"].title, *before)
            words = (recipe.verb, *self._words(name))
            steps.append(self._step(recipe.title, words, self._made_by(name), ("generate faces", *before)))
        return steps

    def _step(self, title: str, words: tuple[str, ...], makes: Path, after: tuple[str, ...] = ()) -> Step:
        """Returns a step that prints to a log: in the folder of a run, else in `logs`."""
        log = makes / "output.log" if words[0] in VERBS else self.folder / "logs" / f"{makes.stem}.log"
        return Step(title, words, makes, after, log)

    def _made_by(self, name: str) -> Path:
        """Returns what a recipe makes: the folder of a run, or a classifier."""
        return self.folder / (f"{name}.pt" if RECIPES[name].verb == "rebuild-head" else name)

    def _words(self, name: str) -> list[str]:
        """Returns the words of a recipe's command behind its verb."""
        recipe = RECIPES[name]
        if recipe.verb in VERBS:
            return as_config_options(self._train_options(name))
        [source] = recipe.after
        options = {"data": self.folder / "data", "output": self._made_by(name), **recipe.config}
        return [str(self.folder / source), *as_options(options)]

    def evaluations(self) -> list[Step]:
        """Returns the steps that evaluate each model, and export one student."""
        model = self.folder / EXPORTED / "model.onnx"
        words = ("export", str(self.folder / EXPORTED), "--output", str(model))
        export = Step(
            f"export {EXPORTED}", words, model, (RECIPES[EXPORTED].title,), self.folder / EXPORTED / "export.log"
        )
        return [*(self._evaluation(name) for name in ("untrained", *EVALUATED)), export]

    def _data_options(self) -> dict[str, Any]:
        size = self.size
        return {
            "output": self.folder / "data",
            "size": size.image_size,
            "seed": self.seed,
            "identities": size.identities,
            "images-per-identity": size.images_per_identity,
            "test-identities": size.test_identities,
            "pairs": size.pairs,
        }

    def _make_untrained(self) -> None:
        """Writes a checkpoint with the random weights that trainings with this seed start from."""
        import torch

        from facekd.backbones.building import build_backbone
        from facekd.checkpoints.checkpoint import write_checkpoint
        from facekd.checkpoints.contents import Checkpoint
        from facekd.commands.config_files import parse_config
        from facekd.training.config import TrainConfig
        from facekd.training.recognizer import backbone_arguments

        words = as_config_options(self._train_options("arcface"))
        config = parse_config(TrainConfig, words, "facekd quickstart", "")
        torch.manual_seed(config.seed)
        untrained = Checkpoint(
            config={"backbone": backbone_arguments(config)},
            preprocessing={"mean": list(config.data.mean), "std": list(config.data.std), "color": "rgb"},
            backbone=build_backbone(**backbone_arguments(config)).state_dict(),
        )
        write_checkpoint(self.folder / "untrained.pt", untrained)

    def _train_options(self, name: str) -> dict[str, Any]:
        """Returns the keys of a training: those of its recipe among those that all share."""
        size, recipe = self.size, RECIPES[name]
        images = size.student_images if recipe.is_student or recipe.after else size.images
        # Put paths in the place of `{arcface}` and the like.
        places = {other: self._made_by(other) for other in RECIPES} | {"cache": self.folder / "teacher.cache"}
        config = {
            key: places[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value
            for key, value in recipe.config.items()
        }
        return {
            "output": self.folder / name,
            "seed": self.seed,
            "data.train": self.folder / "data",
            "data.image_size": size.image_size,
            "data.workers": 1,
            "backbone.name": "mobilefacenet",
            "backbone.width": size.width / 2 if recipe.is_student else size.width,
            "backbone.embedding_size": 128,
            "head.scale": 32,
            "schedule.lr": 0.1,
            **config,
            "schedule.warmup_images": images // 20,
            "images": images,
            "global_batch_size": size.batch,
            "log_every_images": images // 20,
            "checkpoint.every_images": images // 5,
            "tensorboard": False,
        }

    def _evaluation(self, name: str) -> Step:
        """Returns the step that evaluates one model on the generated pack."""
        data, folder = self.folder / "data", self.folder / name
        is_trained = name in RECIPES
        options = {
            "model": folder if is_trained else self.folder / f"{name}.pt",
            "pairs": data / "test.bin",
            "names": data / "test_pairs.txt",
            "fars": "1e-1,1e-2,1e-3",
            "output": folder / "verification",
        }
        before = (RECIPES[name].title, "generate faces") if is_trained else ("generate faces",)
        words = ("evaluate", "lfw", *as_options(options))
        return Step(
            f"verify {name}", words, folder / "verification" / "results.json", before, folder / "evaluation.log"
        )

    def _result(self, name: str, method: str) -> dict[str, Any]:
        verification = self.folder / name / "verification"
        measures = ("accuracy", "eer", "eer_ci95", "auc", "tar_at_far")
        results = read_json(verification / "results.json", "the results of an evaluation", keys=measures)
        return {
            "name": name,
            "method": method,
            **{measure: results[measure] for measure in measures},
            **({"onnx": f"{name}/model.onnx"} if name == EXPORTED else {}),
        }


def _table(models: list[dict[str, Any]]) -> str:
    rows = [f"{'model':<12}{'accuracy':>10}{'EER':>9}   TAR@FAR"]
    for model in models:
        points = [f"{point['far']:g}: {_percent(point['tar'])}" for point in model["tar_at_far"]]
        accuracy = _percent(model["accuracy"]["mean"])
        rows.append(f"{model['name']:<12}{accuracy:>10}{_percent(model['eer']):>9}   {'  '.join(points)}")
    return "\n" + "\n".join(rows)


def _percent(share: float | None) -> str:
    return "not measurable" if share is None else f"{share:.2%}"


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
