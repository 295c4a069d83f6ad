"""Writes the reference in docs/api.md from the docstrings: `python -m tests.api_page`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facekd

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
MARK = "<!-- From here on written by `python -m tests.api_page`. -->\n"
# In the order in which they are needed.
NAMES = (
    ("load_model", "Model", "Face", "detect", "similarity"),
    ("evaluate_lfw", "evaluate_ijbc", "Results"),
    ("train", "distill", "Run"),
)


def reference() -> str:
    """Returns the part of the page that the docstrings give."""
    return "\n".join(line for group in NAMES for name in group for line in _describe(name)) + "\n"


def _describe(name: str) -> Iterator[str]:
    thing = getattr(facekd, name)
    yield f"### `facekd.{name}`\n"
    if inspect.isclass(thing):
        yield from _text(thing)
        for member, value in _members(thing):
            call = member if isinstance(value, property) or hasattr(value, "attrname") else _call(member, value)
            yield f"#### `{name}.{call}`\n" if len(call) < 60 else f"#### `{name}.{member}`\n\n```py\n{call}\n```\n"
            yield from _text(value)
    else:
        yield f"```py\n{_call(name, thing)}\n```\n"
        yield from _text(thing)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields the public methods and properties, those of its own parents in facekd too."""
    for parent in kind.__mro__:
        for name, value in vars(parent).items():
            is_described = callable(value) or isinstance(value, property | classmethod) or hasattr(value, "attrname")
            if parent.__module__.startswith("facekd.") and not name.startswith("_") and is_described:
                yield name, value


def _call(name: str, function: Any) -> str:
    """Returns the signature in one line, or with a parameter in each if it is long."""
    signature = inspect.signature(getattr(function, "__func__", function))
    words: list[str] = []
    for value in signature.parameters.values():
        if value.name in ("self", "cls"):
            continue
        if value.kind is value.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        default = "" if value.default is value.empty else f" = {value.default!r}"
        words.append(f"{value.name}: {value.annotation}{default}")
    line = f"{name}({', '.join(words)}) -> {signature.return_annotation}"
    if len(line) <= 110:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f") -> {signature.return_annotation}"])


def _text(thing: Any) -> Iterator[str]:
    """Yields a docstring as Markdown: its sections become lists."""
    thing = getattr(thing, "__func__", getattr(thing, "func", thing))
    lines = inspect.cleandoc(thing.__doc__).split("\n")
    paragraph: list[str] = []
    for line in [*lines, ""]:
        section = re.fullmatch(r"(Args|Returns|Raises|Attributes):", line)
        entry = re.match(r"    ([\w, ]+): (.*)", line)
        if section or entry or not line:
            if paragraph:
                is_last = not entry and paragraph[0].startswith("- ")
                yield " ".join(paragraph) + ("\n" if is_last or not paragraph[0].startswith("- ") else "")
            paragraph = []
        if section:
            yield f"{section[1]}:\n"
        elif entry:
            paragraph = [f"- `{entry[1]}`: {entry[2]}"]
        elif line:
            paragraph.append(line.strip())


def whole_page() -> str:
    """Returns the page with its reference written anew."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + reference()


if __name__ == "__main__":
    PAGE.write_text(whole_page(), encoding="utf-8")
