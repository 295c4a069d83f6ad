"""Verb: trains a table of methods and seeds on one data set under one protocol, and reports how they compare.

    facekd study configs/study/generated_faces.yaml

Each run is a `facekd train` or `facekd distill` command in its own process, then exported as ONNX and evaluated by
`facekd evaluate lfw`, or by `facekd evaluate folder` on all pairs of people. Completed steps are skipped, so the same
command resumes after an interruption.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from facekd.commands.command_line import command_text
from facekd.commands.config_help import take_switch
from facekd.commands.plain_configs import to_yaml
from facekd.errors import ConfigError, run_verb
from facekd.experiments.command_runner import CompletedSteps, Step, run_steps
from facekd.experiments.study_config import VERBS, Study
from facekd.experiments.study_file import StudyFile, make_study, parse_study
from facekd.experiments.study_results import gather
from facekd.files.output_lock import folder_lock
from facekd.files.reading import read_json
from facekd.files.writing import write_json
from facekd.training.logbook import read_log
from facekd.utils.processes import usable_cores
from facekd.utils.progress import format_duration

SECONDS_BETWEEN_LINES = 30.0
CONDITIONS = "conditions.json"


def main(argv: list[str] | None = None, parse_evaluation: Callable[[str, list[str]], object] | None = None) -> int:
    """Parses, checks, runs what is not done, and reports.

    Args:
        argv: the words of the command line.
        parse_evaluation: parser of `facekd evaluate`, which checks the options of the study's `evaluate`, see
            `Study.check_evaluation`; None leaves them to the evaluation itself.
    """
    words = sys.argv[1:] if argv is None else argv
    others, is_dry = take_switch(words, "--dry-run")
    file = parse_study(others)
    study = make_study(file)
    if file.power:
        from facekd.experiments.study_power import power_text

        print(power_text(gather(study), file.difference))
        return 0
    # Mistakes show now, not after hours of training.
    if is_dry or not file.report_only:
        configs = study.check_configs()
        if parse_evaluation is not None:
            study.check_evaluation(parse_evaluation)
        if is_dry:
            _try(study, file, configs)
            return 0
    with folder_lock(study.output, "study is at work"):
        failed = [] if file.report_only else _run(study, file)
        _report(study, failed, words)
    return 1 if failed else 0


def _try(study: Study, file: StudyFile, configs: dict[str, Any]) -> None:
    """Prints each method's configuration as resolved, and what trials of the methods found."""
    from facekd.experiments.study_trial import try_study

    for name, config in configs.items():
        print(f"# {name}\n{to_yaml(config)}")
    table, lines = try_study(study, configs, file.jobs, _threads(file))
    print("\n".join([table.to_text(), *lines, f"nothing was written to {study.output}"]))


def _threads(file: StudyFile) -> int:
    return file.threads or max(1, usable_cores() // file.jobs)


def _report(study: Study, failed: list[str], words: Sequence[str]) -> None:
    """Writes and prints what the evaluated runs say."""
    results = gather(study)
    if not any(method.get("packs") for method in results["methods"]):
        why = f"{'; '.join(failed)} failed" if failed else "no run is evaluated yet; start without --report-only"
        raise ConfigError(f"{study.output}: there is nothing to report: {why}")
    from facekd.experiments.study_report import to_text, write_report

    conditions = study.output / CONDITIONS
    results["command"] = command_text("study", words)
    results["conditions"] = None
    if conditions.exists():
        remedy = "delete it, or start without --report-only, which writes it again"
        keys = ("gpus", "processor", "jobs", "threads")
        results["conditions"] = read_json(conditions, "a description of the machine", remedy, keys)
    write_report(study, results)
    print("\n" + to_text(results))
    print(f"report: {study.output / 'report.html'}, {study.output / 'results.md'}, {study.output / 'results.json'}")


def _run(study: Study, file: StudyFile) -> list[str]:
    """Runs the steps that are not done and returns the titles of those that failed."""
    threads = _threads(file)
    _write_conditions(study.output / CONDITIONS, file.jobs, threads)
    steps = study.steps(threads)
    completed = CompletedSteps(study.output)
    watch = _Watch(step for step in steps if step.words[0] in VERBS and not completed.is_done(step))
    started = time.monotonic()
    outcome = run_steps(steps, completed, jobs=file.jobs, threads=threads, keep_going=True, on_poll=watch.on_poll)
    print(f"{len(outcome.done)} of {len(steps)} steps are done ({format_duration(time.monotonic() - started)})")
    for what, titles in (("failed", outcome.failed), ("left out, because they depend on those", outcome.left_out)):
        if titles:
            print(f"{what}: {'; '.join(titles)}", file=sys.stderr)
    return outcome.failed


def _write_conditions(path: Path, jobs: int, threads: int) -> None:
    """Records the software and hardware under which the speeds in the report were measured."""
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
    """Prints now and then how far the running trainings are, and how much time the study has left.

    Args:
        trainings: the steps that train and are not done.
    """

    def __init__(self, trainings: Iterable[Step]) -> None:
        self._is_training = {step.title for step in trainings}
        self._started = self._last = time.monotonic()
        self._first: float | None = None

    def on_poll(self, running: Sequence[Step], waiting: Sequence[Step]) -> None:
        """Prints a line, if the last one is long enough ago; called by `run_steps` several times a second."""
        now = time.monotonic()
        if self._first is not None and now - self._last < SECONDS_BETWEEN_LINES:
            return
        # How far each running training is, as a share of its images.
        shares, words = 0.0, []
        for step in (step for step in running if step.title in self._is_training):
            share, speed = _progress(step.makes)
            shares += share
            words.append(f"{step.title}: {share:.0%}{f', {speed:,.0f} images/s' if speed else ''}")
        to_do = sum(step.title in self._is_training for step in (*running, *waiting)) - shares
        if self._first is None:
            self._first = to_do
            return
        # The rate so far, in trainings, gives the time that is left.
        self._last = now
        done = self._first - to_do
        left = f"; {format_duration((now - self._started) / done * to_do)} left" if done > 0 else ""
        print(f"   {'; '.join(words) or running[0].title}; {to_do:.1f} trainings to go{left}", flush=True)


def _progress(folder: Path) -> tuple[float, float | None]:
    """Returns the share of its images that a training has seen, and its images per second, from its log."""
    entries = read_log(folder, "train", ("seconds_left", "images_per_second"))
    if not entries:
        return 0.0, None
    last = entries[-1]
    left = last["seconds_left"] * last["images_per_second"]
    return last["images_seen"] / max(last["images_seen"] + left, 1), last["images_per_second"]


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
