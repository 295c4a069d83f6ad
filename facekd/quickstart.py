"""Verb: the whole story on generated faces, on a CPU, in minutes.

    facekd quickstart

Each step is a command that a user could type, run in a process of its own and printed before it runs. A step that was
completed with the same command is skipped, and training resumes where it was, so the same command goes on after an
interruption.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.errors import FacekdError, run_verb
from facekd.files import write_json
from facekd.progress import format_duration

EXAMPLE = """\
example:
  facekd quickstart --output runs/quickstart

what it leaves there:
  data/            generated shards (train.rec, train.idx, property), test.bin with people not in them
  untrained.pt     the network before training, the floor every result is compared with
  arcface/ cosface/   the runs: checkpoints, log.jsonl, config.yaml; model.onnx; verification/
  results.json     models: name, method, accuracy, eer, tar_at_far, onnx
  report.html      one page with the pictures
"""


class QuickstartError(FacekdError):
    """A step of the quickstart failed."""


@dataclass(frozen=True)
class Size:
    """How much is generated and trained."""

    identities: int
    images_per_identity: int
    test_identities: int
    pairs: int
    image_size: int
    width: float
    images: int  # seen in each training


SIZES = {
    "small": Size(300, 20, 150, 6000, 64, 0.5, 24_000),
    # For tests: every step, in seconds, learning nothing worth the name.
    "tiny": Size(12, 8, 20, 60, 32, 0.125, 400),
}
METHODS = {"arcface": 0.4, "cosface": 0.3}


def main(argv: list[str] | None = None) -> int:
    """Generate, train, export, verify, report."""
    parser = argparse.ArgumentParser(
        prog="facekd quickstart",
        description="Generated faces -> shards -> MobileFaceNet by two margins -> ONNX -> verification -> a page.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="runs/quickstart", help="the folder everything lands in (%(default)s)")
    parser.add_argument("--size", choices=SIZES, default="small", help="how much to generate and train (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the faces and of the training (%(default)s)")
    arguments = parser.parse_args(argv)
    Quickstart(Path(arguments.output), SIZES[arguments.size], arguments.seed).run()
    return 0


class Quickstart:
    """The steps, in order, and the memory of which are done."""

    def __init__(self, folder: Path, size: Size, seed: int) -> None:
        self.folder = folder
        self.size = size
        self.seed = seed
        self._done_file = folder / "steps.json"

    def run(self) -> None:
        """Run every step that is not done, then write `results.json` and `report.html`."""
        from facekd.quickstart_report import write_report

        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._synthesize()
        self._make_untrained()
        for method in METHODS:
            self._train(method)
        models = [self._judge("untrained", "random weights", self.folder / "untrained.pt")]
        models += [self._judge(method, method, self.folder / method) for method in METHODS]
        write_json(self.folder / "results.json", {"schema": 1, "seed": self.seed, "models": models})
        write_report(self.folder, models)
        print(_table(models))
        print(f"\nreport: {self.folder / 'report.html'}   ({format_duration(time.monotonic() - started)})")

    def _synthesize(self) -> None:
        size = self.size
        options = {
            "output": self.folder / "data",
            "size": size.image_size,
            "seed": self.seed,
            "identities": size.identities,
            "images-per-identity": size.images_per_identity,
            "test-identities": size.test_identities,
            "pairs": size.pairs,
        }
        self._step("generate faces", ["data", "synthesize", *_as_options(options)])

    def _make_untrained(self) -> None:
        import torch

        from facekd.backbones import build_backbone
        from facekd.checkpoint import save_checkpoint
        from facekd.config import TrainConfig, parse_config
        from facekd.training_state import backbone_arguments

        config = parse_config(TrainConfig, self._train_arguments("arcface"), "facekd quickstart", "")
        torch.manual_seed(config.seed)
        content = {
            "config": {"backbone": backbone_arguments(config)},
            "preprocessing": {"mean": list(config.data.mean), "std": list(config.data.std), "color": "rgb"},
            "backbone": build_backbone(**backbone_arguments(config)).state_dict(),
        }
        save_checkpoint(self.folder / "untrained.pt", content)

    def _train(self, method: str) -> None:
        self._step(f"train by {method}", ["train", *self._train_arguments(method)])

    def _train_arguments(self, method: str) -> list[str]:
        size = self.size
        batch = 64 if size.images > 10_000 else 16
        values: dict[str, Any] = {
            "output": self.folder / method,
            "seed": self.seed,
            "data.train": self.folder / "data",
            "data.image_size": size.image_size,
            "data.workers": 1,
            "backbone.name": "mobilefacenet",
            "backbone.width": size.width,
            "backbone.embedding_size": 128,
            "head.margin": method,
            "head.margin_value": METHODS[method],
            "head.scale": 32,
            "schedule.lr": 0.1,
            "schedule.warmup_images": size.images // 20,
            "images": size.images,
            "global_batch_size": batch,
            "log_every_images": size.images // 24,
            "checkpoint.every_images": size.images // 6,
            "tensorboard": "false",
        }
        return _as_options(values)

    def _judge(self, name: str, method: str, checkpoint: Path) -> dict[str, Any]:
        model, verification = self.folder / name / "model.onnx", self.folder / name / "verification"
        self._step(f"export {name}", ["export", checkpoint, "--output", model])
        data = self.folder / "data"
        options = {
            "model": model,
            "pairs": data / "test.bin",
            "names": data / "test_pairs.txt",
            "fars": "1e-1,1e-2,1e-3",
            "output": verification,
        }
        self._step(f"verify {name}", ["evaluate", "lfw", *_as_options(options)])
        results = json.loads((verification / "results.json").read_text())
        return {
            "name": name,
            "method": method,
            "accuracy": results["accuracy"],
            "eer": results["eer"],
            "eer_ci95": results["eer_ci95"],
            "auc": results["auc"],
            "tar_at_far": results["tar_at_far"],
            "onnx": str(model.relative_to(self.folder)),
        }

    def _step(self, title: str, words: list[Any]) -> None:
        """Run `facekd WORDS` in a process of its own, unless this folder has it done already."""
        command = ["facekd", *map(str, words)]
        done = json.loads(self._done_file.read_text()) if self._done_file.exists() else {}
        if title in done:
            if done[title] != command:
                raise QuickstartError(
                    f"{self.folder} holds a quickstart of another kind: {title!r} was `{shlex.join(done[title])}`, "
                    f"and would now be `{shlex.join(command)}`. Choose another --output, or delete the folder"
                )
            print(f"-- {title}: done before", flush=True)
            return
        print(f"\n== {title}\n   {shlex.join(command)}", flush=True)
        started = time.monotonic()
        status = subprocess.run([sys.executable, "-m", "facekd", *command[1:]], check=False).returncode
        if status:
            raise QuickstartError(
                f"the step {title!r} failed (status {status}); what it said is above. "
                "Once that is mended, the same command goes on from there"
            )
        write_json(self._done_file, {**done, title: command})
        print(f"   {format_duration(time.monotonic() - started)}", flush=True)


def _as_options(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


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
