"""Prints so that a terminal shows what it is given, and obeys none of it: names of files may hold control characters.

Everything printed goes through `printable_streams`, which `run_verb` sets up. Only rich writes past it, because its
colours are control characters: make consoles by `console`, and give them foreign text by `say` or `facekd.pages.Table`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from facekd.utils.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_MESSAGE = 4000


def printable(text: str, longest: int | None = LONGEST_MESSAGE, kept: str = "\n") -> str:
    """Returns text that a terminal shows as it is: characters that it would obey are written as escapes.

    Args:
        text: any text; names of files and contents of strangers' files hold anything.
        longest: the middle of what would be shown longer is left out, and the number of characters said; None for all.
        kept: characters that stay: line ends.
    """
    if longest is None or len(text) <= longest:
        whole = text if text.isprintable() else "".join(_escaped(text, kept))
        if longest is None or len(whole) <= longest:
            return whole
    half = longest // 2
    first, last = (_fitting(_escaped(part, kept), half) for part in (text[:half], reversed(text[-half:])))
    num_left = len(text) - len(first) - len(last)
    return f"{''.join(first)} ... ({counted(num_left, 'more character')}) ... {''.join(reversed(last))}"


def _escaped(text: Iterable[str], kept: str) -> Iterator[str]:
    """Yields what is shown for each character."""
    for character in text:
        if character.isprintable() or character in kept:
            yield character
        else:
            yield character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _fitting(pieces: Iterable[str], longest: int) -> list[str]:
    """Returns the first pieces that together are no longer than `longest`."""
    found, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > longest:
            break
        found.append(piece)
    return found


def on_one_line(text: str) -> str:
    """Returns all of a text as a list or a command shows it: on one line, in one column, and uncut."""
    return printable(text, None, kept="")


@contextmanager
def printable_streams() -> Iterator[None]:
    """Makes whatever is printed `printable`; on standard error, which no program reads, also no text very long."""
    streams = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = _Printable(sys.stdout, None)  # pyright: ignore[reportAttributeAccessIssue]
    if sys.stderr is not None:
        sys.stderr = _Printable(sys.stderr, LONGEST_MESSAGE)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def console(*, stderr: bool = False) -> Console:
    """Returns a console of rich for standard output or error; lines do not wrap, and numbers get no colours."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    while isinstance(stream, _Printable):
        stream = stream.below
    return Console(file=stream, soft_wrap=True, highlight=False)


def say(console: Console, text: str, bold: str = "") -> None:
    """Prints lines of text on a console, the first after a title in bold; brackets are no markup."""
    from rich.text import Text

    console.print(Text.assemble((printable(bold), "bold"), "\n".join(map(printable, text.split("\n")))))


class _Printable:
    """Passes text on to a stream as `printable` writes it."""

    def __init__(self, below: Any, longest: int | None) -> None:
        self.below, self._longest = below, longest

    def write(self, text: str) -> int:
        self.below.write(printable(text, self._longest, kept="\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)
