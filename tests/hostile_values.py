"""Values of every kind that a stranger's file can hold, and how they are put into every place of a content."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facekd.backbones import Backbone
from facekd.backbones.backbone import scale_channels
from facekd.errors import FacekdError

ARCHITECTURE = {"name": "tiny", "embedding_size": 4, "image_size": 32, "width": 1.0, "dropout": 0.0}


class Tiny(Backbone):
    """The smallest network that ends as a face network does."""

    def __init__(self, name: str, embedding_size: int, image_size: int, width: float, dropout: float) -> None:
        super().__init__(name, embedding_size, image_size, width)
        channels = scale_channels(8, width)
        self.conv = nn.Conv2d(3, channels, 3, stride=image_size)
        self.linear = nn.Linear(channels, embedding_size, bias=False)
        self.norm = nn.BatchNorm1d(embedding_size)


Tiny.__module__ = "facekd.backbones.tiny"  # not a plug-in's


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Values of every kind that a file can hold; `...` means that the key is missing.
KINDS: dict[str, Any] = {
    "none": None,
    "true": True,
    "one": 1,
    "huge_number": 2**63 - 1,
    "negative": -1,
    "fraction": 1.5,
    "nan": float("nan"),
    "text": "text",
    "long_text": "\x1b[31m" + "x" * 100_000,
    "bytes": b"\xff\0",
    "list": [],
    "mixed_list": [1, "a", None],
    "deep_list": nested(90),
    "numbered": {1: 2, "a": {}},
    "mapping": {},
    "set": {1, 2},
    "pair": (1, 2),
    "scalar": torch.tensor(1.0),
    "matrix": torch.ones(2, 3),
    "whole": torch.ones(3, dtype=torch.int64),
    "complex": torch.ones(3, dtype=torch.complex64),
    "empty": torch.ones(0, 4),
    "infinite": torch.full((3, 4), torch.inf),
    "missing": ...,
}


def _as_json(value: Any) -> Any:
    """Returns a value as JSON brings it back; raises TypeError for what JSON cannot hold."""
    return value if value is ... else json.loads(json.dumps(value))


def _json_kinds() -> dict[str, Any]:
    kinds = {}
    for name, value in KINDS.items():
        with contextlib.suppress(TypeError):
            kinds[name] = _as_json(value)
    return {**kinds, "beyond_floats": 10**400}


JSON_KINDS = _json_kinds()


def places(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of each value within a content."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:1]))
    for key, item in items:
        yield (*prefix, key)
        yield from places(item, (*prefix, key))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Returns a copy of a content with another value at a place."""
    key, *rest = place
    copied = copy.copy(content)
    if rest:
        copied[key] = changed(content[key], tuple(rest), value)
    elif value is ...:
        del copied[key]
    else:
        copied[key] = value
    return copied


def changed_by(choices: bytes, content: Any, kinds: Mapping[str, Any] | None = None) -> Any:
    """Returns a copy of a content in which up to four places are changed as the bytes say, two for each change.

    Args:
        choices: the bytes: a place, and one of the kinds of values.
        content: dicts and lists.
        kinds: the values, by name; None takes `KINDS`.
    """
    kinds = KINDS if kinds is None else kinds
    names = sorted(kinds)
    for place, kind in zip(choices[:8:2], choices[1:8:2], strict=False):
        found = list(places(content))
        if not found:
            break
        content = changed(content, found[place % len(found)], kinds[names[kind % len(names)]])
    return content


def check_ends_in_a_sentence(read: Callable[[Path], Any], path: Path, what: str) -> bool:
    """Reads a file; returns whether it was accepted."""
    try:
        read(path)
    except FacekdError as error:
        message = str(error)
        assert path.name in message, f"{what}: does not name the file: {message}"
        assert len(message) < 1000 and "\n" not in message, f"{what}: not one sentence: {message}"
        return False
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return True
