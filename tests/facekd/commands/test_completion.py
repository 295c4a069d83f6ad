"""What a shell is answered when the Tab key is pressed, asked as argcomplete's functions of the shell ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.cli import main

pytest.importorskip("argcomplete")


def completions(line: str, folder: Path) -> list[str]:
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    answers = folder / "answers"
    asked |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **asked}
    done = subprocess.run(
        [sys.executable, "-m", "facekd"], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return [word.strip() for word in answers.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("facekd doc", ["doctor"]),
        ("facekd --ver", ["--version"]),
        ("facekd data make-", ["make-ijb", "make-pairs", "make-protocol"]),
        ("facekd evaluate lfw --rule ", ["exact", "insightface"]),
        ("facekd configs configs/deb", ["configs/debug.yaml"]),
        ("facekd train configs/debug.yaml --dr", ["--dry-run"]),
        ("facekd data nonsense ", []),
    ],
)
def test_what_fits_is_offered(line: str, expected: list[str], tmp_path: Path) -> None:
    assert completions(line, tmp_path) == expected


@pytest.mark.parametrize("left_over", [{"_ARGCOMPLETE": "1"}, {"COMP_LINE": "facekd", "COMP_POINT": "x"}])
def test_variables_that_are_left_over_ask_for_nothing(
    left_over: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_ARGCOMPLETE": "1", **left_over}.items():
        monkeypatch.setenv(name, value)
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("facekd ")
