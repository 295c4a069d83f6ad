"""Collects what another trainer's configuration becomes here, and writes it as YAML with its differences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from facekd.commands.config_files import protect_path
from facekd.errors import ConfigError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

WIDTH = 120


@dataclass
class Translation:
    """Holds the configuration of `facekd train` that does what another trainer's did.

    Attributes:
        source: the file or command that it is made from, for messages.
        trainer: whose it is: "arcface_torch".
        values: by dotted key.
        comments: what stands behind a value, by dotted key.
        differences: what is not exactly the same here.
        left_out: their keys without a counterpart, with the reason.
    """

    source: str
    trainer: str
    values: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        """Gives a key of facekd its value, and a comment."""
        self.values[key] = value
        if comment:
            self.comments[key] = comment

    def set_path(self, key: str, value: str | list[str], comment: str = "") -> None:
        """Gives a key that holds paths its value, in which nothing is expanded."""
        self.set(key, protect_path(value) if isinstance(value, str) else [protect_path(one) for one in value], comment)

    def to_yaml(self) -> str:
        """Returns the configuration as YAML, under a comment that says what differs and what was left out."""
        lines = [f"# Made by `facekd import-config` from {shown(self.source)}, a configuration of {self.trainer}."]
        for title, notes in (("Not the same here:", self.differences), ("Left out:", self._left_out_lines())):
            if notes:
                lines.append(f"# {title}")
                for note in notes:
                    lines += textwrap.wrap(
                        note, WIDTH, initial_indent="#   - ", subsequent_indent="#     ", break_long_words=False
                    )
        # Plain keys and sections, each in the order of its first key.
        sections: dict[str, list[str]] = {}
        for key, value in self.values.items():
            section, _, name = key.rpartition(".")
            line = f"{'  ' if section else ''}{name}: {_to_text(value)}"
            commented = f"{line:<34}  # {self.comments[key]}" if key in self.comments else line
            sections.setdefault(section or key, [f"{section}:"] if section else []).append(commented)
        lines += [line for section in sections.values() for line in section]
        return "\n".join(lines) + "\n"

    def describe(self) -> str:
        """Says on the terminal what differs and what was left out."""
        lines = []
        for title, notes in (("not the same here:", self.differences), ("left out:", self._left_out_lines())):
            lines += [title, *(f"  {note}" for note in notes)] if notes else []
        return "\n".join(lines)

    def _left_out_lines(self) -> list[str]:
        keys_of: dict[str, list[str]] = {}
        for key, why in self.left_out.items():
            keys_of.setdefault(why, []).append(shown(key))
        return [f"{', '.join(keys)}: {why}" for why, keys in keys_of.items()]


def _to_text(value: Any) -> str:
    """Writes a plain value in one line of YAML."""
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
        .removesuffix("\n...\n")
        .strip()
    )


class Given:
    """Holds the values of another trainer's configuration, checks them when they are taken, and knows which were not.

    Args:
        values: by key, in plain types.
        defaults: what the trainer takes where none is given.
        where: the file or command, for messages.
        prefix: what stands before a key, for messages: "config.".
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str, prefix: str) -> None:
        self._values, self._defaults, self._where, self._prefix = values, defaults, where, prefix
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str) -> Any:
        """Returns the value of a key, or its default; None without either."""
        self._taken.add(key)
        return self._values.get(key, self._defaults.get(key))

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float:
        """Returns a number in a range.

        Raises:
            ConfigError: it is another value, or none.
        """
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            limits = f" from {least:g}" if least > -math.inf else ""
            limits += f" to {most:g}" if most < math.inf else ""
            raise self.fault(key, f"a number{limits}")
        return value

    def whole(self, key: str, least: int = 0, most: int = 10**12) -> int:
        """Returns a whole number in a range; see `number`."""
        value = self.number(key, least, most)
        if value != int(value):
            raise self.fault(key, "a whole number")
        return int(value)

    def text(self, key: str, choices: Collection[str] = ()) -> str:
        """Returns a text, which must be one of `choices` if there are any.

        Raises:
            ConfigError: it is another value, or none.
        """
        value = self.take(key)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.fault(key, f"one of {', '.join(choices)}" if choices else "a text")
        return value

    def flag(self, key: str) -> bool:
        """Returns True or False.

        Raises:
            ConfigError: it is another value.
        """
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.fault(key, "True or False")
        return value

    def numbers(self, key: str, count: int | None = None) -> list[float]:
        """Returns a list of numbers, of a given length.

        Raises:
            ConfigError: it is another value.
        """
        value = self.take(key)
        is_list = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
        if not is_list or len(value) != (count or len(value)):
            raise self.fault(key, counted(count, "number") if count else "a list of numbers")
        return value

    def fault(self, key: str, expected: str) -> ConfigError:
        """Returns the error of a value that is not what it should be."""
        value = self._values.get(key, self._defaults.get(key))
        found = f"is {shown(repr(value), 60)}" if key in self._values or key in self._defaults else "is not set"
        return ConfigError(f"{self._where}: {self._prefix}{key} {found}: expected {expected}")

    def rest(self) -> list[str]:
        """Returns the keys that were given and not taken."""
        return [key for key in self._values if key not in self._taken]
