"""Fuzzes the readers of foreign files with atheris: `python -m tests.fuzz.run [--seconds N] [TARGET ...]`.

Each target runs in a process of its own, with limits for what a single input takes of memory and of the processor, from
the seeds of the `*_targets`, those in `tests/fuzz/corpus/` and what earlier runs have found. An input that breaks a
reader is kept in `fuzz_findings/`, printed with the exception, and ends with status 1. `fuzz_findings/` also keeps the
inputs that reached new code, and a log of all runs, which `--summary` adds up. `--until 10` goes on in turns until
each target has had 10 minutes of the processor in that log; a stopped campaign goes on where it was. `--keep` puts the
smallest inputs that reach more than the seeds, and those that once broke a reader, into `tests/fuzz/corpus/`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import re
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ONE = (sys.executable, "-m", "tests.fuzz.run", "--one")
FINDINGS = Path("fuzz_findings")
LOG = FINDINGS / "runs.jsonl"
SECONDS_AN_INPUT = 5  # of the processor
# Where code in C does not return, or waits: by the clock, which a process that gets no processor does not stop; and
# megabytes that a process may grow by while it reads an input.
SECONDS_BY_THE_CLOCK, MEGABYTES_AT_ONCE = 300, 3000


def main() -> int:
    """Runs all targets, or those named; returns 1 if one is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--until", type=float, default=0.0, help="go on until each has so many CPU minutes in the log")
    parser.add_argument("--summary", action="store_true", help="only add up the runs so far, as a table")
    parser.add_argument("--keep", action="store_true", help="choose anew which inputs are kept for the tests")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ascii", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one and arguments.keep:
        return _keep_here(arguments.targets[0])
    if arguments.one:
        _fuzz_here(arguments.targets[0], arguments.seconds, arguments.ascii)
        return 0
    if arguments.summary:
        print(_summary())
        return 0

    # One process after the other: a target may end its process in any way.
    from tests.fuzz.targets.all_targets import TARGETS, TEXT_TARGETS

    known, texts = [target.name for target in TARGETS], {target.name for target in TEXT_TARGETS}
    if unknown := set(arguments.targets) - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if arguments.keep:
        names = arguments.targets or known
        return max([subprocess.run([*ONE, name, "--keep"], check=False).returncode != 0 for name in names])
    broken = []
    for name in _turns(arguments.targets or known, 60 * arguments.until, broken):
        # Every other run of a reader of text is fed ASCII alone: random bytes are mostly refused, as no UTF-8.
        is_ascii = name in texts and _totals()[name][3] % 2 == 1
        run, last = _fuzz_apart(name, arguments.seconds, is_ascii)
        counted = f"{run['inputs']:>10,} inputs {run['cpu_seconds']:>6,.0f} CPU s"
        print(f"{name:<16} {counted}  {'BROKEN: ' + last if run['broken'] else 'ok'}", flush=True)
        with LOG.open("a", encoding="utf-8") as log:
            log.write(json.dumps(run) + "\n")
        if run["broken"]:
            broken.append(name)
    print(
        f"{len(broken)} of {len(arguments.targets or known)} targets broken; inputs in {FINDINGS}"
        if broken
        else "all ok"
    )
    return 1 if broken else 0


def _turns(names: list[str], cpu_seconds: float, broken: list[str]) -> Iterator[str]:
    """Yields each target once; or, if a time is given, that with the least in the log, until all sound ones have it."""
    if not cpu_seconds:
        yield from names
        return
    while True:
        totals = _totals()
        lacking = {name: totals[name][0] for name in names if name not in broken and totals[name][0] < cpu_seconds}
        if not lacking:
            return
        yield min(lacking, key=lambda name: lacking[name])


