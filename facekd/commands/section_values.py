"""Checks values for whole sections on a command line, because jsonargparse would import what a text among them names.

The words of a study's runs come from its file, so that such a text may be a stranger's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from facekd.commands.open_sections import check_keys
from facekd.errors import ConfigError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import shown


def check_section_values(config_class: type, words: Sequence[str]) -> None:
    """Refuses a value for a section, or for a list or mapping of them, that is neither keys nor a file of keys.

    jsonargparse would take it for the name of a class.

    Args:
        config_class: the dataclass that the words are read into.
        words: of the command line, without the options that `take_open_options` takes, which may have any value.

    Raises:
        ConfigError: such a value, or a file that is no YAML.
        OSError: a file cannot be read.
    """
    sections = dict(_sections(config_class))
    for place, word in enumerate(words):
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            continue
        if not has_value:
            value = words[place + 1] if place + 1 < len(words) else ""
        if (section := sections.get(name)) is not None:
            _check_value(name, section, value)
        for field_name, section in sections.items():
            if "entries" in section.metadata and name.startswith(f"{field_name}."):
                _check_entry(name, field_name, section, value)


def refuse_code_keys(words: Sequence[str]) -> None:
    """Refuses options with a key of jsonargparse's own, behind which it imports and calls what a value names.

    Raises:
        ConfigError: such an option.
    """
    from facekd.commands.yaml_files import CODE_KEYS

    for name in (word.partition("=")[0] for word in words if word.startswith("--")):
        if code := {*name[2:].split(".")} & {*CODE_KEYS}:
            raise ConfigError(f"{shown(name)}: the key '{code.pop()}' would run code; facekd has no such key")


def _check_value(name: str, section: Field[Any], value: str) -> None:
    """Checks the value of `--SECTION`."""
    content = _content_of(name, value)
    if "entries" not in section.metadata:
        _require_keys(name, content)
    elif isinstance(content, dict | list):
        for entry in content.values() if isinstance(content, dict) else content:
            if not (isinstance(content, list) and section.metadata.get("path") and isinstance(entry, str)):
                _require_keys(name, entry)


def _check_entry(name: str, field_name: str, section: Field[Any], value: str) -> None:
    """Checks `--ENTRIES.NAME VALUE` and `--ENTRIES.NAME.KEY VALUE`, of which jsonargparse makes lists if it can."""
    rest = name[len(field_name) + 1 :]
    if rest == "help":
        return
    if isinstance(section.default, tuple):
        raise ConfigError(
            f"{shown(name)}: {field_name[2:]} is a list: give all of it by {field_name} '[...]', or in the YAML file"
        )
    entry, _, key = rest.rpartition(".")
    if not entry or key not in [item.name for item in fields(section.metadata["entries"])]:
        _require_keys(name, _content_of(name, value))


def _sections(config_class: type, prefix: str = "--") -> Iterator[tuple[str, Field[Any]]]:
    """Yields the option and field of each section, those within sections included."""
    for item in fields(config_class):
        name = prefix + item.name
        if "entries" in item.metadata:
            yield name, item
        elif callable(item.default_factory) and is_dataclass(default := item.default_factory()):
            yield name, item
            yield from _sections(type(default), f"{name}.")


def _content_of(option: str, value: str) -> Any:
    """Reads a value as jsonargparse does: a file of YAML, or YAML itself; what is neither is a text."""
    import yaml

    from facekd.commands.yaml_files import load_yaml, read_yaml

    path = Path(value)
    if value and os.path.lexists(path) and not path.is_dir():  # of a folder's name it makes a text
        require_regular_file(path)
        return read_yaml(path)
    try:
        return load_yaml(value)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{option[2:]}: not YAML that facekd reads: {shown(problem)}") from error


def _require_keys(option: str, content: Any) -> None:
    if not isinstance(content, dict):  # of anything else jsonargparse makes the name of a class
        raise ConfigError(
            f"{option[2:]}: expected a section of keys, not {shown(content)}: write {option}.KEY VALUE for a single "
            "one, and '{KEY: VALUE}' or a YAML file for several"
        )
    check_keys(option, content)
