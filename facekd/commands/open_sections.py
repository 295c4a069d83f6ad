"""Takes options for single keys of a config's open sections, such as `--base.data.train PATH` of a study.

An open section is a field of type `dict[str, Any]`: another verb defines its keys. jsonargparse knows of none, and
would put the value of `--base.data.train` in place of all that a file has below `base.data`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from facekd.commands.suggestions import did_you_mean
from facekd.errors import ConfigError
from facekd.utils.foreign import shown

REFERENCE = re.compile(r"\{[\w@.-]+\}")  # the run of another method, which is no mapping


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Converts sections to dotted keys, so that what comes later overrides single keys, not whole sections."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def take_open_options(config_class: type, words: Sequence[str]) -> tuple[list[str], dict[tuple[str, ...], Any]]:
    """Separates the options for single keys of open sections from the other words.

    Returns:
        The other words; and the sections' values by the path to the section, such as ("methods", "alone", "config"),
        each a mapping of dotted keys.

    Raises:
        ConfigError: an option has no value, or one that is not YAML.
    """
    patterns = [re.compile(rf"--{pattern}\.(?P<key>[\w.-]+)") for pattern in _sections(config_class)]
    others: list[str] = []
    found: dict[tuple[str, ...], Any] = {}
    waiting = iter(words)
    for word in waiting:
        option, has_value, text = word.partition("=")
        match = next((match for pattern in patterns if (match := pattern.fullmatch(option))), None)
        if match is None:
            others.append(word)
            continue
        text = text if has_value else next(waiting, None)
        if text is None:
            raise ConfigError(f"{option}: expected a value after it")
        section = found.setdefault(_path_of(match), {})
        _set(section, match["key"], _read_value(option, text))
    return others, found


def put_open_options(parsed: Any, options: Mapping[tuple[str, ...], Mapping[str, Any]]) -> None:
    """Writes the values of `take_open_options` into a parsed config, in place; other keys of the sections stay.

    Raises:
        ConfigError: an option is about an entry that there is not.
    """
    for path, values in options.items():
        place = parsed
        for depth, name in enumerate(path[:-1]):
            if name not in place:
                where, names = ".".join(path[:depth]), [str(one) for one in place]
                raise ConfigError(
                    f"--{shown('.'.join(path))}: there is no {shown(name)} in {where}"
                    f"{did_you_mean(name, names) or '.'} There are {', '.join(map(shown, names))}"
                )
            place = place[name]
        section = flatten(place[path[-1]] or {})
        for key, value in values.items():
            _set(section, key, value)
        place[path[-1]] = section


def _sections(config_class: type, before: str = "") -> Iterator[str]:
    """Yields a pattern of the dotted path to each open section; names of entries are groups of it."""
    hints = get_type_hints(config_class)
    for item in fields(config_class):
        path = before + item.name
        if hints[item.name] in (dict[str, Any], dict[str, Any] | None):
            yield path
        elif not callable(item.default_factory):
            continue
        elif "entries" in item.metadata:  # their names may have dots, too
            yield from _sections(item.metadata["entries"], rf"{path}\.(?P<name>.+?)\.")
        elif is_dataclass(default := item.default_factory()):
            yield from _sections(type(default), rf"{path}\.")


def _path_of(match: re.Match[str]) -> tuple[str, ...]:
    """Returns the path to the section that an option names, the name of an entry as one part of it."""
    path = match.string[2 : match.start("key") - 1]
    if not (name := match.groupdict().get("name")):
        return tuple(path.split("."))
    before, after = path[: match.start("name") - 3], path[match.end("name") - 1 :]
    return (*before.split("."), name, *after.split("."))


def _read_value(option: str, text: str) -> Any:
    import yaml

    from facekd.commands.yaml_files import load_yaml

    if REFERENCE.fullmatch(text):
        return text
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{option}: not YAML: {shown(' '.join(str(error).split()), 200)}") from error


def _set(section: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, or all keys of a mapping below it; what stood at the key, above it or below it gives way."""
    for name, item in flatten({key: value}).items():
        for old in [old for old in section if f"{old}.".startswith(f"{name}.") or f"{name}.".startswith(f"{old}.")]:
            del section[old]
        section[name] = item
