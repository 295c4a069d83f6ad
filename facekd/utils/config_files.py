"""YAML files of sections and keys, for the verbs that build command lines from them (study, pipeline)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from facekd.training.config import ConfigError


def read_sections(path: Path) -> dict[str, Any]:
    """The content of a YAML file.

    Raises:
        ConfigError: no file, no YAML, or no keys in it.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; configs/ holds examples to start from")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return as_section(content, str(path))


def as_section(value: Any, where: str) -> dict[str, Any]:
    """A value that must be keys with values; nothing is an empty section."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: expected keys with values, found {value!r}")
    return value


def check_keys(value: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that does not exist, with the nearest that does."""
    known = list(known)
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}{key!r} is not a key here{hint(key, known)}; known: {', '.join(known)}")


def hint(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted keys: what comes later then overrides single keys, not whole sections."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found
