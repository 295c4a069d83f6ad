"""Values of strangers' files are compared with types, and what differs is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal, TypedDict

import pytest

from facekd.utils.typed_values import Plain, Range, find_fault


class Options(TypedDict, total=False):
    share: Annotated[float, Range(0, 1)]
    kind: Literal["margin", "linear"]


@dataclasses.dataclass
class Content:
    count: Annotated[int, Range(1)]
    names: list[str] = dataclasses.field(default_factory=list)
    options: Options | None = None
    sizes: dict[int, list[float]] | None = None
    config: dict[str, Plain] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"names": ("a", "b"), "options": None},
        {"options": {"share": 1, "kind": "linear", "unknown": object()}},
        {"sizes": {3: [1, 2.5, float("nan")]}, "unknown": object()},
        {"config": {"a": [None, True, 1, 2.5, "x", {"b": ()}]}},
    ],
)
def test_values_of_their_types_pass(changes: dict[str, Any]) -> None:
    assert find_fault({"count": 3, **changes}, Content) == ""


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"count": ...}, "it has no 'part.count'"),
        ({"count": True}, "its 'part.count' is True, expected a whole number"),
        ({"count": 0}, "its 'part.count' is 0, expected a number 1 or more"),
        ({"count": 2**63}, "its 'part.count' is a number of far too many digits, expected a whole number"),
        ({"count": 1.0}, "its 'part.count' is 1.0, expected a whole number"),
        ({"names": "abc"}, "its 'part.names' is 'abc', expected a list"),
        ({"names": ["a", b"b"]}, "its 'part.names[1]' is a bytes, expected a text"),
        ({"options": []}, "its 'part.options' is a list, expected a mapping"),
        ({"options": {"share": float("nan")}}, "its 'part.options.share' is nan, expected a number from 0 to 1"),
        ({"options": {"kind": ["margin"]}}, "its 'part.options.kind' is a list, expected 'margin' or 'linear'"),
        ({"options": {"kind": "m" * 999}}, "more characters"),
        ({"sizes": {"3": [1]}}, "its 'part.sizes' has the key '3', expected a whole number"),
        ({"sizes": {3: [None]}}, "its 'part.sizes.3[0]' is None, expected a number"),
        ({"config": {"a": {"b": {1}}}}, "its 'part.config.a.b' is a set, expected a number"),
        ({"config": {"\x1b[31m": b""}}, "its 'part.config.\\x1b[31m' is a bytes"),
        ({3: 4}, "its 'part' has the key 3, expected a text"),
        ({"config": json.loads('{"a":' + "[" * 600 + "]" * 600 + "}")}, "its 'part' is nested too deeply"),
    ],
)
def test_what_differs_is_named(changes: dict[Any, Any], fault: str) -> None:
    content = {name: value for name, value in {"count": 3, **changes}.items() if value is not ...}
    found = find_fault(content, Content, "part")
    assert fault in found and len(found) < 300
