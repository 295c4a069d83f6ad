"""Reads YAML of anyone within limits, because a page of aliases can stand for billions of values.

Nothing in a configuration needs more than the limits below. Tags, which make other kinds of values, keys that stand
twice in one section, of which YAML's readers silently take the last, and the keys by which jsonargparse imports a class
that a file names, and calls it, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from facekd.errors import ConfigError
from facekd.files.reading import read_text_file
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

MODE = "facekd"  # name of `load_yaml` for jsonargparse
MAX_BYTES = 1 << 18
MAX_VALUES = 10_000  # an alias counts as all that it repeats
MAX_DEPTH = 40
MAX_DIGITS = 100
MAX_OUTER = 5
PLAIN = tuple(f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "map", "null", "seq", "str"))
MERGE = "<<"
# Numbers to the base of 8 and of 60, which nobody expects: `010` would be 8, and `1:30` 90.
OTHER_BASE = re.compile(r"[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
CODE_KEYS = ("class_path", "init_args", "dict_kwargs")  # jsonargparse imports and calls what stands behind them
LIMITS = f"at most {MAX_BYTES >> 10} KB, {MAX_VALUES:,} values with those that aliases repeat, and {MAX_DEPTH} levels"


def read_yaml(path: Path) -> Any:
    """Reads a file.

    Raises:
        ConfigError: it is not YAML, or beyond the limits; the message names the line.
        OSError: it cannot be opened.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: has {counted(path.stat().st_size, 'byte')}, and a configuration {LIMITS}")
    try:
        return load_yaml(read_text_file(path, error=ConfigError))
    except YamlLimitError as error:
        raise ConfigError(f"{path}{_line_of(error)}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: numbers such as 0b_
        parts = [part for name in ("context", "problem") if (part := getattr(error, name, None))]
        problem = ", ".join(parts) or " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML{_line_of(error)}: {shown(problem)}") from error


def load_yaml(text: str) -> Any:
    """Reads a text as jsonargparse does, if it is within the limits.

    Raises:
        yaml.YAMLError: it is not, or is no YAML.
        ValueError, OverflowError: a number is none.
    """
    _check(text)
    try:
        return get_loader("yaml")(text)
    except TypeError as error:  # jsonargparse joins the only key with a text
        raise yaml.YAMLError("its only key is no text") from error
    except (AttributeError, LookupError) as error:  # PyYAML expects of `!!int`, `!!bool` and others what the tag says
        raise yaml.YAMLError("a value is not what its tag says, such as a `!!int` without a number") from error


class YamlLimitError(yaml.MarkedYAMLError):
    """Reports YAML that no configuration needs; `problem` says what, and `problem_mark` where."""


# jsonargparse reads values on the command line by it, too.
set_loader(MODE, load_yaml, (yaml.YAMLError, ValueError, OverflowError))


@dataclass
class _Open:
    """Holds a list or section that is being read: its name for aliases, and where its keys stand.

    Attributes:
        anchor: the name that aliases give it; None for none.
        num_before: number of values before it.
        line_of: the keys of a section so far, by tag and text, with their lines; None for a list.
        is_at_key: whether the next value of a section is a key.
    """

    anchor: str | None
    num_before: int
    line_of: dict[tuple[str | None, str], int] | None
    is_at_key: bool = True


def _check(text: str, num_outer: int = 0) -> None:
    """Refuses a document beyond the limits, by the parser that jsonargparse uses.

    Args:
        text: the document.
        num_outer: number of documents that it is a value in: jsonargparse reads some texts as YAML once more. What
            stands in those may be prose, so that only what takes time and memory is refused.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    size_of: dict[str | None, int | None] = {}  # by anchor; None while it is being read
    stack: list[_Open] = []
    num_values = 0
    try:
        while loader.check_event():
            event: Any = loader.get_event()
            # Count the value; an alias counts as all that it repeats.
            if isinstance(event, yaml.AliasEvent):
                size = size_of.get(event.anchor, 0)  # yaml says later that there is none
                if size is None:
                    raise _refusal(f"the alias *{shown(event.anchor)} stands inside of what it repeats", event)
                num_values += size
            elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
                num_values += 1
                if num_outer == 0 and event.tag not in (None, "!", *PLAIN):
                    raise _refusal(f"has the tag {shown(event.tag)}, and a configuration has no tags", event)
            if num_values > MAX_VALUES:
                raise _refusal(f"more than {MAX_VALUES:,} values; a configuration has {LIMITS}", event)
            # Look at it, and at its place as a key.
            if isinstance(event, yaml.NodeEvent) and stack:
                _note_key(stack[-1], event, is_checked=num_outer == 0)
            if isinstance(event, yaml.ScalarEvent):
                _check_scalar(loader, event, text, num_outer)
                size_of[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                is_section = isinstance(event, yaml.MappingStartEvent)
                stack.append(_Open(event.anchor, num_values - 1, {} if is_section else None))
                size_of[event.anchor] = None
                if len(stack) > MAX_DEPTH:
                    raise _refusal(f"more than {MAX_DEPTH} levels; a configuration has {LIMITS}", event)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = stack.pop()
                size_of[done.anchor] = num_values - done.num_before
    finally:
        loader.dispose()


def _note_key(section: _Open, event: Any, is_checked: bool) -> None:
    """Refuses a key that stands in a section already, or that names code; an alias as a key could be any."""
    is_key, section.is_at_key = section.is_at_key, not section.is_at_key
    if section.line_of is None or not is_key or not is_checked:
        return
    if isinstance(event, yaml.AliasEvent):
        raise _refusal(f"the alias *{shown(event.anchor)} stands for a key; write the key itself", event)
    if not isinstance(event, yaml.ScalarEvent) or event.value == MERGE:
        return
    if code := {*event.value.split(".")} & {*CODE_KEYS}:
        raise _refusal(f"the key '{code.pop()}' would run code that the file names; facekd has no such key", event)
    key = event.tag, event.value
    if key in section.line_of:
        first = section.line_of[key]
        raise _refusal(f"the key '{shown(event.value)}' stands in line {first} already; keep one of the two", event)
    section.line_of[key] = event.start_mark.line + 1


def _check_scalar(loader: Any, event: Any, text: str, num_outer: int) -> None:
    """Refuses a long number, a zero, and a text that is YAML beyond the limits; short ones cannot be."""
    if "\0" in event.value:
        raise _refusal("a text with the character of code 0, which no name of a file has", event)
    if num_outer == 0 and event.implicit[0] and OTHER_BASE.fullmatch(event.value) and event.value.strip("0"):
        raise _refusal(
            f"{shown(event.value)} is a number to another base in YAML; write it without zeros in front and without "
            "colons, or in quotes if it is a text",
            event,
        )
    if len(event.value) <= MAX_DEPTH:
        return
    tag = event.tag or loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if len(event.value) > MAX_DIGITS and tag.endswith((":int", ":float")):
        raise _refusal(f"a number of {counted(len(event.value), 'character')}; the most are {MAX_DIGITS}", event)
    if len(event.value) >= len(text):
        return
    if num_outer == MAX_OUTER:
        raise _refusal("YAML in texts in YAML, many times over", event)
    try:
        _check(event.value, num_outer + 1)
    except YamlLimitError as error:
        raise _refusal(f"a text that is YAML itself: {error.problem}", event) from error
    except yaml.YAMLError:
        pass  # only text


def _refusal(problem: str, event: Any) -> YamlLimitError:
    return YamlLimitError(problem=problem, problem_mark=event.start_mark)


def _line_of(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}" if mark else ""
