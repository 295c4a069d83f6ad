"""Checks what a command does with standard streams that are closed, or that take nothing, in a real shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Says what the first three descriptors are, in this process and in one that it starts.
VERB = """
import os, subprocess, sys
from facekd.errors import run_verb
def main():
    own = open(__import__('facekd').__file__)
    code = "import os; print([os.readlink(f'/proc/self/fd/{n}').split('/')[-1].split(':')[0] for n in range(3)])"
    print(own.fileno() > 2, sys.stdin.read() == "", flush=True)
    print("a warning", file=sys.stderr)
    subprocess.run([sys.executable, "-c", code], check=True)
sys.exit(run_verb(main))
"""


def run(code: str, redirected: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'exec "$@" {redirected}', "bash", sys.executable, "-c", code]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_a_file_does_not_get_the_number_of_a_closed_stream() -> None:
    done = run(VERB, "<&- 2>&-")
    assert (done.returncode, done.stdout) == (0, "True True\n['null', 'pipe', 'null']\n")


MENU = "import sys; from facekd.cli import main; sys.exit(main(['--help']))"
HELP = "import sys; from facekd.cli import main; sys.exit(main(['models', '--help']))"
LINE = "import sys; from facekd.errors import run_verb; sys.exit(run_verb(lambda: print('cosine 0.5')))"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("code", [HELP, LINE])
def test_a_result_that_a_full_disk_does_not_take_is_an_error(
    code: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = run(code, ">/dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left on the device while writing standard output; ")
    assert done.stderr.count("\n") == 1


def test_a_command_without_standard_output_does_not_begin() -> None:
    done = run(MENU, ">&-")
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output is closed, so nothing could be printed: send it to a file, or to /dev/null\n"
    )
