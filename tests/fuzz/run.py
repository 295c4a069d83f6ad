"""Fuzzes the readers of foreign files with atheris: `python -m tests.fuzz.run [--seconds N] [TARGET ...]`.

Each target runs in a process of its own, with limits for memory and for the time of a single input, from the seeds of
`text_targets` and `binary_targets` and what earlier runs have found. An input that breaks a reader is kept in
`fuzz_findings/`, printed with the exception, and ends with status 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FINDINGS = Path("fuzz_findings")
MEGABYTES, SECONDS_AN_INPUT = 3000, 20


def main() -> int:
    """Runs all targets, or those named; returns 1 if one is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _fuzz_here(arguments.targets[0], arguments.seconds)
        return 0

    # One process after the other: a target may end its process in any way.
    from tests.fuzz.binary_targets import TARGETS as BINARY
    from tests.fuzz.text_targets import TARGETS as TEXT

    known = [target.name for target in (*TEXT, *BINARY)]
    if unknown := set(arguments.targets) - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    broken = []
    for name in arguments.targets or known:
        status, executions, last = _fuzz_apart(name, arguments.seconds)
        print(f"{name:<16} {executions:>10,} inputs  {'ok' if status == 0 else 'BROKEN: ' + last}", flush=True)
        if status != 0:
            broken.append(name)
    print(
        f"{len(broken)} of {len(arguments.targets or known)} targets broken; inputs in {FINDINGS}"
        if broken
        else "all ok"
    )
    return 1 if broken else 0


def _fuzz_apart(name: str, seconds: int) -> tuple[int, int, str]:
    """Runs a target in another process; returns its status, the number of inputs, and the exception if one escaped."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--one", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    counts = re.findall(r"(?:#|stat::number_of_executed_units:\s*)(\d+)", done.stderr)
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if re.match(r"\w*(Error|Exception)\b|.*ERROR:", line)
    ]
    return done.returncode, int(counts[-1]) if counts else 0, lines[0][:160] if lines else ""


def _fuzz_here(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["facekd", "evaluation", "data_prep"]):
        from tests.fuzz.binary_targets import TARGETS as BINARY
        from tests.fuzz.target import TargetRunner
        from tests.fuzz.text_targets import TARGETS as TEXT
    target = next(target for target in (*TEXT, *BINARY) if target.name == name)
    FINDINGS.mkdir(exist_ok=True)
    with TargetRunner(target) as runner, tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / f"seed_{number}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-timeout={SECONDS_AN_INPUT}",
            f"-artifact_prefix={FINDINGS / name}-",
            "-print_final_stats=1",
            "-max_len=65536",
        ]
        atheris.Setup([name, corpus, *options], lambda content: runner.feed(content) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
