"""Tables: columns of numbers are told from columns of text, in every form."""

from __future__ import annotations

import io

from rich.console import Console

from facekd.pages.tables import Table

TABLE = Table(
    "Results",
    ["model", "TAR %", "difference", "verdict", "unknown"],
    [
        ["a|b", "98.77", "+0.10 (−0.20 to +0.30)", "[bold]better[/bold]", "-"],
        ["c\nd", "-", "−0.10", "no difference", "-"],
    ],
)


def test_markdown_escapes_pipes_and_aligns_numbers_to_the_right() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "## Results",
        "",
        "| model | TAR % | difference | verdict | unknown |",
        "|---|---:|---:|---|---:|",
        r"| a\|b | 98.77 | +0.10 (−0.20 to +0.30) | [bold]better[/bold] | - |",
        "| c\\nd | - | −0.10 | no difference | - |",
    ]
    assert not Table("", TABLE.head, TABLE.rows).to_markdown().startswith("#")


def test_the_terminal_shows_brackets_as_they_are() -> None:
    stream = io.StringIO()
    Table("", TABLE.head, TABLE.rows[:1]).print(Console(file=stream, width=200))
    head, row = stream.getvalue().splitlines()
    assert "[bold]better[/bold]" in row and "a|b" in row
    assert row.index("98.77") + 5 == head.index("TAR %") + 5  # both end in one column


def test_sentences_that_begin_with_a_number_are_text() -> None:
    sentence = "3 faces lie outside of their images, so they were left out of the evaluation"
    assert Table("", ["count", "what"], [["3", sentence]]).is_number == [True, False]
    assert Table("", ["empty"], [[""]]).is_number == [False]
    assert Table("", ["none"], []).is_number == [False]
