"""Inputs that take too much of the processor or of memory are faults, whatever the reader makes of it."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from facekd.errors import DataError
from facekd.utils.foreign import reading
from tests.fuzz.limits import TooMuchError, Watch
from tests.fuzz.target import Target, TargetRunner

MEGABYTES, SECONDS = 60, 0.15


def feed(read: Any, content: bytes = b"x") -> Any:
    """Has a target of that reader read an input under limits."""
    with TargetRunner(Target("t", "f", read, list)) as runner, Watch(MEGABYTES, SECONDS) as watch:
        return watch.run(runner.feed, content)


def wrapped(parse: Any) -> Any:
    """Returns a reader that turns whatever its parser raises into a sentence."""

    def read(path: Path) -> Any:
        with reading(path, "a test"):
            return parse(path)

    return read


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def sum_in_c(_: Path) -> int:
    return sum(range(12_000_000))


@pytest.mark.parametrize("parse", [lambda _: burn(30), sum_in_c, lambda _: [burn(0.1), burn(0.1)]])
def test_an_input_that_takes_the_processor_too_long_is_a_fault(parse: Any) -> None:
    began = time.process_time()
    with pytest.raises(TooMuchError, match=r"s of the processor"):
        feed(wrapped(parse))
    assert time.process_time() - began < 10


def test_waiting_and_a_little_work_are_none() -> None:
    assert feed(wrapped(lambda _: (time.sleep(0.3), burn(0.05))))


def test_memory_beyond_the_limit_is_a_fault_although_it_is_given_back() -> None:
    with pytest.raises(TooMuchError, match=r"^\d\d MB of memory for 1 bytes"):
        feed(wrapped(lambda _: len(b"x" * (80 << 20))))
    assert feed(wrapped(lambda _: len(b"x" * (20 << 20))))


def test_a_peak_of_before_hides_none() -> None:
    """Neither what was taken before the limits were set, nor an input that is just within them."""
    len(b"x" * (200 << 20))
    sizes = iter([55, 55, 80])
    with Watch(MEGABYTES, 5) as watch:
        watch.run(lambda _: len(b"x" * (next(sizes) << 20)), b"")
        watch.run(lambda _: len(b"x" * (next(sizes) << 20)), b"")
        with pytest.raises(TooMuchError):
            watch.run(lambda _: len(b"x" * (next(sizes) << 20)), b"")


def test_memory_that_is_asked_for_and_not_touched_is_a_fault_although_the_reader_says_a_sentence() -> None:
    with pytest.raises(AssertionError, match="asks for more memory than there is"):
        feed(wrapped(lambda _: len(bytearray(8 << 30))))


def test_sentences_and_limits_of_before_are_left_alone() -> None:
    def refuse(path: Path) -> None:
        raise DataError(f"{path.name}: no")

    assert feed(refuse) is False
    mmap.mmap(-1, 3 << 30).close()  # the limit is lifted again


BROKEN = """
import sys
from tests.fuzz import run
from tests.fuzz.target import Target
from tests.fuzz.targets import all_targets
def read(path):
    content = path.read_bytes()
    if content[:2] == b"ab":
        %s
all_targets.TARGETS.append(Target("toy", "f", read, lambda: [b"a", b"xb"], finds=False, words=("ab",)))
run._fuzz_here("toy", 30, False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("while True: pass", "TooMuchError: more than 5 s of the processor"),
        ("len(b'x' * (400 << 20))", "TooMuchError: [34].. MB of memory for"),
    ],
    ids=["time", "memory"],
)
def test_the_fuzzer_keeps_an_input_that_takes_too_much(tmp_path: Path, fault: str, said: str) -> None:
    pytest.importorskip("atheris", reason="fuzzing needs atheris")
    done = subprocess.run(
        [sys.executable, "-c", BROKEN % fault],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(said, done.stdout + done.stderr)
    [kept] = (tmp_path / "fuzz_findings").glob("toy-*-*")
    assert kept.read_bytes().startswith(b"ab")
