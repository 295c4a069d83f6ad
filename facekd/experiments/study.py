"""Verb: trains a table of methods and seeds on one data set under one protocol, and reports how they compare.

    facekd study configs/study/generated_faces.yaml

Each run is a `facekd train` or `facekd distill` command in its own process, then exported as ONNX and evaluated by
`facekd evaluate lfw`, by `facekd evaluate folder` on all pairs of people, or by `facekd evaluate classification`.
Completed steps are skipped, so the same command resumes after an interruption.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from facekd.commands.command_line import command_text
from facekd.commands.config_help import take_switch
from facekd.commands.places import mark_of_format, require_own_results
from facekd.commands.plain_configs import to_yaml
from facekd.errors import ConfigError, DataError, run_verb
from facekd.experiments.command_runner import CompletedSteps, TrainingWatch, run_steps
from facekd.experiments.studies.config import VERBS, Study
from facekd.experiments.studies.external import check_external
from facekd.experiments.studies.file import StudyFile, make_study, parse_study
from facekd.experiments.studies.results import FILES, RESULT_FORMAT, gather
from facekd.files.output_lock import folder_lock
from facekd.files.reading import read_json
from facekd.files.writing import write_json
from facekd.utils.processes.children import usable_cores
from facekd.utils.progress import format_duration
from facekd.utils.typed_values import find_fault
from facekd.utils.wording import agreeing, counted

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
        from facekd.experiments.studies.power import power_text

        print(power_text(gather(study), study.evaluation, file.difference))
        return 0
    # Mistakes show now, not after hours of training.
    if is_dry or not file.report_only:
        configs = study.check_configs()
        check_external(study)
        if parse_evaluation is not None:
            study.check_evaluation(parse_evaluation)
        if is_dry:
            _try(study, file, configs)
            return 0
    with folder_lock(study.output, "study is at work"):
        require_own_results(study.output, FILES, "facekd study", marks=[mark_of_format(RESULT_FORMAT)])
        failed = [] if file.report_only else _run(study, file)
        _report(study, failed, words)
    return 1 if failed else 0


def _try(study: Study, file: StudyFile, configs: dict[str, Any]) -> None:
    """Prints each method's configuration as resolved, and what trials of the methods found."""
    from facekd.experiments.studies.trial import try_study

    for name, config in configs.items():
        print(f"# {name}\n{to_yaml(config)}")
    table, lines = try_study(study, configs, file.jobs, _threads(file))
    print("\n".join([table.to_text(), *lines, f"nothing was written to {study.output}"]))


def _threads(file: StudyFile) -> int:
    return file.threads or max(1, usable_cores() // file.jobs)


def _report(study: Study, failed: list[str], words: Sequence[str]) -> None:
    """Writes and prints what the evaluated runs say."""
    results = gather(study)
    if not any(method.get("packs") and method["verb"] != "results" for method in results["methods"]):
        why = f"{'; '.join(failed)} failed" if failed else "no run is evaluated yet; start without --report-only"
        raise ConfigError(f"{study.output}: there is nothing to report: {why}")
    from facekd.experiments.studies.report import to_text, write_report

    results["command"] = command_text("study", words)
    results["conditions"] = read_conditions(study.output / CONDITIONS)
    write_report(study, results)
    print("\n" + to_text(results))
    print(f"report: {study.output / 'report.html'}, {study.output / 'results.md'}, {study.output / 'results.json'}")


class _Conditions(TypedDict):
    gpus: list[str]
    processor: str
    jobs: int
    threads: int


def read_conditions(path: Path) -> dict[str, Any] | None:
    """Reads what is known of the machine that a study ran on; returns None if there is no such file.

    Raises:
        DataError: it is damaged.
    """
    if not path.exists():
        return None
    remedy = "delete it, or start without --report-only, which writes it again"
    conditions = read_json(path, "a description of the machine", remedy)
    if fault := find_fault(conditions, _Conditions):
        raise DataError(f"{path}: damaged, not a description of the machine: {fault}; {remedy}")
    return conditions


def _run(study: Study, file: StudyFile) -> list[str]:
    """Runs the steps that are not done and returns the titles of those that failed."""
    threads = _threads(file)
    _write_conditions(study.output / CONDITIONS, file.jobs, threads)
    steps = study.steps(threads)
    completed = CompletedSteps(study.output)
    watch = TrainingWatch(step for step in steps if step.words[0] in VERBS and not completed.is_done(step))
    started = time.monotonic()
    outcome = run_steps(steps, completed, jobs=file.jobs, threads=threads, keep_going=True, on_poll=watch.on_poll)
    print(
        f"{len(outcome.done)} of {counted(len(steps), 'step')} {agreeing(len(outcome.done), 'is', 'are')} done "
        f"({format_duration(time.monotonic() - started)})"
    )
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


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
