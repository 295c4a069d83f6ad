"""Compares values that were read from a stranger's file with types, before anything uses them.

A type is what an annotation can say: `int`, `float`, `bool`, `str`, `None`, `Any`, a class, `list[X]`, `dict[str, X]`,
`X | None`, `Literal["a", "b"]`, a dataclass or TypedDict for a mapping with these keys, `Annotated[int, Range(1)]`, and
`Plain` for whatever JSON can hold.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from facekd.utils.foreign import shown

LONGEST_VALUE = 60
WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    types.NoneType: "nothing",
}


@dataclasses.dataclass(frozen=True)
class Range:
    """Limits a number, both ends included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low:,} or more"
        return f"from {self.low:,} to {self.high:,}"


PLAIN = "plain"
Plain = Annotated[Any, PLAIN]


class _FaultError(Exception):
    pass


def find_fault(value: Any, kind: Any, place: str = "", names: Mapping[str, Any] = types.MappingProxyType({})) -> str:
    """Returns the first thing in which a value differs from a type, as a clause; empty if there is none.

    Whole numbers must fit 64 bits, and tuples pass for lists. Keys that a dataclass or TypedDict does not have pass.

    Args:
        value: what the file holds.
        kind: the type.
        place: name of the value in the file, for the message: "training".
        names: meanings of names in the annotations of dataclasses that their module does not import.

    Returns:
        For instance "its 'training.images_seen' is 'many', expected a whole number", or "it has no 'training.extras'".
    """
    try:
        _check(value, kind, place, names)
    except _FaultError as fault:
        return str(fault)
    except RecursionError:  # Python reads JSON to a depth at which this check runs out of levels of calls
        return f"its '{shown(place) or 'content'}' is nested too deeply"
    return ""


def _check(value: Any, kind: Any, place: str, names: Mapping[str, Any]) -> None:
    # Types that are made of others.
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin is Annotated and arguments[1] is PLAIN:
        _check_json(value, place)
    elif origin is Annotated:
        _check(value, arguments[0], place, names)
        if not arguments[1].low <= value <= arguments[1].high:
            raise _fault(value, f"a number {arguments[1]}", place)
    elif origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return
        (only,) = (one for one in arguments if one is not types.NoneType)
        _check(value, only, place, names)
    elif origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _fault(value, " or ".join(map(repr, arguments)), place)
    elif origin is list:
        if not isinstance(value, list | tuple):
            raise _fault(value, "a list", place)
        for index, item in enumerate(value):
            _check(item, arguments[0], f"{place}[{index}]", names)
    elif origin is dict or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        _check_mapping(value, kind, place, names)
    else:
        _check_plain(value, kind, place)


def _check_mapping(value: Any, kind: Any, place: str, names: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        raise _fault(value, "a mapping", place)
    is_dict = typing.get_origin(kind) is dict
    key_kind = typing.get_args(kind)[0] if is_dict else str
    if odd := [key for key in value if type(key) is not key_kind]:
        raise _FaultError(f"its '{shown(place) or 'content'}' has the key {_found(odd[0])}, expected {WORDS[key_kind]}")
    prefix = f"{place}." if place else ""
    if is_dict:
        for key, item in value.items():
            _check(item, typing.get_args(kind)[1], f"{prefix}{key}", names)
        return
    for name, (item_kind, is_required) in _items_of(kind, names).items():
        if name in value:
            _check(value[name], item_kind, f"{prefix}{name}", names)
        elif is_required:
            raise _FaultError(f"it has no '{shown(prefix + name)}'")


def _items_of(kind: Any, names: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
    """Returns the type of each key of a dataclass or TypedDict, and whether the key must be there."""
    hints = typing.get_type_hints(kind, localns=dict(names), include_extras=True)
    if not dataclasses.is_dataclass(kind):
        required: frozenset[str] = kind.__required_keys__
        return {name: (hint, name in required) for name, hint in hints.items()}
    missing = dataclasses.MISSING
    return {
        item.name: (hints[item.name], item.default is missing and item.default_factory is missing)
        for item in dataclasses.fields(kind)
    }


def _check_plain(value: Any, kind: Any, place: str) -> None:
    if kind in (int, float):
        is_sound = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        is_sound &= not isinstance(value, int) or abs(value) < 2**63
    else:
        is_sound = isinstance(value, kind)
    if not is_sound:
        raise _fault(value, WORDS.get(kind) or f"a {kind.__name__.lower()}", place)


def _check_json(value: Any, place: str) -> None:
    if isinstance(value, dict):
        _check_mapping(value, dict[str, Plain], place, {})
    elif isinstance(value, list | tuple):
        _check(value, list[Plain], place, {})
    elif not (value is None or isinstance(value, bool | str)):
        _check_plain(value, float, place)


def _fault(value: Any, wanted: str, place: str) -> _FaultError:
    return _FaultError(f"its '{shown(place) or 'content'}' is {_found(value)}, expected {wanted}")


def _found(value: Any) -> str:
    """Names a value: numbers and texts by themselves, others by their type."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return str(value)
    if isinstance(value, str):
        return f"'{shown(value, LONGEST_VALUE)}'"
    return "a number of far too many digits" if isinstance(value, int) else f"a {type(value).__name__.lower()}"
