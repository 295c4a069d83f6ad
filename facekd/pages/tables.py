"""Defines a table of text and writes it as Markdown, to the terminal and, through its template, as HTML."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from facekd.pages.markdown import markdown_cell, markdown_text
from facekd.utils.foreign import shown

if TYPE_CHECKING:
    from rich.console import Console

# A cell that reads as a number, perhaps with a unit or an interval behind it. Longer cells are sentences.
NUMBER = re.compile("(?:< )?[-+\N{MINUS SIGN}]?[0-9].{0,39}")
LONGEST_CELL = 1000
LONGEST_VALUE = 24  # a longer cell among sentences may wrap
NO_NUMBER = ("", "-", "n/a", "not measurable")


@dataclass(frozen=True)
class Table:
    """Holds a heading and rows of text under column names; the first column names the row.

    Attributes:
        title: the heading above the table; empty for none.
        head: the column names; all empty for a table without a heading row.
        rows: the cells, as many in each row as in `head`.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        # A name of a file or a person may hold anything, and stands here once for the terminal and for both pages.
        object.__setattr__(self, "title", shown(self.title, LONGEST_CELL))
        object.__setattr__(self, "head", [shown(name, LONGEST_CELL) for name in self.head])
        object.__setattr__(self, "rows", [[shown(cell, LONGEST_CELL) for cell in row] for row in self.rows])

    @cached_property
    def is_number(self) -> list[bool]:
        """Tells for each column whether it holds numbers, which are aligned to the right."""
        columns = [[row[place] for row in self.rows] for place in range(len(self.head))]
        return [
            any(cell not in ("", "not measurable") for cell in column)
            and all(cell in NO_NUMBER or NUMBER.fullmatch(cell) is not None for cell in column)
            for column in columns
        ]

    def kind_of(self, column: int, cell: str) -> str:
        """Returns the classes of a cell in a page: a number does not wrap, not even among sentences."""
        if self.is_number[column]:
            return "number"
        return "text value" if len(cell) <= LONGEST_VALUE and NUMBER.fullmatch(cell) else "text"

    def to_markdown(self) -> str:
        """Returns a pipe table, under its heading if it has one."""
        rule = "|" + "".join("---:|" if is_number else "---|" for is_number in self.is_number)
        heading = [f"## {markdown_text(self.title, len(self.title))}", ""] if self.title else []
        return "\n".join([*heading, _pipes(self.head), rule, *map(_pipes, self.rows), ""])

    def to_text(self) -> str:
        """Returns the table as a terminal shows it, in columns, under its heading if it has one."""
        from rich.console import Console

        stream = io.StringIO()
        self.print(Console(file=stream, soft_wrap=True, highlight=False))
        return (f"{self.title}\n" if self.title else "") + stream.getvalue()

    def print(self, console: Console) -> None:
        """Prints the table, without its heading, in columns that do not wrap."""
        from rich.measure import Measurement
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False)
        for name, is_number in zip(self.head, self.is_number, strict=True):
            table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(shown(cell)) for cell in row))  # Text: a name in brackets is no markup
        # rich would cut cells, numbers as well, to fit them all into the width of the terminal.
        wide = console.options.update(max_width=LONGEST_CELL * len(self.head))
        before, console.width = console.width, max(Measurement.get(console, wide, table).maximum, console.width)
        console.print(table)
        console.width = before


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"
