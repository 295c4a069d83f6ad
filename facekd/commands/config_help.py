"""Prints the short help of a verb that is set by a config: the keys most people set, on one screen."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from facekd.utils.wording import counted

WIDTH = 80


def show_short_help(
    argv: Sequence[str] | None,
    config_class: type,
    prog: str,
    description: str,
    main_keys: Mapping[str, str],
    notes: str,
) -> list[str]:
    """Prints the short help and exits where `--help` asks for it.

    Args:
        argv: words of the command line; None takes those of this process.
        config_class: the config's dataclass.
        prog: the command as the user types it.
        description: what it does.
        main_keys: dotted keys to show, each with one plain line; choices and defaults are added.
        notes: examples and advice, printed below the keys.

    Returns:
        The words, for `parse_config`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if "-h" in words or "--help" in words:
        print(short_help(config_class, prog, description, main_keys, notes))
        raise SystemExit(0)
    return words


def take_switch(words: Sequence[str], switch: str) -> tuple[list[str], bool]:
    """Returns the words without a switch that is no key of the configuration, and whether it was among them."""
    return [word for word in words if word != switch], switch in words


def short_help(config_class: type, prog: str, description: str, main_keys: Mapping[str, str], notes: str) -> str:
    """Returns the text that `show_short_help` prints."""
    leaves = leaf_defaults(config_class)
    lines = [f"usage: {prog} CONFIG.yaml [--key value ...]", "", description, ""]
    lines += [
        "A key is a line of CONFIG.yaml or an option; options win. Paths take ~ and $VAR.",
        "What most people set, with defaults in brackets:",
    ]

    # One row per key: its plain line, its choices, its default.
    indent = 2 + max(len(f"--{key}") for key in main_keys) + 2
    for key, what in main_keys.items():
        choices, default = leaves[key]
        listed = ", ".join(choices)
        parts = [what, f"({listed})" if what and choices else listed, f"[{_shown(default)}]" if default else ""]
        wrapped = textwrap.wrap(" ".join(filter(None, parts)), WIDTH - indent)
        lines.append(f"  --{key}".ljust(indent) + wrapped[0])
        lines += [" " * indent + line for line in wrapped[1:]]

    more = f"`{prog} --help-all` lists all {counted(len(leaves), 'key')} by section;"
    return "\n".join([*lines, "", more, "`--print_config` prints them as YAML.", "", notes.strip()])


def leaf_defaults(config_class: type, prefix: str = "") -> dict[str, tuple[tuple[str, ...], Any]]:
    """Returns each dotted key that holds a value, not a section: its choices, if they are few, and its default."""
    hints = get_type_hints(config_class)
    found: dict[str, tuple[tuple[str, ...], Any]] = {}
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            found |= leaf_defaults(type(default), f"{prefix}{item.name}.")
        else:
            choices = get_args(hints[item.name]) if get_origin(hints[item.name]) is Literal else ()
            found[prefix + item.name] = (choices, default)
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
