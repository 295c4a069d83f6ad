"""Runs every benchmark at a quick setting and writes the results into docs/benchmarks.md, as `make bench` does.

Each benchmark runs in a process of its own. Its command, commit, date, machine and tables replace what stands between
its two markers in the page, `<!-- bench:NAME -->` and `<!-- /bench -->`; the rest of the page is written by hand and is
kept. If a benchmark fails or does not fit in the time, a sentence that says so takes the place of its tables.

    python benchmarks/run_all.py                       # all, in under 15 minutes on 2 quiet cores
    python benchmarks/run_all.py --only loader records
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from measuring import MXNET_PYTHON, Table, machine

from facekd.errors import FacekdError, run_verb
from facekd.files.writing import write_text
from facekd.utils.progress import format_duration
from facekd.utils.wording import counted

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"


class Benchmark(NamedTuple):
    """Describes how to run one file of this folder at a quick setting."""

    name: str
    words: str  # the file and its options
    seconds: int  # expected on 2 quiet cores
    json_option: str = "--json"
    needs_mxnet: bool = False


BENCHMARKS = (
    Benchmark("loader", "loader.py --num-images 1024 --num-batches 40 --turns 5", 80),
    Benchmark(
        "records", "records.py --num-lines 300000 --num-images 20000 --num-writes 1000 --turns 3", 60, needs_mxnet=True
    ),
    Benchmark(
        "train_step", "train_step.py --backbones mobilefacenet --batch-size 16 --turns 4 --variants loop bf16", 60
    ),
    Benchmark("train_step_large", "train_step.py --backbones iresnet50 iresnet100 --batch-size 4 --turns 2", 150),
    Benchmark("large_head", "large_head.py --classes 10000 93431 --embedding-size 512 --rounds 2 --steps 2", 80),
    Benchmark("distillation_step", "distillation_step.py --batch-size 16 --turns 4", 70, "--output"),
    Benchmark("scaling", "scaling.py --turns 4", 80),
    Benchmark("validation", "validation.py --turns 5 --pairs 160", 30),
    Benchmark("ijbc_scoring", "ijbc_scoring.py --fraction 0.1 --turns 1", 60, "--output"),
    Benchmark("ijb_embedding", "ijb_embedding.py --people 10 --turns 3", 40, "--output"),
    Benchmark(
        "backbones",
        "backbones.py --backbones mobilefacenet:112:1.0 mobilefacenet:64:0.5 --rounds 3 --seconds 0.5",
        60,
        "--output",
    ),
)


def run(benchmark: Benchmark, scratch: Path, limit: float) -> tuple[str, bool]:
    """Runs a benchmark; returns what goes between its markers, and whether nothing went wrong."""
    if limit <= 0:
        return "Left out: no time was left.", False
    if benchmark.needs_mxnet and not MXNET_PYTHON.exists():
        return (
            f"Left out: it needs mxnet; create its environment by `make {MXNET_PYTHON.parent.parent}/.installed`.",
            True,
        )
    found = scratch / f"{benchmark.name}.json"
    file, *options = benchmark.words.split()
    command = [sys.executable, str(ROOT / "benchmarks" / file), *options, benchmark.json_option, str(found)]
    start = time.monotonic()
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"Left out: `python benchmarks/{benchmark.words}` did not end within {format_duration(limit)}.", False
    if finished.returncode:
        print(finished.stdout + finished.stderr, file=sys.stderr)
        last = (finished.stderr.strip().splitlines() or ["it printed no error"])[-1]
        return f"`python benchmarks/{benchmark.words}` failed: {last[:300]}", False
    return f"{_origin(benchmark, time.monotonic() - start)}\n\n{tables_of(found, finished.stdout)}", True


def _origin(benchmark: Benchmark, seconds: float) -> str:
    """Formats the command, commit, date and machine of a result."""
    about = machine()
    where = (
        about["gpu"]
        or f"CPU: {counted(about['cores'], 'core')} of {about['processor']}, load {about['load']} at the end"
    )
    return (
        f"`python benchmarks/{benchmark.words}`, commit {commit()}, {datetime.date.today():%d %B %Y}, {where}, "
        f"Python {about['python']}, torch {about['torch']}, {format_duration(seconds)}. Median (lowest to highest)."
    )


def tables_of(found: Path, printed: str) -> str:
    """Returns the tables in a benchmark's JSON file as Markdown, or what it printed if there are none."""
    content = json.loads(found.read_text())
    printed = re.sub(
        rf"{re.escape(tempfile.gettempdir())}/\w+/", "", printed
    ).strip()  # temporary folders no longer exist
    tables = content.get("tables") if isinstance(content, dict) else None
    if not tables and "\n|--" not in printed:
        return f"```text\n{printed}\n```"
    # Separate text from a printed table by blank lines, as Markdown needs.
    if not tables:
        lines = printed.splitlines()
        breaks = ["\n" if one.startswith("|") and other.startswith("|") else "\n\n" for one, other in pairwise(lines)]
        return "".join(line + end for line, end in zip(lines, [*breaks, ""], strict=True))
    return "\n\n".join(f"{table['title']}:\n\n{Table(**table).markdown()}" for table in tables)


def commit() -> str:
    """Returns the commit of the checkout, followed by "with changes" if its code was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "facekd", "evaluation", "data_prep", "benchmarks"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def put_into_page(page: str, name: str, content: str) -> str:
    """Returns the page with the text between a benchmark's markers replaced.

    Raises:
        FacekdError: the page does not have the two markers once and in order.
    """
    start, end = f"<!-- bench:{name} -->", "<!-- /bench -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    blocks = pattern.findall(page)
    if len(blocks) != 1 or blocks[0].count("<!-- bench:") != 1:
        raise FacekdError(
            f"docs/benchmarks.md should hold one `{start}` with `{end}` after it; add both where the results belong"
        )
    return pattern.sub(lambda _: f"{start}\n\n{content}\n\n{end}", page)


def main(argv: list[str] | None = None) -> int:
    """Runs the chosen benchmarks and writes the page after each, so that an interrupted run keeps its results."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"run only these (default: all): {', '.join(names)}",
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="time limit for all of them together (default: 15)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write into (default: docs/benchmarks.md)")
    arguments = parser.parse_args(argv)

    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in arguments.only]
    for benchmark in chosen:  # refuse a page without markers before anything runs
        put_into_page(arguments.page.read_text(encoding="utf-8"), benchmark.name, "")

    # Run each in the time that is left, and write its results at once.
    start, is_whole = time.monotonic(), True
    with tempfile.TemporaryDirectory() as scratch:
        for number, benchmark in enumerate(chosen):
            left = 60 * arguments.minutes - (time.monotonic() - start)
            rest = sum(other.seconds for other in chosen[number:])
            print(
                f"{number + 1} of {len(chosen)}: {benchmark.words}; about {format_duration(rest)} to go",
                file=sys.stderr,
            )
            content, is_fine = run(benchmark, Path(scratch), left)
            is_whole &= is_fine
            page = put_into_page(arguments.page.read_text(encoding="utf-8"), benchmark.name, content)
            write_text(arguments.page, page)
            print(content + "\n", flush=True)
    print(f"written to {arguments.page}, after {format_duration(time.monotonic() - start)}", file=sys.stderr)
    return 0 if is_whole else 1


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
