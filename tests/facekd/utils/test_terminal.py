"""Checks that a terminal obeys nothing of what is printed, and that rich's own colours stay."""

from __future__ import annotations

import io
import sys

import pytest

from facekd.errors import run_verb
from facekd.pages.tables import Table
from facekd.utils.progress import track
from facekd.utils.terminal import console, printable_streams, say

EVIL = "[red]a\x1b]0;b\x07\u202ec[/none]"
SHOWN = "[red]a\\x1b]0;b\\x07\\u202ec[/none]"


def test_whatever_a_verb_prints_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        print(f"\t{EVIL}\n{EVIL}")
        sys.stdout.writelines([EVIL, "\n"])
        print("x" * 10_000)
        print(f"warning: {EVIL}\udcff", file=sys.stderr)
        print("y" * 3_000_000, file=sys.stderr)
        return 0

    before = sys.stdout, sys.stderr
    assert run_verb(main) == 0
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    assert out == f"\t{SHOWN}\n{SHOWN}\n{SHOWN}\n{'x' * 10_000}\n"  # programs may read it, so nothing is left out
    assert err.startswith(f"warning: {SHOWN}\\udcff\nyyy")
    assert len(err) < 5000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_are_no_markup_and_titles_are_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with printable_streams():
        say(console(), f": {EVIL}\nthen", bold=EVIL)
        Table("", ["name", "n"], [[EVIL, "5"], ["z" * 3_000_000, "6"]]).print(console())
    written = terminal.getvalue()
    assert written.startswith(f"\x1b[1m{SHOWN}\x1b[0m: {SHOWN}\nthen\n")
    assert written.count(SHOWN) == 3
    assert "\x07" not in written
    assert "more characters)" in written
    assert [line.split()[-1] for line in written.splitlines()[-2:]] == ["5", "6"]  # the name hides no number


def test_what_is_printed_beside_a_bar_is_printable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with printable_streams():
        for _ in track([1], f"reading {EVIL}"):
            print(f"warning: {EVIL}", file=sys.stderr)
    written = terminal.getvalue()
    assert f"warning: {SHOWN}" in written
    assert f"reading {SHOWN}" in written
    assert "\x1b[2K" in written  # rich's own: it clears the line of the bar
    assert "\x1b]" not in written
    assert sys.stderr is terminal
