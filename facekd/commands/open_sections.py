"""Takes options for single keys of a config's open sections, such as `--base.data.train PATH` of a study.

An open section is a field of type `dict[str, Any]`: another verb defines its keys. jsonargparse knows of none, and
would put the value of `--base.data.train` in place of all that a file has below `base.data`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from facekd.commands.suggestions import did_you_mean
from facekd.errors import ConfigError
from facekd.utils.foreign import shown

KEY = r"[\w-]+(?:\.[\w-]+)*"
REFERENCE = re.compile(r"\{[\w@.-]+\}.*")  # the run of another method or a file below it, and no mapping


@dataclass(frozen=True)
class OpenOption:
    """Holds an option for one key of an open section.

    Args:
        field: the section's field, or that of the entries which the section belongs to.
        path: what stands between `field` and the value, dotted: the key; for entries their name and section before it.
        sections: for entries the names of their open sections; empty for none.
        value: the value.
    """

    field: tuple[str, ...]
    path: str
    sections: tuple[str, ...]
    value: Any

    @property
    def name(self) -> str:
        """Returns the option as it was written."""
        return f"--{'.'.join(self.field)}.{self.path}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Converts sections to dotted keys, so that what comes later overrides single keys, not whole sections."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def take_open_options(config_class: type, words: Sequence[str]) -> tuple[list[str], list[OpenOption]]:
    """Separates the options for single keys of open sections from the other words.

    Raises:
        ConfigError: an option has no value, or one that is not YAML.
    """
    known = list(_open_fields(config_class))
    others: list[str] = []
    found = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        option, has_value, text = word.partition("=")
        place = next((place for place in known if place[2].fullmatch(option)), None)
        if place is None:
            if any(not sections and option.startswith(f"--{'.'.join(field)}.") for field, sections, _ in known):
                raise ConfigError(f"{shown(option)} names no key: keys are of letters, digits, dots, - and _")
            others.append(word)
            continue
        if not has_value:
            if not waiting or waiting[-1].startswith("--"):
                raise ConfigError(f"{option}: expected a value after it")
            text = waiting.pop()
        field, sections, _ = place
        found.append(OpenOption(field, option[3 + len(".".join(field)) :], sections, _read_value(option, text)))
    if found and "--print_config" in words:
        raise ConfigError(f"{found[0].name}: --print_config shows the file and plain keys alone; leave one of them out")
    return others, found


def put_open_options(parsed: Any, options: Sequence[OpenOption]) -> None:
    """Writes the values of `take_open_options` into a parsed config, in place; other keys of the sections stay.

    Raises:
        ConfigError: an option is about an entry that there is not.
    """
    for option in options:
        *before, last = option.field
        place = parsed
        for name in before:
            place = place[name]
        key = option.path
        if option.sections:
            place, last, key = _in_entry(place[last], option)
        section = flatten(place[last] or {})
        _set(section, key, option.value)
        place[last] = section


def _in_entry(entries: Mapping[str, Any], option: OpenOption) -> tuple[Any, str, str]:
    """Returns the entry that an option is about, its section and the key; of names within names the longest counts."""
    for name in sorted(entries, key=len, reverse=True):
        for section in option.sections:
            if option.path.startswith(f"{name}.{section}."):
                return entries[name], section, option.path[len(name) + len(section) + 2 :]
    name = re.split("|".join(rf"\.{section}\." for section in option.sections), option.path)[0]
    names, where = [str(one) for one in entries], ".".join(option.field)
    raise ConfigError(
        f"{option.name}: there is no {shown(name)} in {where}{did_you_mean(name, names) or '.'} "
        f"There are {', '.join(map(shown, names))}"
    )


def _open_fields(
    config_class: type, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], re.Pattern[str]]]:
    """Yields each open section's field, or that of entries with their open sections, and what its options look like."""
    hints = get_type_hints(config_class)
    for item in fields(config_class):
        path = (*before, item.name)
        dotted = re.escape(".".join(path))
        if hints[item.name] in (dict[str, Any], dict[str, Any] | None):
            yield path, (), re.compile(rf"--{dotted}\.{KEY}")
        elif not callable(item.default_factory):
            continue
        elif "entries" in item.metadata:
            sections = tuple(one[0][0] for one in _open_fields(item.metadata["entries"]))
            if sections:
                yield path, sections, re.compile(rf"--{dotted}\.{KEY}\.(?:{'|'.join(sections)})\.{KEY}")
        elif is_dataclass(default := item.default_factory()):
            yield from _open_fields(type(default), path)


def _read_value(option: str, text: str) -> Any:
    """Reads a value as YAML; an empty one, and one that begins with a reference to a run, are texts."""
    import yaml

    from facekd.commands.yaml_files import load_yaml

    if not text or REFERENCE.fullmatch(text):
        return text
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{option}: not YAML: {shown(' '.join(str(error).split()), 200)}") from error
    if isinstance(value, dict):
        check_keys(option, value)
    return value


def check_keys(origin: str, section: dict[Any, Any], place: str = "") -> None:
    """Refuses keys that YAML does not read as text, such as 5, null and yes, texts that are no names, and keys twice.

    YAML finds no key twice that stands once in its section and once with dots; one of the two values would be lost.

    Args:
        origin: the file or option that they stand in, for messages.
        section: the keys with their values, which may be sections themselves.
        place: the key of the section; "" for the whole.

    Raises:
        ConfigError: such a key.
    """
    for key, value in section.items():
        where = f" below {shown(place)}" if place else ""
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: the key {shown(key)}{where} is no text: a key is a name; write it in quotes")
        if not re.fullmatch(r"[\w.-]+", key):
            raise ConfigError(f"{origin}: '{shown(key)}'{where} is no key: keys are of letters, digits, dots, - and _")
        if isinstance(value, dict):
            check_keys(origin, value, f"{place}.{key}" if place else key)
    if not place:
        counts = Counter(_whole_keys(section))
        for key in (key for key, count in counts.items() if count > 1):
            raise ConfigError(f"{origin}: {shown(key)} is there with dots and in its section; keep one of the two")


def _whole_keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _whole_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _set(section: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, or the keys of a mapping below it; what stands in the way gives way.

    An empty mapping, and what is no mapping, take the place of all keys below it.
    """
    is_mapping = isinstance(value, dict) and bool(value)
    items = flatten({key: value}) if is_mapping else {key: value}
    for name in items:
        for old in [old for old in section if f"{old}.".startswith(f"{name}.") or f"{name}.".startswith(f"{old}.")]:
            del section[old]
    if value != {}:
        section.update(items)
