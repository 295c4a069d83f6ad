"""Writes foreign text into Markdown so that it is seen as it is: no link, picture, tag or heading comes of it.

facekd's own sentences pass through the same functions: code between single backticks stays code.
"""

from __future__ import annotations

import re

from facekd.utils.foreign import shown
from facekd.utils.terminal import LONGEST_MESSAGE, on_one_line

_CODE = re.compile("((?<!`)`[^`]+`(?!`))")
_SIGNS = re.compile(
    r"`|\](?=\()"  # code; a link or a picture before its address, others need a line "[a]: ADDRESS"
    r"|(?<!\s)\*|\*(?=\S|$)"  # emphasis; "2 * 3" stays as it is
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis, which none within a word makes
    r"|<(?=[A-Za-z/!?])"  # the beginning of a tag; "< 0.001" stays as it is
    r"|&(?=#?\w+;)"  # an entity
    r"|~(?=~)"  # a fence, or a line through the text
    r"|\\(?=[!-/:-@\[-`{-~]|$)"  # a mark of the above itself
)
_BLOCK = re.compile(
    r"(?:(#(?=#{0,5}(?:\s|$))|>|[-+](?=\s|$)"  # a heading, quotation or list
    r"|\["  # an address for links; a box to tick
    r"|[-=](?=[-=\s]*$))"  # a line across the page or under a heading
    r"|(\d{1,9})([.)])(?=\s|$))"  # a numbered list
)


def markdown_text(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Returns text for one line of Markdown, whose signs stand for themselves; `shown` escapes control characters.

    A pipe is left alone, which means something in tables only: see `markdown_cell`. An address on the web is shown as
    it is, and some readers make a link of it.

    Args:
        text: any text.
        longest: the middle of a longer text is left out.
    """
    line = _inline(text, longest)
    block = _BLOCK.match(line)
    if block is None:
        return line
    sign, number, end = block.groups()
    return (f"\\{sign}" if sign else f"{number}\\{end}") + line[block.end() :]


def markdown_cell(text: str) -> str:
    """Returns all of a text for a cell of a table, where no heading, quotation or list can begin."""
    return _inline(text, len(text)).replace("|", "\\|")


def _inline(text: str, longest: int) -> str:
    parts = _CODE.split(shown(text, longest).lstrip())  # four spaces would begin code
    parts[::2] = [_SIGNS.sub(lambda sign: f"\\{sign[0]}", part) for part in parts[::2]]
    return "".join(parts)


def code(text: str) -> str:
    """Returns text as code within a line, whatever backticks it holds; all of it, because commands are copied."""
    text = on_one_line(text)
    fence = "`" * (_longest_run(text) + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def code_block(text: str) -> str:
    """Returns a line of text as a block of code, which no backticks in it can end."""
    text = on_one_line(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    """Returns the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
