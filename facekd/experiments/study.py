"""Verb: train a table of methods and seeds on one data set under one protocol, and report what they are worth.

    facekd study configs/study/generated_faces.yaml

Each run is a `facekd train` or `facekd distill` command in a process of its own, then exported as ONNX and judged by
`facekd evaluate lfw`. What is done is skipped; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError, run_verb
from facekd.experiments.command_runner import CompletedSteps, Step, run_steps
from facekd.experiments.study_config import VERBS, Study
from facekd.experiments.study_file import load_study
from facekd.experiments.study_results import gather
from facekd.training.logbook import read_log
from facekd.utils.files import write_json
from facekd.utils.locks import folder_lock
from facekd.utils.progress import format_duration

SECONDS_BETWEEN_LINES = 30.0
CONDITIONS = "conditions.json"
EPILOG = """\
example:
  facekd study configs/study/generated_faces.yaml --jobs 2

CONFIG.yaml
  output: runs/study              the folder of everything
  seeds: [0, 1, 2]                of every method that names none of its own
  reference: alone                the method that differences are to
  base: {data: {train: ...}, ...} keys of `facekd train` for every run, in sections or dotted
  prepare: ["cache-teacher teacher.onnx --data ... --output {study}/teacher.cache"]     commands to run first
  packs: [{pairs: test.bin, names: test_pairs.txt}]
  evaluate: {folds: 10, fars: [1e-1, 1e-2], flip: true}      options of `facekd evaluate lfw`
  methods:
    teacher:  {verb: train, seeds: [0], config: {...}}       trained once
    alone:    {verb: train}
    th_kd:    {verb: distill, config: {teacher.model: "{teacher}", share: 1}}
    external: {model: teacher.onnx, evaluate: {mean: 127.5, std: 127.5}}                 judged, not trained

In a value, {teacher} is the folder of that method's run with the same seed, or of its only one; {teacher@0} that of
seed 0; {study} the output folder. A method may also have recipe: FILE.yaml, judge: false, note: TEXT.

Runs go seed by seed, so that a study in progress compares all methods. What it leaves in the output folder:
  runs/METHOD/seed-N/   the run, output.log, model.onnx, verification/
  results.json          per method and pack: mean, standard deviation, every value, paired differences with intervals
  results.md            the same as tables
  report.html           one page, with the pictures inside
"""


def main(argv: list[str] | None = None) -> int:
    """Parse, run what is not done, report."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parse(words)
    study = load_study(arguments.config, arguments.output)
    failed: list[str] = []
    if not arguments.report_only:
        study.check_configs()
        with folder_lock(study.output, "study is at work"):
            failed = _run(study, arguments)
    results = gather(study)
    if not any(method.get("packs") for method in results["methods"]):
        why = f"{'; '.join(failed)} failed" if failed else "no run is judged yet; start without --report-only"
        raise ConfigError(f"{study.output}: there is nothing to report: {why}")
    from facekd.experiments.study_report import to_markdown, write_report

    conditions = study.output / CONDITIONS
    results["command"] = shlex.join(["facekd", "study", *words])
    results["conditions"] = json.loads(conditions.read_text()) if conditions.exists() else None
    write_report(study, results)
    print("\n" + to_markdown(results))
    print(f"report: {study.output / 'report.html'}, {study.output / 'results.md'}, {study.output / 'results.json'}")
    return 1 if failed else 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="facekd study",
        description="Train methods x seeds on one data set under one protocol, and report. The same command resumes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.yaml", help="the study")
    add("--output", metavar="DIR", help="in place of the file's output")
    add("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    add("--threads", type=int, metavar="N", help="computing threads of each run (default: the cores over the jobs)")
    add("--report-only", action="store_true", help="report what is there, run nothing")
    arguments = parser.parse_args(words)
    for name in ("jobs", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: give at least 1")
    return arguments


def _run(study: Study, arguments: argparse.Namespace) -> list[str]:
    from facekd.utils.processes import usable_cores

    threads = arguments.threads or max(1, usable_cores() // arguments.jobs)
    _write_conditions(study.output / CONDITIONS, arguments.jobs, threads)
    steps = study.steps(threads)
    completed = CompletedSteps(study.output)
    watch = _Watch(step for step in steps if step.words[0] in VERBS and not completed.is_done(step))
    started = time.monotonic()
    outcome = run_steps(steps, completed, jobs=arguments.jobs, threads=threads, keep_going=True, on_poll=watch.on_poll)
    print(f"{len(outcome.done)} of {len(steps)} steps are done ({format_duration(time.monotonic() - started)})")
    for what, titles in (("failed", outcome.failed), ("left out, for they build on those", outcome.left_out)):
        if titles:
            print(f"{what}: {'; '.join(titles)}", file=sys.stderr)
    return outcome.failed


def _write_conditions(path: Path, jobs: int, threads: int) -> None:
    """Under what the speeds in the report were measured."""
    import torch

    from facekd import __version__

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    write_json(
        path,
        {
            "facekd": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "gpus": gpus,
            "jobs": jobs,
            "threads": threads,
        },
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class _Watch:
    """Says now and then how far the running trainings are, and how long the study has to go.

    Args:
        trainings: the steps that train and are not done.
    """

    def __init__(self, trainings: Iterable[Step]) -> None:
        self._is_training = {step.title for step in trainings}
        self._started = self._last = time.monotonic()
        self._first: float | None = None

    def on_poll(self, running: Sequence[Step], waiting: Sequence[Step]) -> None:
        """Print a line, if the last is long enough ago."""
        now = time.monotonic()
        if self._first is not None and now - self._last < SECONDS_BETWEEN_LINES:
            return
        shares, words = 0.0, []
        for step in (step for step in running if step.title in self._is_training):
            share, speed = _progress(step.makes)
            shares += share
            words.append(f"{step.title}: {share:.0%}{f', {speed:,.0f} images/s' if speed else ''}")
        to_do = sum(step.title in self._is_training for step in (*running, *waiting)) - shares
        if self._first is None:
            self._first = to_do
            return
        self._last = now
        done = self._first - to_do
        left = f"; {format_duration((now - self._started) / done * to_do)} left" if done > 0 else ""
        print(f"   {'; '.join(words) or running[0].title}; {to_do:.1f} trainings to go{left}", flush=True)


def _progress(folder: Path) -> tuple[float, float | None]:
    entries: list[dict[str, Any]] = read_log(folder, "train")
    if not entries:
        return 0.0, None
    last = entries[-1]
    left = last["seconds_left"] * last["images_per_second"]
    return last["images_seen"] / max(last["images_seen"] + left, 1), last["images_per_second"]


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
