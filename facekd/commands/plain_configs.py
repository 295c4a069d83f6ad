"""Converts configs to plain values and YAML, as checkpoints and run folders hold them, and compares two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from facekd.commands.config_files import protect_path


def to_plain(config: Any) -> dict[str, Any]:
    """Converts a config to nested dicts and lists of plain values, as checkpoints and YAML hold it."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def to_yaml(config: Any) -> str:
    """Writes a config as YAML that `parse_config` reads back; its paths are expanded, and mean the same anywhere."""
    import yaml

    plain = to_plain(config)
    _change_paths(plain, type(config), protect_path)
    return yaml.safe_dump(plain, sort_keys=False)


def without_paths(config: Any) -> dict[str, Any]:
    """Converts a config to plain values like `to_plain`, with `path` for each path that is set."""
    plain = to_plain(config)
    _change_paths(plain, type(config), lambda path: "path" if path else "")
    return plain


def _change_paths(plain: dict[str, Any], config_class: type, change: Callable[[str], str]) -> None:
    """Replaces, in place, the paths of a plain config by what `change` returns for each."""
    for item in fields(config_class):
        value = plain[item.name]
        if item.metadata.get("path"):
            plain[item.name] = change(value) if isinstance(value, str) else [change(one) for one in value]
        elif "entries" in item.metadata and isinstance(value, list):
            for entry in value:
                _change_paths(entry, item.metadata["entries"], change)
        elif callable(item.default_factory) and is_dataclass(default := item.default_factory()):
            _change_paths(value, type(default), change)


def with_defaults(plain: dict[str, Any], config_class: type) -> dict[str, Any]:
    """Completes a plain config that was written before some keys existed; the defaults are what it meant then."""
    found = dict(plain)
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            section = found.get(item.name, {})  # what is no section differs from one, which `differences` tells
            found[item.name] = with_defaults(section, type(default)) if isinstance(section, dict) else section
        elif item.name not in found:
            found[item.name] = _plain(default)
        elif "entries" in item.metadata and isinstance(found[item.name], list):
            entries = found[item.name]
            found[item.name] = [
                with_defaults(e, item.metadata["entries"]) if isinstance(e, dict) else e for e in entries
            ]
    return found


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys at which two plain configs differ, with both values; an absent key counts as None."""
    found = {}
    for key in {**old, **new}:
        before, after = (_numbered(plain.get(key)) for plain in (old, new))
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = (before, after)
    return found


def _numbered(value: Any) -> Any:
    """Turns a list of sections into a section of them by number."""
    is_list = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return {str(number): item for number, item in enumerate(value)} if is_list else value
