"""Checks a value of JSON against a description of its shape, and says in words what the first thing wrong in it is.

A description is one of these:

- the name of a kind, such as `COUNT`;
- an object: a key that begins with `?` may be absent or null, one that begins with `~` may be null; one that ends in
  `*` stands for all keys that begin so; what stands under `if KEY` is needed where that key is there and not null. Keys
  that are not described are free;
- a list of one description, that of every item;
- two kinds, which are the ends of an interval, the lower one first;
- a set of texts, one of which it has to be;
- `TextOr`: text, or what else it says;
- `Checked`: a description, and what its values must not contradict.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.utils.foreign import shown
from facekd.utils.wording import counted

NUMBER, TEXT = "a number", "text"
SHARE = "a share from 0 to 1"
WHOLE = "a whole number"
COUNT = "a whole number from 0"
PATH = "the name of a file or folder"
PART = "the name of a folder within this one"
INTERVAL = (NUMBER, NUMBER)
SHARES = (SHARE, SHARE)

MAX_NUMBER = 1e300  # figures multiply and subtract
MIN_SHARE = 1 / MAX_NUMBER  # above 0: logarithms are drawn
MAX_WHOLE = 2**63 - 1
MAX_DEPTH = 40  # levels of lists and objects; results have about ten
ROUNDING = 1e-9  # of a rate; counts are whole, so that any other difference is a real one


@dataclass(frozen=True)
class TextOr:
    """Describes text, or a value of another shape."""

    shape: Any


@dataclass(frozen=True)
class Checked:
    """Describes a value by its shape, and by what it must not contradict.

    Attributes:
        shape: its description.
        problem: returns what is wrong with a value of this shape, in words that follow its name; None if nothing is.
    """

    shape: Any
    problem: Callable[[Any], str | None]


def problems_of(value: Any, shape: Any) -> Iterator[str]:
    """Yields what is wrong in a value, each in a sentence without its end, which begins with the name of the place.

    Args:
        value: as Python's json reads it.
        shape: the description.
    """
    # What no reader can stand, wherever it is; after that nothing nests too deeply for the rest.
    hopeless = list(_values_that_nobody_expects(value))
    yield from hopeless
    if not hopeless:
        yield from _problems("", value, shape)


def _values_that_nobody_expects(value: Any) -> Iterator[str]:
    """Yields numbers that no figure and no float can show, and values that are nested too deeply."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        place, found, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield f"{shown(place)} is nested more than {MAX_DEPTH} levels deep"
        elif isinstance(found, dict):
            waiting += [(_inside(place, key), item, depth + 1) for key, item in found.items()]
        elif isinstance(found, list):
            waiting += [(f"{place}[{number}]", item, depth + 1) for number, item in enumerate(found)]
        elif isinstance(found, int | float) and not _is_number(found):
            yield f"{place} is '{shown(found, 60)}', and a number is expected"


def _problems(place: str, value: Any, shape: Any) -> Iterator[str]:
    if isinstance(shape, Checked):
        found = list(_problems(place, value, shape.shape))
        yield from found
        if not found and (problem := shape.problem(value)) is not None:
            yield f"{place} {problem}" if place else f"it {problem}"
    elif isinstance(shape, TextOr):
        if not isinstance(value, str):
            yield from _problems(place, value, shape.shape)
    elif isinstance(shape, dict):
        yield from _problems_of_object(place, value, shape)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{place} is no list"
            return
        for number, item in enumerate(value):
            yield from _problems(f"{place}[{number}]", item, shape[0])
    elif isinstance(shape, tuple):
        yield from _problems_of_interval(place, value, shape)
    elif isinstance(shape, frozenset):
        if not isinstance(value, str) or value not in shape:
            yield f"{place} is '{shown(value, 60)}', and one of {', '.join(sorted(shape))} is expected"
    elif not _is(value, shape):
        yield f"{place} is '{shown(value, 60)}', and {shape} is expected"


def _problems_of_object(place: str, value: Any, shape: dict[str, Any]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place or 'it'} is no object"
        return
    for key, inner in shape.items():
        name = key.lstrip("?~")
        if name.endswith("*"):
            for other, item in value.items():
                if other.startswith(name[:-1]) and not (item is None and key != name):
                    yield from _problems(_inside(place, other), item, inner)
        elif key.startswith("if "):
            if value.get(key[3:]) is not None:
                yield from _problems(place, value, inner)
        elif value.get(name) is not None:
            yield from _problems(_inside(place, name), value[name], inner)
        elif not key.startswith("?") and (name not in value or name == key):
            yield f"it has no {_inside(place, name)}"


def _problems_of_interval(place: str, value: Any, shape: tuple[str, str]) -> Iterator[str]:
    if not isinstance(value, list) or len(value) != len(shape):
        yield f"{place} is no list of {counted(len(shape), 'number')}"
        return
    wrong = [one for number, end in enumerate(value) for one in _problems(f"{place}[{number}]", end, shape[number])]
    yield from wrong
    if not wrong and value[0] > value[1] + ROUNDING:
        yield f"{place} is from {value[0]:g} to {value[1]:g}, and an interval goes from its lower end to its higher one"


def _inside(place: str, key: str) -> str:
    return f"{place}.{shown(key)}" if place else shown(key)


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind in (PATH, PART):
        # The name of a part is joined to a folder: it must not lead out of it.
        return _is_path(value) and (kind == PATH or (Path(value).name == value and value not in ("", "..")))
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_number(value):
        return False
    if kind in (WHOLE, COUNT):
        return isinstance(value, int) and abs(value) <= MAX_WHOLE and (kind == WHOLE or value >= 0)
    return kind == NUMBER or -ROUNDING <= value <= 0 or MIN_SHARE <= value <= 1 + ROUNDING


def _is_number(value: float) -> bool:
    """Tells whether a number is finite and of a size that can be drawn; a whole number may have thousands of digits."""
    return abs(value) < MAX_NUMBER and math.isfinite(value)


def _is_path(value: Any) -> bool:
    """Tells whether a system call takes it: text without a zero, in which bytes of names that are no UTF-8 may be."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