def _fuzz_apart(name: str, seconds: int, is_ascii: bool) -> tuple[dict[str, Any], str]:
    """Runs a target in another process; returns the line for the log, and the exception if one escaped."""
    FINDINGS.mkdir(exist_ok=True)
    command = [*ONE, name, "--seconds", str(seconds), *(["--ascii"] if is_ascii else [])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    counts = re.findall(r"(?:#|stat::number_of_executed_units:\s*)(\d+)", done.stderr)
    said = (done.stdout + done.stderr).splitlines()
    lines = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b|.*ERROR:", line)]
    num_inputs = int(counts[-1]) if counts else 0
    run = {
        "target": name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "inputs": num_inputs,
        "broken": done.returncode != 0 or num_inputs == 0,  # whatever ended it in peace, nothing was tested
    }
    return run, lines[0][:160] if lines else "" if num_inputs else "it read no input"


def _summary() -> str:
    """Adds up the runs in the log: a Markdown table with CPU time, inputs and broken runs of each target."""
    rows = [
        f"| `{name}` | {seconds / 60:.1f} | {inputs:,.0f} | {broken:.0f} |"
        for name, (seconds, inputs, broken, _) in sorted(_totals().items())
    ]
    return "\n".join(["| target | CPU minutes | inputs | broken runs |", "|---|---:|---:|---:|", *rows])


def _totals() -> dict[str, list[float]]:
    """Adds up CPU seconds, inputs, broken runs and runs of each target in the log."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for line in LOG.read_text(encoding="utf-8").splitlines() if LOG.exists() else ():
        run = json.loads(line)
        for place, key in enumerate(("cpu_seconds", "inputs", "broken")):
            totals[run["target"]][place] += run[key]
        totals[run["target"]][3] += 1
    return totals


def _keep_here(name: str) -> int:
    """Chooses which inputs of a target are kept; returns 1 if one of them still breaks the reader."""
    # With it, targets whose parser runs in a process of its own need no fresh Python for each input.
    with contextlib.suppress(ImportError):
        import atheris  # noqa: F401
    from tests.fuzz.kept import keep
    from tests.fuzz.targets.all_targets import TARGETS

    there, kept, broken = keep(next(target for target in TARGETS if target.name == name), FINDINGS)
    print(f"{name:<16} {kept:>5} of {there:,} inputs kept", *(f"  BROKEN: {line[:160]}" for line in broken), sep="\n")
    return 1 if broken else 0


def _fuzz_here(name: str, seconds: int, is_ascii: bool) -> None:
    import atheris

    atheris.enabled_hooks.add("str")  # what texts are compared with; its hook for patterns fails on some of them
    with atheris.instrument_imports(include=["facekd", "evaluation", "data_prep", "tarfile"]):
        from tests.fuzz.kept import kept_inputs
        from tests.fuzz.limits import Watch
        from tests.fuzz.target import TargetRunner
        from tests.fuzz.targets.all_targets import TARGETS

        # Readers import some modules only when they are called, which must be instrumented, too.
        target = next(target for target in TARGETS if target.name == name)
        runner = TargetRunner(target)
        seeds = [*target.seeds(), *target.refused(), *kept_inputs(name)]
        for seed in seeds:
            runner.feed(seed)
    with runner, Watch(target.megabytes, SECONDS_AN_INPUT) as watch:
        # What the inputs are made from: the seeds, what earlier runs found, and the words of the format.
        corpus, words = FINDINGS / "corpus" / name, FINDINGS / f"{name}.words"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (corpus / f"seed_{number}").write_bytes(seed)
        words.write_text("# words\n" + "".join(map(_dictionary_line, target.words)), encoding="ascii")
        options = [
            f"-max_total_time={seconds}",
            f"-rss_limit_mb={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + MEGABYTES_AT_ONCE}",
            f"-timeout={SECONDS_BY_THE_CLOCK}",
            f"-report_slow_units={SECONDS_BY_THE_CLOCK}",
            f"-artifact_prefix={FINDINGS / name}-",
            "-print_final_stats=1",
            f"-max_len={target.max_len}",
            f"-only_ascii={int(is_ascii)}",
            f"-dict={words}",
        ]
        atheris.Setup([name, str(corpus), *options], lambda content: watch.run(runner.feed, content) and None)
        atheris.Fuzz()


def _dictionary_line(word: str | bytes) -> str:
    """Returns a line of libFuzzer's dictionary, which escapes what is not plain ASCII."""
    content = word.encode() if isinstance(word, str) else word
    return (
        '"' + "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in content) + '"\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
